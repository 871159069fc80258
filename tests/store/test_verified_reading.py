"""Nothing is believed unread: all rows given were verified through the map they come from."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from store_factories import (
    block,
    dataset_of,
    dataset_spec,
    encoder_spec,
    fingerprint,
    register,
    root_of,
    sealed_split,
    sign_again,
    write_part,
)

from linprobe.errors import IntegrityError, MismatchError, StoreError
from linprobe_store.care.export import export_split
from linprobe_store.care.verify import verify_store
from linprobe_store.format.spec import DatasetNames
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

FEATURES = "data.zarr/features_embedding/c/0/0"


def reopened(split: Split) -> Split:
    return FeatureStore(root_of(split)).split("train")


def overwrite(path: Path, data: bytes, at: int = 0) -> None:
    """Write into a file in place: its size stays."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def commit_again(split: Split, *names: str) -> None:
    """Sign the files as they are now, as a careless or hostile writer would."""
    sign_again(split.path, *names)


def deep_problems(split: Split) -> list[str]:
    units = verify_store(FeatureStore(root_of(split)), deep=True)
    return [unit.problem for unit in units if unit.problem]


READS: dict[str, Callable[[Split], object]] = {
    "blocks": lambda split: next(split.blocks("embedding")),
    "maps": lambda split: split.maps("embedding"),
    "array": lambda split: split.array("embedding"),
    "rows": lambda split: split.rows([0], "embedding"),
    "zarr": lambda split: split.zarr(),
    "export": lambda split: export_split(split, "embedding", root_of(split).parent / "x.npy"),
}


@pytest.mark.parametrize("read", READS)
def test_features_overwritten_in_part_are_never_given(tmp_path: Path, read: str) -> None:
    split, _ = sealed_split(tmp_path / "store", (3000,))
    path = split.path / FEATURES
    rng = np.random.default_rng(0)
    overwrite(path, rng.standard_normal((1500, 5)).astype("f2").tobytes(), at=1500 * 10)

    with pytest.raises(IntegrityError, match="crc32c") as caught:
        READS[read](reopened(split))

    assert str(path) in caught.value.message
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0])
def test_a_row_that_no_writer_may_store_is_refused_with_its_key(
    tmp_path: Path, value: float
) -> None:
    split, blocks = sealed_split(tmp_path, (300, 300))
    row = np.full(5, value, "f2") if value == 0 else np.array([1, value, 1, 1, 1], "f2")
    overwrite(split.path / FEATURES, row.tobytes(), at=417 * 10)
    commit_again(split, FEATURES)
    found = "all zeros" if value == 0 else "NaN or infinity"

    for read in READS.values():
        with pytest.raises(IntegrityError, match=found) as caught:
            read(reopened(split))
        assert blocks[1].keys[117] in caught.value.message
        assert "embedding" in caught.value.message
        assert str(split.path) in caught.value.message
    (problem,) = deep_problems(split)
    assert blocks[1].keys[117] in problem


@pytest.mark.parametrize("at", [-1, -5, -20, -37])
def test_padding_and_index_are_under_the_checksum_too(tmp_path: Path, at: int) -> None:
    """The file table speaks of whole files."""
    split, _ = sealed_split(tmp_path, (3000, 1))
    path = split.path / FEATURES
    data = bytearray(path.read_bytes())
    assert len(data) > 3001 * 10 + 36, "there is padding"
    data[at] ^= 1
    path.write_bytes(data)

    with pytest.raises(IntegrityError, match=r"crc32c|index"):
        reopened(split).array("embedding")


def test_an_array_is_verified_once_and_only_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed_split(tmp_path, (100,), encoder_spec(5, 3))
    split = FeatureStore(tmp_path).split("train")
    assert (split.verification().files, split.verification().bytes) == (0, 0)
    extended: list[int] = []
    extend = google_crc32c.extend

    def count(crc: int, data: Any) -> object:  # noqa: ANN401 - bytes or an array
        extended.append(memoryview(data).nbytes)
        return extend(crc, data)

    monkeypatch.setattr(google_crc32c, "extend", count)
    split.array("embedding")
    size = (split.path / FEATURES).stat().st_size
    assert sum(extended) == size == split.verification().bytes
    for read in (split.array, split.maps, lambda tap: split.rows([1, 2], tap)):
        read("embedding")
    list(split.blocks("embedding", 7))
    assert sum(extended) == size

    assert (len(split.labels), len(split.keys)) == (100, 100)
    assert split.image_sha256 is not None
    split.array("pre_projection")
    assert split.image_sha256 is not None
    everything = [path for path in split.path.rglob("*") if "c" in path.parts[-3:-1]]
    verification = split.verification()
    assert verification.files == 6
    assert verification.bytes == sum(path.stat().st_size for path in everything if path.is_file())
    assert "crc32c" in verification.method


def test_what_changes_after_it_was_verified_is_told(tmp_path: Path) -> None:
    sealed_split(tmp_path, (100,))
    split = FeatureStore(tmp_path).split("train")
    expected = np.array(split.array("embedding"))
    split.check_unchanged()
    path = split.path / FEATURES
    data = path.read_bytes()

    overwrite(path, b"\x01\x02")
    with pytest.raises(IntegrityError, match="changed") as caught:
        split.check_unchanged()
    assert str(path) in caught.value.message
    overwrite(path, data)
    with pytest.raises(IntegrityError, match="changed"):
        split.check_unchanged()

    again = reopened(split)
    np.testing.assert_array_equal(again.array("embedding"), expected)
    again.check_unchanged()
    path.with_name("new").write_bytes(data)
    path.with_name("new").rename(path)
    with pytest.raises(IntegrityError, match="changed"):
        again.check_unchanged()
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        again.check_unchanged()


def test_only_what_was_read_must_stay(tmp_path: Path) -> None:
    sealed_split(tmp_path, (100,))
    split = FeatureStore(tmp_path).split("train")
    assert len(split.labels) == 100

    overwrite(split.path / FEATURES, b"\x01\x02")

    split.check_unchanged()
    with pytest.raises(IntegrityError):
        split.array("embedding")


def test_scattered_rows_come_from_the_file_that_was_verified(tmp_path: Path) -> None:
    """A few rows are read through a map of their own: of the same file, unchanged."""
    sealed_split(tmp_path, (3000,))
    split = FeatureStore(tmp_path).split("train")
    expected = split.array("embedding")[[5, 7]]
    np.testing.assert_array_equal(split.rows([5, 7], "embedding"), expected)
    path = split.path / FEATURES
    path.with_name("new").write_bytes(bytes(path.stat().st_size))
    path.with_name("new").rename(path)

    with pytest.raises(IntegrityError, match="changed"):
        split.rows([5, 7], "embedding")


def test_many_threads_may_read_first(tmp_path: Path) -> None:
    sealed_split(tmp_path, (3000,))
    split = FeatureStore(tmp_path).split("train")
    sums: list[float] = []

    def read() -> None:
        sums.append(float(split.array("embedding").astype("f8").sum()) + float(split.labels.sum()))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(sums) == 8
    assert len(set(sums)) == 1
    assert split.verification().files == 2


@pytest.mark.parametrize("label", [-5, 3, 10**12])
def test_labels_outside_the_classes_are_refused_in_reading(tmp_path: Path, label: int) -> None:
    split, _ = sealed_split(tmp_path, (10,))
    overwrite(split.path / "data.zarr/labels/c/0", label.to_bytes(8, "little", signed=True), at=16)
    commit_again(split, "data.zarr/labels/c/0")

    with pytest.raises(IntegrityError, match=r"0\.\.2 \(3 classes\)"):
        assert reopened(split).labels is None
    (problem,) = deep_problems(split)
    assert str(label) in problem


def test_multi_hot_labels_other_than_0_and_1_are_refused_in_reading(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    write_part(encoder, fingerprint(0), block(encoder.spec, 4, n_columns=3))
    split = encoder.seal(dataset_spec([fingerprint(0)]), "train", names=DatasetNames("Pets"))
    overwrite(split.path / "data.zarr/labels/c/0/0", b"\x02", at=5)
    commit_again(split, "data.zarr/labels/c/0/0")

    with pytest.raises(IntegrityError, match="0 and 1"):
        assert reopened(split).labels is None
    assert len(deep_problems(split)) == 1


@pytest.mark.parametrize(
    ("data", "at"), [(b"\xff", 3), (b"\xc3", 17), (b"\xed\xa0\x80", 4), (b"\xc3\xa9", 17)]
)
def test_keys_that_are_not_utf8_are_refused_in_reading(
    tmp_path: Path, data: bytes, at: int
) -> None:
    """The last one is an é that begins in one key and ends in the next."""
    encoder = register(tmp_path)
    whole = block(encoder.spec, 4)
    keys = tuple(f"plain-key-number-{i}" for i in range(4))
    write_part(encoder, fingerprint(0), type(whole)(keys, whole.features, whole.labels))
    split = encoder.seal(dataset_spec([fingerprint(0)]), "train", names=DatasetNames("Pets"))
    overwrite(split.path / "data.zarr/keys_bytes/c/0", data, at=at)
    commit_again(split, "data.zarr/keys_bytes/c/0")

    with pytest.raises(IntegrityError, match=r"key 0 .*UTF-8"):
        assert reopened(split).keys is None
    assert len(deep_problems(split)) == 1


@pytest.mark.parametrize("edge", [-1, 2**62, -(2**62)])
def test_edges_of_keys_that_fall_are_refused(tmp_path: Path, edge: int) -> None:
    split, _ = sealed_split(tmp_path, (10,))
    name = "data.zarr/keys_offsets/c/0"
    overwrite(split.path / name, edge.to_bytes(8, "little", signed=True), at=24)
    commit_again(split, name)

    with pytest.raises(IntegrityError, match="edges"):
        assert reopened(split).keys is None


def test_a_deep_check_finds_a_key_that_comes_twice(tmp_path: Path) -> None:
    split, blocks = sealed_split(tmp_path, (10,))
    size = len(blocks[0].keys[0].encode())
    overwrite(split.path / "data.zarr/keys_bytes/c/0", blocks[0].keys[7].encode(), at=2 * size)
    commit_again(split, "data.zarr/keys_bytes/c/0")

    (problem,) = deep_problems(split)
    assert blocks[0].keys[7] in problem


@pytest.mark.parametrize("name", ["features_embedding/c/0/0", "labels/c/0", "keys_bytes/c/0"])
def test_a_part_is_verified_through_what_is_sealed(tmp_path: Path, name: str) -> None:
    encoder = register(tmp_path)
    write_part(encoder, fingerprint(0), block(encoder.spec, 8))
    (part,) = encoder.path.glob("parts/part-*")
    overwrite(part / "data.zarr" / name, b"\x01", at=1)

    with pytest.raises(IntegrityError, match="crc32c"):
        encoder.seal(dataset_spec([fingerprint(0)]), "train", names=DatasetNames("Pets"))
    if name.startswith("labels"):
        with pytest.raises(IntegrityError, match="crc32c"):
            encoder.part_labels(fingerprint(0))


def edit_commit(split: Split, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the commit and sign it again."""
    path = split.path / "COMMIT.json"
    fields = json.loads(path.read_bytes())
    change(fields)
    path.write_text(json.dumps(fields))
    sign_again(split.path)


GROUP = "data.zarr/zarr.json"
EDITS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no files": (lambda fields: fields.update(files={}), "files"),
    "a file less": (lambda fields: fields["files"].pop(FEATURES), FEATURES),
    "no labels": (lambda fields: fields["files"].pop("data.zarr/labels/c/0"), "labels/c/0"),
    "no metadata": (lambda fields: fields["files"].pop(GROUP), GROUP),
    "a file more": (
        lambda fields: fields["files"].update({"data.zarr/x": fields["files"][GROUP]}),
        "data.zarr/x",
    ),
    "no sha256": (lambda fields: fields["files"][FEATURES].update(sha256=None), "sha256"),
    "bad sha256": (lambda fields: fields["files"][FEATURES].update(sha256="0"), "sha256"),
    "bad crc32c": (lambda fields: fields["files"][FEATURES].update(crc32c="0X"), "crc32c"),
    "a NUL": (lambda fields: fields["files"].update({"a\0": fields["files"][GROUP]}), "bad path"),
    "other rows": (lambda fields: fields.update(rows=9), "rows"),
    "other parts": (lambda fields: fields["parts"][0].update(rows=9), "rows"),
    "another tap": (lambda fields: fields["taps"][0].update(name="x"), "taps"),
    "another dim": (lambda fields: fields["taps"][0].update(dim=4), "taps"),
    "no taps": (lambda fields: fields.update(taps=[]), "taps"),
    "another dtype": (lambda fields: fields.update(dtype="float32"), "dtype"),
    "multi-hot": (lambda fields: fields.update(n_label_columns=3), "labels"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_signed_commit_that_says_less_or_other_than_its_files_is_refused(
    tmp_path: Path, edit: str
) -> None:
    split, _ = sealed_split(tmp_path, (10,))
    change, told = EDITS[edit]
    edit_commit(split, change)

    with pytest.raises((IntegrityError, MismatchError), match=told) as caught:
        reopened(split)

    assert str(split.path) in caught.value.message
    assert len(deep_problems(split)) == 1


def edit_zarr(split: Split, array: str, change: Callable[[dict[str, Any]], object]) -> None:
    name = f"data.zarr/{array}/zarr.json"
    fields = json.loads((split.path / name).read_bytes())
    change(fields)
    (split.path / name).write_text(json.dumps(fields))
    sign_again(split.path, name)


def separator(text: str) -> Callable[[dict[str, Any]], object]:
    return lambda meta: meta["chunk_key_encoding"]["configuration"].update(separator=text)


def chunks(outer: object, inner: object) -> Callable[[dict[str, Any]], object]:
    def change(meta: dict[str, Any]) -> None:
        meta["chunk_grid"]["configuration"]["chunk_shape"] = [outer]
        meta["codecs"][0]["configuration"]["chunk_shape"] = [inner]

    return change


def shape(*lengths: object) -> Callable[[dict[str, Any]], object]:
    return lambda meta: meta.update(shape=[*lengths])


ZARR_EDITS = {
    "separator ..": (separator("/../../x/"), "chunk_key_encoding"),
    "separator .": (separator("."), "chunk_key_encoding"),
    "no separator": (separator(""), "chunk_key_encoding"),
    "v2 keys": (lambda meta: meta["chunk_key_encoding"].update(name="v2"), "chunk_key_encoding"),
    "1e18 rows": (shape(10**18), "shape"),
    "1e18 rows in 1 a file": (lambda meta: (shape(10**18)(meta), chunks(1, 1)(meta)), "shape"),
    "-1 rows": (shape(-1), "shape"),
    "10.0 rows": (shape(10.0), "shape"),
    "true rows": (shape(True), "shape"),
    "many axes": (shape(*[1] * 40), "shape"),
    "chunks of 0": (chunks(0, 0), "chunk"),
    "inner chunks of 0": (chunks(10, 0), "chunk"),
    "chunks of -10": (chunks(-10, -10), "chunk"),
    "chunks of 1e18": (chunks(10**18, 1), "chunk"),
    "chunks of 1e18 whole": (chunks(10**18, 10**18), "chunk|bytes"),
    "text chunks": (chunks("10", "10"), "chunk"),
    "no type": (lambda meta: meta.update(data_type=None), "data_type"),
    "a type of its own": (lambda meta: meta.update(data_type=[["a", "<i8"]]), "data_type"),
    "objects": (lambda meta: meta.update(data_type="O"), "data_type"),
    "two megabytes": (lambda meta: meta.update(attributes={"a": "x" * 2_000_000}), "at most"),
    "no group": (lambda meta: meta.update(node_type="group"), "node_type"),
}


@pytest.mark.parametrize("edit", ZARR_EDITS)
def test_a_signed_zarr_json_of_another_layout_or_an_impossible_size_is_refused(
    tmp_path: Path, edit: str
) -> None:
    split, _ = sealed_split(tmp_path / "store", (10,))
    change, told = ZARR_EDITS[edit]
    (split.path / "data.zarr/labels/c/x").mkdir()
    edit_zarr(split, "labels", change)

    with pytest.raises(StoreError, match=told) as caught:
        reopened(split)

    assert "labels" in caught.value.message


def test_a_group_that_is_none_is_refused(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path, (10,))
    for text in ("[]", '{"zarr_format": 2}', '{"node_type": "array", "zarr_format": 3}'):
        (split.path / GROUP).write_text(text)
        sign_again(split.path, GROUP)

        with pytest.raises(IntegrityError, match=r"data\.zarr/zarr\.json"):
            reopened(split).zarr()


def test_a_link_out_of_the_unit_is_refused_and_a_linked_store_is_not(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path / "store", (10,))
    (tmp_path / "linked").symlink_to(tmp_path / "store")
    assert FeatureStore(tmp_path / "linked").split("train").array("embedding").shape == (10, 5)
    for name in (FEATURES, "data.zarr/labels/c/0", GROUP, "data.zarr/keys_bytes/zarr.json"):
        path, outside = split.path / name, tmp_path / "outside"
        path.rename(outside)
        path.symlink_to(outside)

        with pytest.raises(IntegrityError, match="link") as caught:
            reopened(split)

        assert str(path) in caught.value.message
        path.unlink()
        outside.rename(path)
    (split.path / "data.zarr").rename(tmp_path / "outside")
    (split.path / "data.zarr").symlink_to(tmp_path / "outside")
    with pytest.raises(IntegrityError, match="link"):
        reopened(split)


@pytest.mark.parametrize("name", [FEATURES, "data.zarr/labels/zarr.json", "COMMIT.json"])
def test_a_fifo_or_a_device_among_the_files_is_refused_at_once(tmp_path: Path, name: str) -> None:
    split, _ = sealed_split(tmp_path, (10,))
    path = split.path / name
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(IntegrityError, match="regular file"):
        reopened(split)

    assert len(deep_problems(split)) == 1


def test_labels_of_another_kind_than_the_commit_says_are_refused(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    write_part(encoder, fingerprint(0), block(encoder.spec, 4, n_columns=3))
    split = encoder.seal(dataset_spec([fingerprint(0)]), "train", names=DatasetNames("Pets"))
    edit_commit(split, lambda fields: fields.update(n_label_columns=None))

    with pytest.raises(IntegrityError, match="labels"):
        reopened(split)
    assert dataset_of(split).splits == ("train",)


def test_a_part_of_other_taps_than_its_encoder_is_refused(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    write_part(encoder, fingerprint(0), block(encoder.spec, 4))
    (path,) = encoder.path.glob("parts/*/COMMIT.json")
    fields = json.loads(path.read_bytes())
    fields["taps"][0]["name"] = "other"
    path.write_text(json.dumps(fields))
    sign_again(path.parent)

    with pytest.raises(MismatchError, match="taps"):
        encoder.committed_part(fingerprint(0))
