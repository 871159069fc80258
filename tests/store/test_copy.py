"""A copy is the same store, byte for byte, or nothing that opens."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import fsspec
import numpy as np
import pytest
import zarr
from store_factories import encoder_of, encoder_spec
from store_factories import sealed_split as make_split

from linprobe.errors import IntegrityError, MismatchError, NotFoundError, StoreError
from linprobe.records import canonical_json, digest_json
from linprobe_store.care.copy import copy_store
from linprobe_store.care.packed import pack_split, unpack_split
from linprobe_store.care.place import Place
from linprobe_store.care.verify import verify_store
from linprobe_store.format.checksums import digest_bytes
from linprobe_store.handles.store import FeatureStore


def outcomes(source: Path | str, target: Path | str, *, pack: bool = False) -> list[str]:
    return [copied.outcome for copied in copy_store(str(source), str(target), pack=pack)]


def assert_same_store(a: Path, b: Path) -> None:
    """The same sealed splits, byte for byte."""
    for path in a.rglob("*"):
        if path.is_file() and "/parts/" not in str(path):
            assert (b / path.relative_to(a)).read_bytes() == path.read_bytes()
    assert [u.problem for u in verify_store(FeatureStore(b), deep=True) if u.problem] == []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A store of two encoders, with everything that stands beside splits."""
    first, _ = make_split(tmp_path / "source", (3000, 10), encoder_spec(4, 3))
    make_split(tmp_path / "source", (0,), encoder_spec(2, weights="5", storage_dtype="float32"))
    encoder_of(first).check_canary({"embedding": np.ones((2, 4), "f2")})
    (encoder_of(first).path / "provenance.jsonl").write_text(
        '{"argv":[],"batch_size":1,"device":"cpu","host":"h","time":"t","versions":{}}\n'
    )
    return tmp_path / "source"


def test_a_copy_is_the_same_store(source: Path, tmp_path: Path) -> None:
    assert outcomes(source, tmp_path / "b") == ["copied"] * 2
    assert outcomes(source, tmp_path / "b") == ["there already"] * 2

    assert_same_store(source, tmp_path / "b")


def test_packing_and_unpacking_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    assert outcomes(source, tmp_path / "packed", pack=True) == ["copied"] * 2
    assert outcomes(source, tmp_path / "packed", pack=True) == ["there already"] * 2
    with pytest.raises(StoreError, match="packed for transfer"):
        FeatureStore(tmp_path / "packed").encoders()[0].dataset().split("train")
    assert [u.problem for u in verify_store(FeatureStore(tmp_path / "packed"), deep=True)] == [
        None
    ] * 6

    assert outcomes(tmp_path / "packed", tmp_path / "b") == ["copied"] * 2

    assert_same_store(source, tmp_path / "b")


def test_zarr_reads_the_packed_form(source: Path, tmp_path: Path) -> None:
    outcomes(source, tmp_path / "packed", pack=True)
    for encoder in FeatureStore(source).encoders():
        split = encoder.dataset().split("train")
        data = tmp_path / "packed" / split.path.relative_to(source) / "data.zarr"
        group = zarr.open_group(data, mode="r", use_consolidated=False)
        for tap in split.taps:
            array = group[f"features_{tap.name}"]
            assert isinstance(array, zarr.Array)
            np.testing.assert_array_equal(array[...], split.array(tap.name))


@pytest.mark.parametrize("pack", [False, True])
def test_a_copy_through_a_url_is_the_same_store(source: Path, tmp_path: Path, pack: bool) -> None:
    url = f"memory://{tmp_path.name}"
    try:
        assert outcomes(source, url, pack=pack) == ["copied"] * 2
        assert outcomes(source, url, pack=pack) == ["there already"] * 2
        assert outcomes(url, tmp_path / "b") == ["copied"] * 2
    finally:
        fsspec.filesystem("memory").store.clear()

    assert_same_store(source, tmp_path / "b")


def break_after(monkeypatch: pytest.MonkeyPatch, n_files: int) -> None:
    """Let a copy fail, as a network does, after some files."""
    writing = Place.writing
    done: list[str] = []

    @contextmanager
    def failing(place: Place, name: str) -> Iterator[BinaryIO]:
        if len(done) == n_files:
            raise ConnectionResetError("connection lost")
        done.append(name)
        with writing(place, name) as stream:
            yield stream

    monkeypatch.setattr(Place, "writing", failing)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("n_files", [0, 1, 5, 8])
def test_an_interrupted_copy_goes_on_where_it_stopped(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_files: int, pack: bool
) -> None:
    if pack:
        outcomes(source, tmp_path / "packed", pack=True)
        source = tmp_path / "packed"
    with monkeypatch.context() as patch:
        break_after(patch, n_files)
        with pytest.raises(StoreError, match="connection lost"):
            outcomes(source, tmp_path / "b")
    assert list((tmp_path / "b").rglob("COMMIT.json")) == []

    total, moved = (
        sum(copied.bytes for copied in copy_store(str(source), str(tmp_path / name)))
        for name in "cb"
    )

    assert moved == total if n_files == 0 else moved < total
    assert_same_store(tmp_path / "source", tmp_path / "b")
    assert list((tmp_path / "b").rglob("tmp-*")) == []


def test_a_copy_interrupted_in_one_form_is_finished_in_the_other(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched of the packed form does not end up among the files of the sealed one."""
    for pack in (True, False):
        with monkeypatch.context() as patch:
            break_after(patch, 5)
            with pytest.raises(StoreError, match="connection lost"):
                outcomes(source, tmp_path / "b", pack=pack)
    assert list((tmp_path / "b").rglob("PACKED.json")) == []

    assert outcomes(source, tmp_path / "b") == ["copied"] * 2

    assert_same_store(source, tmp_path / "b")


def test_encoders_linked_from_another_disk_are_copied(source: Path, tmp_path: Path) -> None:
    for folder in source.glob("enc-*"):
        folder.rename(tmp_path / folder.name)
        folder.symlink_to(tmp_path / folder.name)

    assert outcomes(source, tmp_path / "b") == ["copied"] * 2


def damage_features(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [damage_features, Path.unlink])
@pytest.mark.parametrize("pack", [False, True])
def test_damage_in_the_source_is_not_copied(
    source: Path, tmp_path: Path, damage: Callable[[Path], None], pack: bool
) -> None:
    if pack:
        outcomes(source, tmp_path / "packed", pack=True)
        source = tmp_path / "packed"
    (file,) = source.glob("enc-*/sets/ds-*/train/data.zarr/features_embedding/c/0/0")
    damage(file)

    with pytest.raises(IntegrityError):
        outcomes(source, tmp_path / "b")
    with pytest.raises(IntegrityError):
        outcomes(source, f"memory://{tmp_path.name}-damaged", pack=False)

    done = [p.parent.parent.parent.parent for p in (tmp_path / "b").rglob("train/COMMIT.json")]
    assert all(folder.name != file.relative_to(source).parts[0] for folder in done)
    sent = fsspec.filesystem("memory").store
    markers = [name for name in sent if "COMMIT" in name or "PACKED" in name]
    assert not any(file.relative_to(source).parts[0] in name for name in markers)
    sent.clear()


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (lambda chunk: chunk, "labels/c/0: expected crc32c"),
        (lambda chunk: b"no chunk of blosc", "labels: cannot be unpacked"),
        (lambda chunk: chunk[:40], "labels: cannot be unpacked"),
        (lambda chunk: b"", "labels: cannot be unpacked"),
    ],
)
def test_a_packed_split_of_other_rows_is_not_unpacked(
    tmp_path: Path, forge: Callable[[bytes], bytes], told: str
) -> None:
    """Even when it is signed and whole in itself: what is unpacked must be what was committed."""
    split, _ = make_split(tmp_path / "other", (30,), encoder_spec(4, 3))
    packed = tmp_path / "packed"
    packed.mkdir()
    pack_split(split, Place(str(packed)), "")
    zarr.open_array(packed / "data.zarr" / "labels", mode="r+")[:] = np.ones(30, int)
    chunk = packed / "data.zarr/labels/c/0"
    chunk.write_bytes(forge(chunk.read_bytes()))
    fields = json.loads((packed / "PACKED.json").read_bytes())
    del fields["digest"]
    fields["files"]["data.zarr/labels/c/0"] = asdict(digest_bytes(chunk.read_bytes(), strong=True))
    data = canonical_json({**fields, "digest": digest_json(fields)})
    (packed / "PACKED.json").write_bytes(data)

    (tmp_path / "unpacked").mkdir()
    with pytest.raises(IntegrityError, match=told):
        unpack_split(packed, tmp_path / "unpacked")


def test_other_content_under_the_same_ids_is_told(source: Path, tmp_path: Path) -> None:
    make_split(tmp_path / "b", (10, 3000), encoder_spec(4, 3))

    with pytest.raises(MismatchError, match="expected digest"):
        outcomes(source, tmp_path / "b")


def test_a_copy_names_what_it_does_not_find(source: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "b")
    for copies in (
        copy_store(str(tmp_path / "none"), target),
        copy_store(str(source), target, encoder="nothing"),
        copy_store(str(source), target, dataset="nothing"),
    ):
        with pytest.raises(NotFoundError):
            list(copies)
    with pytest.raises(StoreError, match="nosuch"):
        outcomes(source, "nosuch://bucket/features")
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
