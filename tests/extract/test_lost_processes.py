"""Processes that are killed, stopped or late: the others do all of it, byte for byte."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from encoder_factories import SmallModel
from run_factories import command, run_once, sealed_bytes, wait_for
from tar_factories import write_dataset

from linprobe.disk import Staging
from linprobe.errors import IntegrityError
from linprobe.leases import LEASES_FOLDER, Holder, Leases, Pace
from linprobe.records import parse
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.register import register
from linprobe_extract.run import claims, encode
from linprobe_extract.run.claims import Claims
from linprobe_extract.run.work import Work
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.locate import plan_dataset
from linprobe_store.arrays import part, seal
from linprobe_store.arrays.unit_writer import UnitWriter


class KilledError(Exception):
    """In place of the end of a process."""


def kill_at(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, number: int, *, after: bool
) -> None:
    """End the process at the n-th call of a function, leaving what SIGKILL leaves."""
    original, n_calls = getattr(owner, name), 0

    def counted(*args: object, **keywords: object) -> object:
        nonlocal n_calls
        n_calls += 1
        result = original(*args, **keywords) if after or n_calls != number else None
        if n_calls == number:
            monkeypatch.setattr(Leases, "release", lambda *_: None)
            raise KilledError
        return result

    def leave_everything(leases: Leases, *_: object) -> None:
        leases._over.set()
        for held in leases._held.values():
            os.close(held.fd)  # as the kernel does

    monkeypatch.setattr(owner, name, counted)
    monkeypatch.setattr(Leases, "__exit__", leave_everything)
    monkeypatch.setattr("linprobe.disk.shutil.rmtree", lambda *_, **__: None)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "few"
    return write_dataset(folder, splits={"train": [2] * 5, "test": [3]})


@pytest.fixture(scope="module")
def undisturbed(
    encoder: Encoder, few: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, bytes]:
    store = tmp_path_factory.mktemp("undisturbed") / "features"
    run_once(encoder, few, store)
    return sealed_bytes(store)


@pytest.mark.parametrize(
    ("owner", "name", "number", "after"),
    [
        pytest.param(encode, "check_names", 2, False, id="claimed"),
        pytest.param(UnitWriter, "append", 2, False, id="encoding"),
        pytest.param(part, "sign", 2, False, id="committing"),
        pytest.param(Claims, "settle", 2, False, id="committed"),
        pytest.param(seal, "sign", 1, False, id="sealing"),
        pytest.param(Staging, "take", 3, False, id="removing parts"),
        pytest.param(claims, "_sealed", 1, True, id="sealed"),
    ],
)
def test_what_a_process_leaves_wherever_it_is_killed_is_done_by_the_others(
    owner: object,
    name: str,
    number: int,
    after: bool,
    encoder: Encoder,
    few: Path,
    undisturbed: Mapping[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = tmp_path / "features"
    with monkeypatch.context() as patched:
        kill_at(patched, owner, name, number, after=after)
        with pytest.raises(KilledError):
            run_once(encoder, few, store)
    assert list(store.glob(f"enc-*/{LEASES_FOLDER}/*"))
    is_sealed = bool(list(store.glob("enc-*/sets/ds-*/train")))
    n_left = 0 if is_sealed else 6 - len(list(store.glob("enc-*/parts/part-*")))

    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: run_once(encoder, few, store), range(2)))

    assert sum(report.n_shards for report in reports) == n_left
    sealed = {path: data for path, data in sealed_bytes(store).items() if "/tmp-" not in path}
    assert sealed == undisturbed
    assert not [*store.glob(f"enc-*/{LEASES_FOLDER}"), *store.glob("enc-*/parts/part-*")]


def test_a_process_that_was_stopped_and_one_that_was_killed_are_followed_by_the_one_that_is_left(
    model: SmallModel,
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stopped one wakes up when all is sealed, and finds that."""
    many = write_dataset(tmp_path / "many", splits={"train": [2] * 30, "test": [3]})
    store = tmp_path / "features"
    arguments = command(model, many, store)
    monkeypatch.setattr("linprobe.leases.PACE", Pace(patience_s=0.3, poll_s=0.02))

    stopped = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: stopped.pid in holders(store), stopped)
    stopped.send_signal(signal.SIGSTOP)
    killed = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: killed.pid in holders(store), killed)
    killed.kill()
    killed.communicate()
    report = run_once(encoder, many, store)
    sealed = sealed_bytes(store)
    stopped.send_signal(signal.SIGCONT)
    _, errors = stopped.communicate()

    assert report.has_sealed
    assert stopped.returncode == 0, errors
    run_once(encoder, many, tmp_path / "undisturbed")
    assert sealed == sealed_bytes(store) == sealed_bytes(tmp_path / "undisturbed")


def holders(store: Path) -> set[int]:
    """Processes that hold leases."""
    pids = set()
    for file in store.glob(f"enc-*/{LEASES_FOLDER}/*"):
        with suppress(OSError, IntegrityError):  # being made, or given back
            pids.add(parse(Holder, file.read_bytes(), "a lease").pid)
    return pids


def test_who_was_late_takes_nothing_whose_split_was_sealed_and_whose_parts_are_gone(
    encoder: Encoder, few: Path, tmp_path: Path
) -> None:
    store = tmp_path / "features"
    stored = register(encoder, store, batch_size=4)
    plan = plan_dataset(str(few))
    late = Work(plan, ("test", "train"), stored, FingerprintCache(store))
    assert len(late.todo) == 6
    run_once(encoder, few, store)
    shutil.rmtree(stored.path / "parts", ignore_errors=True)

    with Leases(stored.path) as leases:
        assert list(Claims(late, leases, 0, print).take(lambda: False)) == []
