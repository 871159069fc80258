"""A seal of any number of parts takes the memory of one; the parts go when the split is sound."""

import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from copy_faults import forked
from store_factories import (
    block,
    dataset_of,
    dataset_spec,
    encoder_of,
    encoder_spec,
    fingerprint,
    register,
    sealed_split,
    write_part,
)

from linprobe.errors import IntegrityError, NotFoundError, StoreError
from linprobe_store.arrays.keys import Keys
from linprobe_store.arrays.part import part_name, part_path
from linprobe_store.arrays.unique import KeyHashes, keys_of_hashes
from linprobe_store.care.remove import find_leftovers, remove_leftovers, remove_parts
from linprobe_store.format.spec import DatasetNames
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore


def parts_of(split: Split) -> list[str]:
    return sorted(path.name for path in (encoder_of(split).path / "parts").iterdir())


def test_keys_that_come_twice_are_found_over_any_number_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linprobe_store.arrays.unique._RUN", 50)
    names = [f"é{i}" for i in np.random.default_rng(0).permutation(1000)]
    names[700], names[999], names[3] = names[0], names[0], names[500]

    with KeyHashes(tmp_path) as hashes:
        for start in range(0, 1000, 7):
            hashes.take(Keys.encoded(names[start : start + 7]))
        values = hashes.repeated()

    assert sorted(keys_of_hashes(values, Keys.encoded(names))) == sorted({names[0], names[3]})
    assert not list(tmp_path.iterdir())


def test_equal_hashes_of_different_keys_are_no_keys_that_come_twice() -> None:
    keys = Keys.encoded(["a", "b", "c"])

    assert keys_of_hashes(np.sort(keys.hashes()), keys) == []


def test_a_key_in_two_parts_is_refused_by_a_seal_in_several_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linprobe_store.arrays.unique._RUN", 4)
    encoder, shards = register(tmp_path), [fingerprint(0), fingerprint(1)]
    for shard in shards:
        write_part(encoder, shard, block(encoder.spec, 9, prefix="same"))

    with pytest.raises(StoreError, match="9 keys come more than once: same/é00000"):
        encoder.seal(dataset_spec(shards), "train", names=DatasetNames("d"))
    assert not list(encoder.path.glob("sets/*/tmp-*"))


@pytest.mark.parametrize("prefix", ["", "ü/"])
def test_keys_are_cut_joined_and_prefixed_as_texts_are(prefix: str) -> None:
    names = ["", "a", "é" * 5, "b/c", ""]
    keys = Keys.encoded(names).prefixed(prefix)
    expected = [prefix + name for name in names]

    assert list(keys) == expected
    assert keys.lengths.tolist() == [len(name.encode()) for name in expected]
    for start, stop in ((0, 5), (1, 3), (2, 2), (3, 9), (5, 9), (7, 8)):
        rows = keys.rows(start, stop)
        assert list(rows) == list(keys.between(start, stop)) == expected[start:stop]
        assert rows.data.tobytes() == "".join(expected[start:stop]).encode()
        assert rows.hashes().tolist() == keys.hashes()[start:stop].tolist()


def test_parts_of_a_sealed_split_are_verified_and_removed(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path, (7, 0, 5))
    encoder = encoder_of(split)
    other = fingerprint(9)
    write_part(encoder, other, block(encoder.spec, 3))

    assert remove_parts(encoder, [split]) == 3

    assert parts_of(split) == [part_name(other)] == [*encoder.part_names()]
    assert FeatureStore(tmp_path).split("train").digest == split.digest
    assert remove_parts(encoder, [split]) == 0


def test_parts_of_a_damaged_split_stay_and_seal_it_again(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path, (7, 5))
    encoder, before = encoder_of(split), parts_of(split)
    file = split.path / "data.zarr/features_embedding/c/0/0"
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)

    with pytest.raises(IntegrityError, match="crc32c"):
        remove_parts(encoder, [split])

    assert parts_of(split) == before
    shutil.rmtree(split.path)
    again = encoder.seal(split.dataset_spec, "train", names=split.dataset_names)
    assert again.digest == split.digest


def test_killed_anywhere_between_the_seal_and_the_removal_nothing_is_lost(tmp_path: Path) -> None:
    encoder = register(tmp_path / "store", encoder_spec(3))
    shards = [fingerprint(i) for i in range(3)]
    for i, shard in enumerate(shards):
        write_part(encoder, shard, block(encoder.spec, 4, seed=i, prefix=shard.name))
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "store", whole, symlinks=True)

    def task(root: Path) -> Split:
        stored = FeatureStore(root).encoder()
        split = stored.seal(dataset_spec(shards), "train", names=DatasetNames("d"))
        remove_parts(stored, [split])
        return split

    expected = task(tmp_path / "store").digest
    for n in range(3, 999, 29):
        root = tmp_path / f"{n}"
        shutil.copytree(whole, root, symlinks=True)
        code = forked(partial(task, root), kill_at=n)
        left = FeatureStore(root).encoder()
        if len(left.part_names()) < 3:
            assert left.dataset().split("train").digest == expected
        assert task_again(root, task).digest == expected
        assert not left.part_names()
        shutil.rmtree(root)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert n > 100


def task_again(root: Path, task: Callable[[Path], Split]) -> Split:
    """The next run: it clears what the killed one left, and goes on."""
    store = FeatureStore(root)
    remove_leftovers(find_leftovers(store, min_age_s=0, foreign_age_s=1e9))
    if store.encoder().datasets() and "train" in (dataset := store.encoder().dataset()).splits:
        remove_parts(store.encoder(), [dataset.split("train")])
        return dataset.split("train")
    return task(root)


def test_who_reads_a_part_keeps_its_rows_while_it_is_removed(tmp_path: Path) -> None:
    split, blocks = sealed_split(tmp_path, (7, 5))
    encoder = encoder_of(split)
    keys = encoder.part_keys(fingerprint(1))

    remove_parts(encoder, [split])

    assert list(keys) == list(blocks[1].keys)
    with pytest.raises(NotFoundError, match="has no part"):
        encoder.part_keys(fingerprint(1))


def test_who_seals_from_parts_that_are_removed_meanwhile_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, _ = sealed_split(tmp_path, (7, 5))
    encoder = encoder_of(split)
    other = dataset_spec([fingerprint(0), fingerprint(1)], ("other", "names", "here"))

    def vanish(*_: object) -> None:
        shutil.rmtree(part_path(encoder.path, fingerprint(1)), ignore_errors=True)

    monkeypatch.setattr("linprobe_store.arrays.seal._check_labelling", vanish)
    with pytest.raises(NotFoundError, match=r"have no part: train-00001\.tar"):
        encoder.seal(other, "train", names=DatasetNames("other"))
    assert [d.path for d in encoder.datasets() if d.splits] == [dataset_of(split).path]
