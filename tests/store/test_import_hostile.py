"""Arrays of strangers: what a file claims is checked before memory or disk is taken for it."""

import io
import os
import struct
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from linprobe.disk import Staging
from linprobe.errors import MismatchError, StoreError
from linprobe_store.care.importing import import_files
from linprobe_store.format.spec import DatasetNames
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

X, Y = np.ones((4, 2), "f4"), np.arange(4)


def do_import(store: Path, *splits: str, classes: Path | None = None) -> tuple[Split, ...]:
    return import_files(
        FeatureStore(store), splits, "theirs", DatasetNames("Pets"), classes=classes
    )


def save_npz(path: Path, **arrays: object) -> str:
    np.savez(path, **{"x": X, "y": Y, **arrays})  # type: ignore[arg-type]
    return f"train={path}"


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode()
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(width, "little") + text + data


def header(shape: str, descr: str = "<f4", order: str = "False") -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (npy(header("(1, 100000000000)")), "expected 400,000,"),
        (npy(header("(0, 100000000000)")), "expected 1 to 1,048,576 features a row"),
        (npy(header("(4294967296, 4294967296)")), "an address"),
        (npy(header(f"({10**30}, 2)")), "a shape"),
        (npy(header("(-4, -2)", "<f4"), X.tobytes()), "a shape"),
        (npy(header("(4, 2)", "|O"), X.tobytes()), "numbers or text, found the dtype"),
        (npy(header("(4, 2)", "<f4,<f4"), X.tobytes()), "numbers or text"),
        (npy(header("(2, 4)", order="True"), X.tobytes()), "Fortran order"),
        (npy(header("(4, 2)") + " " * 60_000, X.tobytes()), "a header of at most 10000 bytes"),
        (npy("(" * 5000), "the header of an array"),
        (npy("{'descr': __import__('os').abort()}"), "the header of an array"),
        (npy(header("(4, 2)"), X.tobytes() + b"more"), "expected 32,? bytes|found 1"),
        (npy(header("(4, 2)"), X.tobytes()[:-1]), "bytes for"),
        (npy(header("(4, 2)"), X.tobytes(), 9), "magic"),
        (b"", "magic"),
    ],
)  # fmt: skip
def test_a_npy_that_claims_what_it_is_not_is_refused(
    tmp_path: Path, data: bytes, told: str
) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    np.save(tmp_path / "y.npy", np.zeros(0 if "(0," in data.decode("latin-1") else 4, int))

    with pytest.raises(MismatchError, match=rf"x\.npy: .*({told})"):
        do_import(tmp_path / "s", f"train={tmp_path}/x.npy,{tmp_path}/y.npy")


def test_a_header_of_100_megabytes_takes_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + (100 << 20).to_bytes(4, "little"))
        file.truncate(101 << 20)
    np.save(tmp_path / "y.npy", Y)
    tracemalloc.start()
    with pytest.raises(MismatchError, match="a header of at most 10000 bytes"):
        do_import(tmp_path / "s", f"train={tmp_path}/x.npy,{tmp_path}/y.npy")
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_header_is_read(tmp_path: Path, version: int) -> None:
    (tmp_path / "x.npy").write_bytes(npy(header("(4, 2)"), X.tobytes(), version))
    np.save(tmp_path / "y.npy", Y)

    (split,) = do_import(tmp_path / "s", f"train={tmp_path}/x.npy,{tmp_path}/y.npy")
    np.testing.assert_array_equal(split.array("embedding"), X)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"y": np.array([0, 1, 2, 10**9])}, "a:y: .* 1,000,000 classes .* 1,000,000,001"),
        ({"y": np.array([0, 1, 2, 2**63 + 5], "u8")}, "a:y: expected at most 1,000,000 classes"),
        ({"y": np.array([0, 1, 2, -1])}, "a:y: expected labels from 0, found -1"),
        ({"y": np.array([0, 1, 0, 1], bool)}, "a:y: expected labels"),
        ({"y": np.zeros((4, 0), "u1")}, "a:y: expected at least one class"),
        ({"y": np.array([0, 1, 2, 9]), "classes": ["a", "b"]}, "a:y: .* below 2, found 9"),
        ({"y": np.array([0, 1, 0, 2**64 - 1], "u8"), "classes": ["a", "b"]}, "labels below 2"),
        ({"y": np.ones((4, 3), "u1"), "classes": ["a", "b"]}, "a:y: expected 2 columns"),
        ({"classes": ["a", "b", "c", "\ud800"]}, "unprintable|expected a text"),
        ({"classes": np.ones((4, 2))}, "a:classes: expected .* texts"),
        ({"keys": ["a", "", "c", "d"]}, "a:keys: expected a text in row 1"),
        ({"keys": ["a", "b\0c", "c", "d"]}, "a:keys: expected a text in row 1"),
        ({"keys": ["a", "b", "\udcff", "d"]}, "a:keys: expected a text in row 2"),
        ({"keys": np.array([["a"] * 2] * 4)}, "a:keys: expected .* texts"),
        ({"keys": np.ones(4)}, "a:keys: expected .* texts"),
        ({"keys": np.full(4, 0x7FFFFFFF, "<u4").view("<U1")}, "a:keys: "),
        ({"keys": np.array(["a" * 9000] * 4)}, "a:keys: expected .* at most 16,384 bytes"),
        ({"x": np.ones((4, 2), complex)}, "numbers or text, found the dtype <c16"),
        ({"x": np.array([[None, 1]] * 4, dtype=object)}, "numbers or text, found the dtype .O"),
    ],
)  # fmt: skip
def test_labels_keys_and_classes_that_cannot_be_meant_are_refused(
    tmp_path: Path, arrays: dict[str, NDArray[np.generic]], told: str
) -> None:
    split = save_npz(tmp_path / "a.npz", **arrays)

    with pytest.raises(StoreError, match=told.replace("a:", r"a\.npz:")):
        do_import(tmp_path / "s", split)

    assert list((tmp_path / "s").glob("enc-*/sets/*/train")) == []
    assert list((tmp_path / "s").rglob("tmp-*")) == []


def test_class_ids_with_gaps_are_taken_as_far_as_extraction_takes_them(tmp_path: Path) -> None:
    (split,) = do_import(
        tmp_path / "s", save_npz(tmp_path / "a.npz", y=np.array([0, 5, 9, 20_000]))
    )

    assert len(split.classes) == 20_001


def rename_member(data: bytes, old: bytes, new: bytes) -> bytes:
    return data.replace(old, new)


def change_sizes(data: bytes, name: bytes, size: int) -> bytes:
    """The archive, whose central directory gives another size of a member."""
    place = data.rindex(name) - 46
    return data[: place + 24] + struct.pack("<I", size) + data[place + 28 :]


def change_flags(data: bytes, name: bytes, flags: int) -> bytes:
    """The archive, whose headers give a member other flags."""
    local, central = data.index(name) - 30, data.rindex(name) - 46
    raw = bytearray(data)
    raw[local + 6], raw[central + 8] = flags, flags
    return bytes(raw)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda data: rename_member(data, b"y.npy", b"x.npy"), "'x' twice"),
        (lambda data: change_sizes(data, b"x.npy", 4_000_000_000), "expected"),
        (lambda data: change_sizes(data, b"x.npy", 10), "expected"),
        (lambda data: change_flags(data, b"x.npy", 1), "encrypted"),
        (lambda data: data[:-40], "not a zip file"),
        (lambda data: data[:300] + data[310:], r"a\.npz"),
    ],
)
def test_an_archive_that_is_not_what_it_says_is_refused(
    tmp_path: Path, harm: Callable[[bytes], bytes], told: str
) -> None:
    split = save_npz(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(harm((tmp_path / "a.npz").read_bytes()))

    with pytest.raises(StoreError, match=told):
        do_import(tmp_path / "s", split)

    assert [path.name for path in (tmp_path / "s").iterdir()] == ["FORMAT"]


def test_a_bomb_is_refused_for_want_of_room_before_it_is_unzipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty kilobytes that are 40 MB of zeros; no ratio tells them from features of ones."""
    split = save_npz(tmp_path / "b.npz")
    np.savez_compressed(tmp_path / "b.npz", x=np.ones((5000, 2000), "f4"), y=np.zeros(5000, int))
    asked: list[int] = []

    def full(path: Path, n_bytes: int) -> None:
        asked.append(n_bytes)
        raise StoreError(f"{path}: needs {n_bytes}", hint="free some space")

    monkeypatch.setattr("linprobe_store.care.array_files.check_space", full)
    with pytest.raises(StoreError, match="needs"):
        do_import(tmp_path / "s", split)

    assert asked == [40_040_256]


def test_a_member_named_as_a_path_is_written_nowhere_else(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, X)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("../../../evil.npy", stream.getvalue())
        archive.writestr("y.npy", b"no array")

    with pytest.raises(MismatchError, match="magic"):
        do_import(tmp_path / "s" / "t", f"train={tmp_path}/a.npz:../../../evil,y")
    assert list(tmp_path.rglob("evil*")) == []


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        (os.mkfifo if kind == "fifo" else os.mkdir)(path)
    np.save(tmp_path / "y.npy", Y)
    text = f"train={path},{tmp_path}/y.npy" if suffix == "npy" else f"train={path}"

    with pytest.raises(MismatchError, match=f"(?i)a regular file, found a {kind}"):
        do_import(tmp_path / "s", text)


def test_what_is_in_a_read_only_store_already_needs_no_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so the system's refusal is made up."""
    split = save_npz(tmp_path / "a.npz")
    (first,) = do_import(tmp_path / "s", split)

    def refuse(_: Staging, parent: Path, **__: object) -> None:
        raise StoreError(f"{parent}: Read-only file system", hint="choose another place")

    monkeypatch.setattr(Staging, "__init__", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (again,) = do_import(tmp_path / "s", split)
    assert again.digest == first.digest
    assert list(tmp_path.glob("linprobe-*")) == []

    with pytest.raises(StoreError, match="Read-only"):
        do_import(tmp_path / "s", save_npz(tmp_path / "b.npz", x=X * 2))


@pytest.mark.parametrize("option", ["encoder", "dataset"])
def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path, option: str) -> None:
    split = save_npz(tmp_path / "a.npz")
    names = {"encoder": "theirs", "dataset": "Pets", option: "caf\udce9"}

    with pytest.raises(MismatchError, match=f"--{option}.*expected UTF-8"):
        import_files(
            FeatureStore(tmp_path / "s"), [split], names["encoder"], DatasetNames(names["dataset"])
        )
