"""One fit over Dask workers has the bits of the same fit on threads, or is refused by name."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from train_command import CLASSES, only_folder, probe
from train_factories import SplitData, features, stored_dataset

from linprobe.errors import DataError, LinprobeError, OptionError, ProbeError
from linprobe_store.arrays.mapping import let_go
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore
from linprobe_train.api import fit_probe, sweep
from linprobe_train.protocol.protocols import DEFAULT, parse_grid
from linprobe_train.readers import choose, remote
from linprobe_train.readers import crew as crews
from linprobe_train.readers.crew import ClusterCrew
from linprobe_train.results.saved_probe import load_probe
from linprobe_train.solver.fit import FitSettings
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import crew_of, joined
from linprobe_train.solver.reads.stored import stored_rows
from linprobe_train.solver.rows import rows_of_array, rows_of_split

distributed = pytest.importorskip("distributed", reason="needs the extra cluster")

Cluster = Any
FEW_STEPS = Tolerance(max_iter=3)
STREAMED = FitSettings(streamed=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two workers."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as made:
        yield made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    X, y = features(4200, 16, len(CLASSES), noise=1.5)
    parts = {"train": slice(0, 3200), "val": slice(3200, 3800), "test": slice(3800, 4200)}
    splits = {name: SplitData(X[part], y[part]) for name, part in parts.items()}
    folder = tmp_path_factory.mktemp("rows") / "features"
    stored_dataset(folder, splits, classes=CLASSES)
    return folder


@pytest.fixture
def train(store: Path) -> Split:
    return FeatureStore(store).split("train")


def over(cluster: Cluster) -> FitSettings:
    return FitSettings(workers=cluster.scheduler_address, even_if_slower=True)


def bits_of(train: Split, settings: FitSettings) -> bytes:
    settings = replace(settings, standardize=True, balanced=True)
    probe, _ = fit_probe(train, C=0.01, settings=settings, tolerance=FEW_STEPS)
    return probe.coef.tobytes() + probe.intercept.tobytes()


def refusal(train: Split, settings: FitSettings) -> LinprobeError:
    with pytest.raises(OptionError) as refused:
        fit_probe(train, C=0.01, settings=settings, tolerance=FEW_STEPS)
    return refused.value


def in_each(cluster: Cluster, work: Any) -> dict[str, Any]:  # noqa: ANN401
    with distributed.Client(cluster, set_as_default=False) as client:
        given: dict[str, Any] = client.run(work)
        return given


def test_coefficients_are_the_same_bits_over_workers_and_when_one_is_killed_in_a_pass(
    train: Split, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bits_of(train, STREAMED)
    pids, passes = list(in_each(cluster, os.getpid).values()), 0
    wait = ClusterCrew._result

    def kill_in_a_pass(self: ClusterCrew, future: Any) -> object:  # noqa: ANN401
        nonlocal passes
        passes += 1
        if passes == 7:
            os.kill(pids[0], signal.SIGKILL)
        return wait(self, future)

    assert bits_of(train, over(cluster)) == expected
    monkeypatch.setattr(ClusterCrew, "_result", kill_in_a_pass)
    assert bits_of(train, over(cluster)) == expected
    assert passes > 7


def test_the_command_over_workers_chooses_the_same_C_and_gives_the_same_bits(
    store: Path, cluster: Cluster, tmp_path: Path
) -> None:
    grid = "--grid", "0.001,0.01"
    splits = (FeatureStore(store).split(name) for name in ("train", "val"))
    protocol = DEFAULT.changed(grid=parse_grid(None, "0.001,0.01"))
    here = sweep(next(splits), val=next(splits), protocol=protocol, settings=STREAMED)
    (tmp_path / "features").symlink_to(store)
    workers = "--workers", cluster.scheduler_address, "--even-if-slower"
    probe(tmp_path, *grid, *workers)
    saved = load_probe(only_folder(tmp_path))

    assert saved.card.C == here.fit.C
    assert saved.probe.coef.tobytes() == here.probe.coef.tobytes()


def test_what_one_machine_does_faster_is_refused_with_the_seconds_of_a_pass(
    train: Split, cluster: Cluster
) -> None:
    refused = refusal(train, replace(over(cluster), even_if_slower=False))

    assert re.search(
        r"a pass takes about \S+ s here on 1 threads, and over 2 workers", str(refused)
    )
    assert "--even-if-slower" in refused.hint


def test_a_worker_without_the_store_or_with_another_digest_of_the_split_is_refused_by_name(
    train: Split, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named = r"worker tcp://\S+ on \S+: "
    with monkeypatch.context() as patch:
        patch.setattr(type(train), "digest", "0" * 64)
        refused = refusal(train, over(cluster))
        assert re.match(
            named + r"\S+/train: expected the split of digest 0{12}, found", str(refused)
        )
        assert "copy the store" in refused.hint
    elsewhere = replace(train, path=tmp_path / "enc-a" / "sets" / "ds-b" / "train")
    assert re.match(named + f".*{tmp_path}", str(refusal(elsewhere, over(cluster))))


def test_a_worker_of_another_version_or_with_another_arithmetic_is_refused_by_name(
    train: Split, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = remote.identity()
    for name, value in (("linprobe", "0.0.1"), ("numpy", "1.0"), ("arithmetic", "x")):
        other = replace(own, **{name: value})
        monkeypatch.setattr(choose, "identity", lambda other=other: other)
        refused = refusal(train, over(cluster))
        found = getattr(own, name)
        assert re.match(rf"worker tcp://\S+ on \S+: .*{value}, found {found}", str(refused))


def test_coefficients_are_the_same_bits_over_a_single_worker_and_none_is_waited_for_ever(
    train: Split, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bits_of(train, STREAMED)
    monkeypatch.setattr(crews, "WAIT", 0.05)
    wait = ClusterCrew._result

    def lose_all(self: ClusterCrew, future: Any) -> object:  # noqa: ANN401
        cluster.scale(0)
        wait_until(lambda: not self.client.nthreads())
        return wait(self, future)

    cluster.scale(1)
    wait_until(lambda: len(cluster.scheduler_info["workers"]) == 1)
    assert bits_of(train, over(cluster)) == expected
    monkeypatch.setattr(ClusterCrew, "_result", lose_all)
    with pytest.raises(ProbeError, match="no worker is left"):
        fit_probe(train, C=0.01, settings=over(cluster))


def wait_until(reached: Any) -> None:  # noqa: ANN401
    until = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_rows_of_an_array_and_scikit_learn_are_not_sent_to_workers() -> None:
    X, y = features(40, 4, 2)
    with pytest.raises(DataError, match="in this process alone"):
        stored_rows(rows_of_array(X, y, 2))
    with pytest.raises(OptionError, match="one process"):
        FitSettings(workers=2, solver="sklearn")


def test_rows_that_travelled_are_the_same_rows(store: Path) -> None:
    train, val = (
        rows_of_split(FeatureStore(store).split(s), "embedding") for s in ("train", "val")
    )
    keep = np.random.default_rng(0).random(train.n + val.n) < 0.3
    fitted = np.array([1, 3])
    rows = train.join(val).select(keep & np.isin(np.append(train.labels, val.labels), fitted))
    rows = replace(rows.numbered(fitted), weights=np.arange(rows.n, dtype=float))
    came = pickle.loads(pickle.dumps(stored_rows(rows))).open()  # as Dask does

    assert len(pickle.dumps(stored_rows(rows))) < 12 * rows.n + 2000
    assert [rows.n for rows in (came, *dict(came.lanes).values())] == [
        rows.n for rows in (rows, *dict(rows.lanes).values())
    ]
    for array in ("labels", "weights", "fitted"):
        assert np.array_equal(getattr(came, array), getattr(rows, array))
    every = np.arange(rows.n)
    assert np.array_equal(came.gather(every), rows.gather(every))


def test_pages_that_were_read_do_not_stay_in_the_memory_of_a_worker(tmp_path: Path) -> None:
    """Dask stops and kills by resident memory: a store larger than a limit must pass through."""
    np.save(tmp_path / "x.npy", np.ones((4096, 1024), np.float32))
    rows = np.load(tmp_path / "x.npy", mmap_mode="r")

    def mapped() -> int:
        (line,) = re.findall(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(line)

    before = mapped()
    total = rows.sum()
    assert mapped() - before > rows.nbytes / 2
    let_go(rows[:2048].view(np.ndarray))
    let_go(rows[2048:].view(np.ndarray))
    assert mapped() - before < rows.nbytes / 8
    assert rows.sum() == total


@given(st.integers(1, 64), st.integers(0, 6))
def test_leaves_are_branches_of_the_tree(lanes: int, height: int) -> None:
    each = 1 << height
    names = [str(i) for i in range(lanes)]
    leaves = [joined(names[i : i + each], paired) for i in range(0, lanes, each)]

    assert joined(leaves, paired) == joined(names, paired)


def paired(one: str, other: str) -> str:
    return f"({one} {other})"


def test_a_worker_with_too_little_memory_is_refused_by_name(train: Split) -> None:
    rows = rows_of_split(train, "embedding")
    poor = remote.Facts("tcp://a:1", "b", 2, 10**8, 9 * 10**7)
    with crew_of(1) as crew:
        over_one = ClusterCrew(1, crew.pool, None, "", remote.identity(), (poor,), None, True)
        with pytest.raises(OptionError, match=r"worker tcp://a:1 on b: .* its limit is 100 MB"):
            over_one.weigh(rows, 4, normalize=True)


def test_dask_is_imported_only_where_it_is_asked_for() -> None:
    code = "import sys, linprobe_train.tasks.probe; print('distributed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
