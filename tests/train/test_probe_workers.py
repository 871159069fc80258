"""``probe --all --workers``: the faults of Dask workers and their scheduler, each told by name."""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from dask_workers import Client, faulty_probe, hide, scheduler_process, unhide
from result_factories import CLASSES, command, some_splits
from train_factories import SplitData, stored_dataset

from linprobe.errors import ProbeError
from linprobe.terminal import Progress, Watch, ignore
from linprobe_train.cluster import members, preflight
from linprobe_train.cluster.dispatch import Dispatch, Work
from linprobe_train.cluster.members import Members
from linprobe_train.cluster.preflight import Member, look_around, site_of
from linprobe_train.protocol.protocols import DEFAULT, list_grid
from linprobe_train.solver.fit import FitSettings
from linprobe_train.tasks import probe_all
from linprobe_train.tasks.grid import list_tasks
from linprobe_train.tasks.probe import Recipe
from linprobe_train.tasks.probe_all import Pool

distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
RECIPE = Recipe(DEFAULT.changed(grid=list_grid(1.0)), FitSettings())
HOST = socket.gethostname()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers of one thread each, which their nannies replace."""
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="1GB",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two encoders on one dataset."""
    folder = tmp_path_factory.mktemp("filled")
    fill(folder, "one", "two")
    return folder


@pytest.fixture
def root(filled: Path, tmp_path: Path) -> Path:
    """A copy of it, for a test to write to."""
    shutil.copytree(filled / "features", tmp_path / "features")
    return tmp_path


def fill(root: Path, *models: str) -> None:
    """A dataset by each encoder; that of ``bad`` has a single class."""
    for i, model in enumerate(models):
        splits = some_splits(40, noise=1.0 + i)
        if model == "bad":
            splits["train"] = SplitData(splits["train"].features, np.zeros(40, np.int64))
        stored_dataset(root / "features", splits, classes=CLASSES, model=model)


class Run:
    """All probes of a store on workers: outcomes by encoder, and the lines that were told."""

    def __init__(self, root: Path, address: str, watch: Watch = ignore) -> None:
        self.lines: list[str] = []

        def remember(progress: Progress) -> None:
            self.lines.append(progress.line)
            watch(progress)

        store, pool = root / "features", Pool(workers=address)
        tasks = list_tasks(store, None, ()).tasks
        outcomes = probe_all.probe_all(store, tasks, RECIPE, root / "results", pool, remember)
        self.outcomes = {outcome.task.encoder: outcome for outcome in outcomes}
        self.left_out = [line for line in self.lines if line.startswith("left out")]


def pair_of(client: Client) -> tuple[str, str]:
    """Both workers, once those that a test has killed are replaced."""
    client.wait_for_workers(2, timeout=60)
    first, second = client.nthreads()
    return first, second


def address_of(client: Client) -> str:
    return str(client.scheduler.address)


def test_workers_give_what_this_machine_gives(root: Path, client: Client) -> None:
    run = Run(root, address_of(client))
    words = ["--store", str(root / "features"), "--out", str(root / "results"), "--C", "1"]
    again = json.loads(command("probe", "--all", *words, "--jobs", "1", "--json"))["probes"]

    assert [outcome.state for outcome in run.outcomes.values()] == ["done"] * 2
    assert any(f"[2/2] {m} on toys: done ({HOST})" in run.lines[-1] for m in ("one", "two"))
    assert [one["fresh"] for one in again] == [False] * 2
    assert {path.name for path in (root / "results").iterdir()} == {
        Path(one["folder"]).name for one in again
    }, "notes of workers are gone"


def test_what_kills_its_worker_or_loses_its_result_is_a_failed_row_with_its_host(
    root: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_all, "SEEN_SECONDS", 0.1)
    fill(root, "killer", "ghost", "bad")
    client.register_plugin(faulty_probe())
    run = Run(root, address_of(client))
    client.unregister_worker_plugin("faults")

    states = {model: outcome.state for model, outcome in run.outcomes.items()}
    assert states == {"one": "done", "two": "done", **dict.fromkeys(FAULTY, "failed")}
    for model, (problem, tries) in FAULTY.items():
        outcome = run.outcomes[model]
        assert problem in str(outcome.problem)
        assert outcome.host == ", ".join([HOST] * tries)


FAULTY = {
    "killer": ("its worker died while it ran", 2),
    "ghost": ("is not there", 1),
    "bad": ("expected at least two classes", 1),
}
"""What is said of each, and how often it is tried."""


@pytest.mark.parametrize(
    ("folder", "why"), [("features", "cannot read"), ("results", "cannot write to")]
)
def test_a_worker_without_the_store_or_the_results_is_left_out_by_name(
    root: Path, client: Client, folder: str, why: str
) -> None:
    blind, sound = pair_of(client)
    hide(client, blind, root / folder)
    run = Run(root, address_of(client))
    assert [outcome.state for outcome in run.outcomes.values()] == ["done"] * 2
    (line,) = run.left_out
    assert f"{blind} on {HOST}" in line
    assert why in line
    assert str(root / folder) in line

    hide(client, sound, root / folder)
    with pytest.raises(ProbeError, match="no worker is fit for work") as caught:
        Run(root, address_of(client))
    assert f"{sound} on {HOST}" in caught.value.message
    assert "run this again" in caught.value.hint
    unhide(client)


def test_a_worker_of_another_version_is_left_out(
    root: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "version", lambda name: "9.9")
    with pytest.raises(ProbeError, match=r"has linprobe \S+, this machine 9\.9"):
        Run(root, address_of(client))


def test_a_note_that_is_not_seen_here_makes_a_worker_unfit(
    root: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "SEEN_SECONDS", 0.1)
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(ProbeError, match=r"what it writes to \S+results is not seen here"):
        Run(root, address_of(client))


def test_a_worker_that_loses_its_disk_meanwhile_swallows_no_task(
    root: Path, client: Client
) -> None:
    victim, other = pair_of(client)

    def work(job: int, address: str, folder: str) -> bool:
        import sys

        if address == victim:
            sys.hidden_folder = folder  # type: ignore[attr-defined]
        return bool(address != victim)

    hide(client, victim, root / "nothing")
    with site_of(root / "features", root / "results") as site:
        lines: list[str] = []
        these = Members(client, site, lambda progress: lines.append(progress.line))
        jobs: Work[int, bool] = Work(
            work,
            lambda job, worker: (job, worker.address, str(root / "features")),
            lambda worker: 1,
            bool,
        )
        ended = list(Dispatch(client, these, jobs).run(range(8)))
    unhide(client)
    assert sorted(one.job for one in ended) == list(range(8))
    assert all(one.result for one in ended)
    assert sum(len(one.hosts) == 2 for one in ended) == 1
    assert [line for line in lines if line.startswith(f"left out: the worker {victim}")]
    assert other in these.fit


@pytest.mark.parametrize(("at_once", "overlaps"), [(1, False), (None, True)])
def test_so_many_jobs_run_at_once(
    root: Path, client: Client, at_once: int | None, overlaps: bool
) -> None:
    def work(job: int) -> tuple[float, float]:
        import time

        start = time.monotonic()
        time.sleep(0.2)
        return start, time.monotonic()

    pair_of(client)
    with site_of(root / "features", root / "results") as site:
        jobs: Work[int, tuple[float, float]] = Work(
            work, lambda job, worker: (job,), lambda worker: 1, bool
        )
        dispatch = Dispatch(client, Members(client, site, ignore), jobs, at_once)
        spans = sorted(one.result for one in dispatch.run(range(4)) if one.result)
    overlap = [late[0] < early[1] for early, late in pairwise(spans)]
    assert any(overlap) == overlaps


def test_memory_of_a_task_is_its_share_of_the_workers(root: Path, client: Client) -> None:
    with site_of(root / "features", root / "results") as site:
        for address in pair_of(client):
            where = {"workers": [address], "pure": False}
            worker = client.submit(look_around, site, "note", "host", **where).result()
            assert worker == Member(address, "host", 1, 500_000_000)
    worker = Member("tcp://a:1", "a", threads=8, memory_bytes=8000)
    assert (Pool().threads_on(worker), Pool().memory_on(worker)) == (1, 1000)
    assert (Pool(threads=4).slots_on(worker), Pool(threads=4).memory_on(worker)) == (2, 4000)
    assert (Pool(threads=-1).threads_on(worker), Pool(threads=-1).slots_on(worker)) == (8, 1)
    assert Pool(threads=16).slots_on(worker) == 1
    assert Pool(memory_bytes=800).memory_on(worker) == 100


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_scheduler_ends_the_run_with_a_hint(
    root: Path, fault: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scheduler_process() as (address, pid):

        def lose(progress: Progress) -> None:
            if "[1/2]" in progress.line:
                monkeypatch.setattr(members, "CONTACT_SECONDS", 0.5)
                os.kill(pid, fault)

        start = time.monotonic()
        with pytest.raises(ProbeError, match="the Dask scheduler is lost") as caught:
            Run(root, address, lose)
        assert time.monotonic() - start < 60
    assert "what is done is kept" in caught.value.hint
    assert len(list((root / "results").iterdir())) >= 1


def test_a_scheduler_without_workers_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "PATIENCE_SECONDS", 0.2)
    with (
        distributed.LocalCluster(
            n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        pytest.raises(ProbeError, match="no worker is there"),
    ):
        Run(root, str(cluster.scheduler_address))


def test_workers_started_here_do_it_too(root: Path) -> None:
    words = ["--store", str(root / "features"), "--out", str(root / "results"), "--C", "1"]
    text = command("probe", "--all", *words, "--workers", "1", "--jobs", "1")
    assert "2 probed, 0 were there, 0 failed" in text
