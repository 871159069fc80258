"""Units are whole or absent, whoever dies, races, or runs out of space."""

import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from store_factories import (
    NAMES,
    block,
    dataset_spec,
    encoder_of,
    encoder_spec,
    fingerprint,
    register,
    sealed_split,
    write_part,
)
from store_race_worker import N_PARTS, PART_ROWS, SPEC

from linprobe.errors import StoreError
from linprobe_store.care.remove import find_leftovers, remove_leftovers
from linprobe_store.care.verify import verify_store
from linprobe_store.format.spec import DatasetNames, EncoderNames
from linprobe_store.handles.store import FeatureStore

WORKER = Path(__file__).parents[1] / "factories" / "store_race_worker.py"
RACE = dataset_spec(map(fingerprint, range(N_PARTS)))


def start_worker(root: Path, seed: int) -> "subprocess.Popen[str]":
    worker = subprocess.Popen(
        [sys.executable, str(WORKER), str(root), str(seed)], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def race(root: Path, seed: int, *, kill_after_s: float | None) -> None:
    """Run two writers at once; kill -9 both after a while, or let them finish."""
    workers = [start_worker(root, seed + i) for i in range(2)]
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        for worker in workers:
            worker.kill()
    codes = [worker.wait(60) for worker in workers]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.close()
    if kill_after_s is None:
        assert codes == [0, 0]


def test_racing_writers_killed_at_random_resume_to_the_same_bits(tmp_path: Path) -> None:
    rng = random.Random(0)
    root = tmp_path / "raced"
    n_parts = 0
    for seed in range(6):
        race(root, seed, kill_after_s=rng.uniform(0.0, 0.06))
        assert [unit.problem for unit in verify_store(FeatureStore(root), deep=True)] == [None] * (
            1 + len(list(root.glob("enc-*/parts/part-*")))
        )
        n_parts = len(list(root.glob("enc-*/parts/part-*")))
    race(root, 99, kill_after_s=None)
    encoder = FeatureStore(root).encoder()
    raced = encoder.seal(RACE, "train", names=DatasetNames("race"))

    reference = register(tmp_path / "calm", SPEC)
    for i in range(N_PARTS):
        whole = block(SPEC, PART_ROWS + i, seed=i, prefix=fingerprint(i).name)
        write_part(reference, fingerprint(i), whole)
    calm = reference.seal(RACE, "train", names=DatasetNames("race"))

    assert raced.digest == calm.digest
    for tap in ("embedding", "pre_projection"):
        np.testing.assert_array_equal(raced.array(tap), calm.array(tap))
    leftovers = find_leftovers(FeatureStore(root), min_age_s=0)
    assert all(item.path.name.startswith("tmp-") for item in leftovers)
    remove_leftovers(leftovers)
    assert list(root.rglob("tmp-*")) == []
    assert n_parts > 0
    assert FeatureStore(root).split("train").digest == calm.digest


@contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """No file may grow beyond a size: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 10, 700, 20_000, 64_000, 80_000])
def test_a_full_disk_leaves_what_was_committed_and_nothing_else(tmp_path: Path, limit: int) -> None:
    encoder = register(tmp_path)
    write_part(encoder, fingerprint(0), block(encoder.spec, 8000, prefix="a"))
    whole = block(encoder.spec, 8000, prefix="b")
    spec = dataset_spec([fingerprint(0), fingerprint(1)])
    with file_size_limit(limit), pytest.raises(StoreError) as caught:
        write_part(encoder, fingerprint(1), whole)
    assert "ulimit" in caught.value.hint

    assert sorted(p.name[:4] for p in (encoder.path / "parts").iterdir()) == ["part"]
    write_part(encoder, fingerprint(1), whole)
    with file_size_limit(limit), pytest.raises(StoreError):
        encoder.seal(spec, "train", names=DatasetNames("Pets"))
    assert encoder.seal(spec, "train", names=DatasetNames("Pets")).n == 16000
    assert list(tmp_path.rglob("tmp-*")) == []


def test_the_loser_of_a_race_gets_the_winners_commit(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    winner, loser = block(encoder.spec, 4, seed=1), block(encoder.spec, 3, seed=2)
    with encoder.part_writer(fingerprint(0)) as slow:
        slow.append(loser)
        won = write_part(encoder, fingerprint(0), winner)
        lost = slow.commit(skipped=[], batch_size=1, planned=3, labelling="cls")

    assert lost == won
    assert lost.rows == 4
    assert len(list((encoder.path / "parts").iterdir())) == 1


def test_two_seals_at_once_give_one_split(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    shards = list(map(fingerprint, range(4)))
    for shard in shards:
        write_part(encoder, shard, block(encoder.spec, 500, prefix=shard.name))
    digests: list[str] = []

    def seal() -> None:
        sealed = encoder.seal(dataset_spec(shards), "train", names=DatasetNames("Pets"))
        digests.append(sealed.digest)

    threads = [threading.Thread(target=seal) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(digests) == 4
    assert len(set(digests)) == 1
    assert list(encoder.path.rglob("tmp-*")) == []


def test_racing_registrations_under_different_names_agree_on_one_folder(tmp_path: Path) -> None:
    for attempt in range(10):
        root = tmp_path / str(attempt)
        root.mkdir()
        barrier = threading.Barrier(4)
        paths: list[Path] = []

        def go(name: str, root: Path = root, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            store = FeatureStore(root)
            paths.append(store.register_encoder(encoder_spec(), EncoderNames(name, name)).path)  # noqa: B023

        threads = [threading.Thread(target=go, args=(f"name-{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(paths) == 4
        assert len(set(paths)) == 1
        assert len(FeatureStore(root).encoders()) == 1


def test_everything_is_on_the_disk_before_the_rename_and_the_rename_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files before their folders, all before the rename, the parent folder after it."""
    encoder = register(tmp_path)
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.rename

    def spy_fsync(fd: int) -> None:
        events.append(("sync", str(Path(f"/proc/self/fd/{fd}").readlink())))
        fsync(fd)

    def spy_rename(self: Path, target: Path) -> Path:
        events.append(("rename", str(self)))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    commit = write_part(encoder, fingerprint(0), block(encoder.spec, 10))

    (at,) = [i for i, (what, _) in enumerate(events) if what == "rename"]
    staging = events[at][1]
    synced = [path.removeprefix(staging) for what, path in events[:at] if path.startswith(staging)]
    files = {f"/{name}" for name in commit.files} | {"/COMMIT.json"}
    folders = {str(Path(name).parent) for name in files} | {"/data.zarr"}
    assert set(synced) >= files | (folders - {"/"}) | {""}
    for name in files:
        parent = str(Path(name).parent)
        assert synced.index(name) < synced.index("" if parent == "/" else parent)
    assert synced[-1] == ""
    assert ("sync", str(encoder.path / "parts")) in events[at:]


def test_a_store_on_a_file_system_without_links_or_locks_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("not supported")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr("fcntl.flock", refuse)

    split, _ = sealed_split(tmp_path)

    assert FeatureStore(tmp_path).register_encoder(encoder_spec(), NAMES) == encoder_of(split)
    assert FeatureStore(tmp_path).split("train").n == 12
