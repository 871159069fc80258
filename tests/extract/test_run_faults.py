"""What goes wrong on the way costs what it must, and nothing else."""

import errno
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_factories import SmallModel
from run_factories import (
    Steps,
    extract_small,
    run_once,
    sealed_bytes,
    split_of,
)
from tar_factories import labelled, tar_bytes, write_dataset

from linprobe.errors import ExtractError, IntegrityError, StoreError
from linprobe.leases import Leases
from linprobe.terminal import Progress
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.register import register
from linprobe_extract.run.claims import lease_name
from linprobe_extract.run.report import ExtractReport
from linprobe_extract.shards.locate import plan_dataset
from linprobe_extract.shards.tar import fingerprint_shard
from linprobe_store.care.remove import find_damaged, remove_leftovers
from linprobe_store.handles.store import FeatureStore


def test_what_cannot_be_decoded_is_skipped_with_its_key_and_changes_no_other_row(
    encoder: Encoder, tmp_path: Path
) -> None:
    whole = labelled({f"k{i}": i % 2 for i in range(6)})
    holed = [
        (name, data[:-200] if name == "k2.jpg" else b"<html>" if name == "k4.jpg" else data)
        for name, data in whole
    ]
    for folder, members in (("whole", whole), ("holed", holed)):
        write_dataset(tmp_path / folder, splits={"test": [2]})
        (tmp_path / folder / "train").mkdir()
        (tmp_path / folder / "train" / "0.tar").write_bytes(tar_bytes(members))

    run_once(encoder, tmp_path / "whole", tmp_path / "a")
    report = run_once(encoder, tmp_path / "holed", tmp_path / "b", max_skipped=0.5)

    full, holes = split_of(tmp_path / "a", "train"), split_of(tmp_path / "b", "train")
    kept = [0, 1, 3, 5]
    assert dict(report.skipped) == {"truncated": 1, "not_an_image": 1}
    assert list(holes.keys) == [f"k{i}" for i in kept]
    assert dict(holes.skipped_by_reason) == {"truncated": 1, "not_an_image": 1}
    for tap in ("embedding", "pre_projection"):
        np.testing.assert_array_equal(holes.array(tap), full.array(tap)[kept])


def test_too_many_skipped_fail_the_shard_by_name_and_leave_the_others(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    members = [*labelled({"a": 0, "b": 1}), ("c.jpg", b"<html>"), ("c.cls", b"0")]
    (data / "train" / "1.tar").write_bytes(tar_bytes(members))

    report = run_once(encoder, data, tmp_path / "features", max_skipped=0.3)

    (failed,) = report.failed.values()
    assert "1 of 3 samples" in failed.message
    assert "c (not_an_image)" in failed.message
    assert "--max-skipped" in failed.hint
    assert report.sealed == ()
    assert report.n_shards_missing == 1


def test_a_cut_shard_fails_alone_and_is_finished_once_mended(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    run_once(encoder, data, tmp_path / "undisturbed")
    shard = data / "train" / "1.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])

    report = run_once(encoder, data, tmp_path / "features")
    assert list(report.failed) == [str(shard)]
    assert report.sealed == ()

    shard.write_bytes(whole)
    report = run_once(encoder, data, tmp_path / "features")
    assert (report.n_shards, report.failed) == (1, {})
    assert sealed_bytes(tmp_path / "features") == sealed_bytes(tmp_path / "undisturbed")


class Cramped(Encoder):
    """An encoder whose device holds two images, or the three of the canary."""

    def encode_pixels(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        if len(pixels) > 3:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasSgemm`")
        return super().encode_pixels(pixels)


def cramped(encoder: Encoder) -> Encoder:
    return Cramped(encoder.spec, encoder.names, encoder._taps)


def test_out_of_memory_halves_the_batch_is_told_and_loses_nothing(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    run_once(encoder, data, tmp_path / "small", batch_size=2)
    steps = Steps()

    report = run_once(cramped(encoder), data, tmp_path / "features", batch_size=8, watch=steps)

    assert report.batch_size == 2
    assert sum("batches of" in line for line in steps.lines) == 2
    assert sealed_bytes(tmp_path / "features") == sealed_bytes(tmp_path / "small")


def test_no_room_for_one_image_is_an_error(encoder: Encoder, data: Path, tmp_path: Path) -> None:
    class Full(Encoder):
        def encode_pixels(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
            if len(pixels) == 3:  # the canary images fit
                return super().encode_pixels(pixels)
            raise torch.OutOfMemoryError

    parts = encoder.spec, encoder.names, encoder._taps
    with pytest.raises(ExtractError, match="does not fit the memory of cpu"):
        run_once(Full(*parts), data, tmp_path / "features", batch_size=2)


def test_after_out_of_memory_a_process_keeps_its_shards_and_takes_none_of_its_peers(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    stored = register(encoder, tmp_path / "store", batch_size=8)
    shards = [shard for split in plan_dataset(str(data)).splits for shard in split.shards]

    with Leases(stored.path) as peer:
        assert peer.take(lease_name(shards[0]))
        peer.fail(lease_name(shards[0]))  # not to be waited for
        report = run_once(cramped(encoder), data, tmp_path / "store", batch_size=8)

    is_stored = [stored.committed_part(fingerprint_shard(shard)) is not None for shard in shards]
    assert report.batch_size == 2
    assert is_stored == [False, True, True, True]
    assert (report.n_shards, report.n_shards_missing, report.sealed) == (3, 1, ())
    assert report.failed_elsewhere == (shards[0].url,)
    with pytest.raises(ExtractError, match="1 of the shards failed in another process"):
        ExtractReport(stored, "pets", (), report).check()


def test_stopping_on_a_cpu_ends_after_the_batch_at_hand_and_keeps_finished_shards(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    run_once(encoder, data, tmp_path / "undisturbed")
    stop, batches = threading.Event(), []

    def stop_within_the_second_shard(progress: Progress) -> None:
        if progress.detail:
            batches.append(progress)
            if len(batches) == 2:  # test has one batch, the first shard of train two
                stop.set()

    report = run_once(
        encoder, data, tmp_path / "features", stop=stop, watch=stop_within_the_second_shard
    )

    assert report.stopped
    assert len(batches) == 2
    assert (report.n_shards, report.n_shards_missing, report.failed) == (1, 3, {})
    assert len(list((tmp_path / "features").glob("enc-*/parts/*"))) == 1
    run_once(encoder, data, tmp_path / "features")
    assert sealed_bytes(tmp_path / "features") == sealed_bytes(tmp_path / "undisturbed")


def test_the_next_run_removes_what_a_killed_one_was_writing(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    folder = register(encoder, tmp_path / "features", batch_size=4).path
    dead = folder / "parts" / f"tmp-{socket.gethostname()}-1-0123456789ab"
    elsewhere = folder / "parts" / "tmp-elsewhere-1-0123456789ab"
    for path in (dead, elsewhere):
        path.mkdir(parents=True)
        (path / "rows").write_bytes(bytes(2000))
        for each in (path / "rows", path):
            os.utime(each, (0, 0))
    steps = Steps()

    run_once(encoder, data, tmp_path / "features", watch=steps)

    assert [line for line in steps.lines if "killed" in line] == [
        "removed what killed runs left (2 kB)"
    ]
    assert (dead.exists(), elsewhere.exists()) == (False, True)


def test_a_full_disk_ends_the_run_at_once(
    encoder: Encoder, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("linprobe_store.arrays.unit_writer.UnitWriter.append", full)

    with pytest.raises(StoreError, match="No space left"):
        run_once(encoder, data, tmp_path / "features", batch_size=1)

    assert not list((tmp_path / "features").glob("enc-*/parts/*"))


def test_parts_go_once_all_splits_are_sealed_and_stay_where_they_are_kept(
    model: SmallModel, data: Path, tmp_path: Path
) -> None:
    store, parts = tmp_path / "f", "enc-*/parts/*"

    extract_small(model, data, store, splits=["train"], keep_parts=True)
    kept = list(store.glob(parts))
    extract_small(model, data, store, splits=["test"])
    assert sorted(store.glob(parts)) == sorted(kept)
    expected = sealed_bytes(store)

    report = extract_small(
        model, data, store
    )  # as after one that was killed before it removed them
    assert report.run is None
    assert not list(store.glob(parts))
    assert sealed_bytes(store) == expected
    assert extract_small(model, data, store).run is None


def test_parts_stay_where_the_sealed_split_is_damaged(
    model: SmallModel, data: Path, tmp_path: Path
) -> None:
    store = tmp_path / "f"
    extract_small(model, data, store, keep_parts=True)
    kept = list(store.glob("enc-*/parts/*"))
    (file,) = store.glob("enc-*/sets/ds-*/train/data.zarr/features_embedding/c/0/0")
    file.write_bytes(bytes(100) + file.read_bytes()[100:])

    with pytest.raises(IntegrityError, match="crc32c") as caught:
        extract_small(model, data, store)

    assert "gc --damaged" in caught.value.hint
    assert sorted(store.glob("enc-*/parts/*")) == sorted(kept)
    remove_leftovers(find_damaged(FeatureStore(store), deep=True))
    again = extract_small(model, data, store)
    assert again.run is None
    assert not list(store.glob("enc-*/parts/*"))
