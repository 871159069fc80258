"""Import, export and copy: the same rows arrive, or nothing does."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet
import pytest
import zarr
from numpy.typing import NDArray

from linprobe_store import (
    FeatureStore,
    IntegrityError,
    MismatchError,
    NotFoundError,
    Split,
    StoreError,
)
from linprobe_store.copying import CopyRequest, copy_store
from linprobe_store.exporting import export_split
from linprobe_store.importing import ImportRequest, import_features
from linprobe_store.importspec import parse_splits, read_classes
from linprobe_store.verification import verify_store
from store_factories import NAMES, block, dataset_spec, encoder_spec, fingerprint, write_part
from store_factories import sealed_split as make_split

RNG = np.random.default_rng(0)


def do_import(store: Path, *splits: str, name: str = "theirs") -> tuple[Split, ...]:
    sources = parse_splits(splits)
    classes = read_classes(None, sources)
    request = ImportRequest(name, "Pets", "embedding", sources, classes, None)
    return import_features(FeatureStore(store), request)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_imported_arrays_come_back(tmp_path: Path, dtype: str) -> None:
    x = RNG.standard_normal((9000, 4)).astype(dtype)
    y = RNG.integers(0, 3, 9000).astype(np.int32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    np.savez_compressed(tmp_path / "test.npz", x=x[:7], y=y[:7])

    train, test = do_import(
        tmp_path / "store",
        f"train={tmp_path}/x.npy,{tmp_path}/y.npy",
        f"test={tmp_path}/test.npz",
    )

    stored = "float16" if dtype == "float16" else "float32"
    np.testing.assert_array_equal(train.array("embedding"), x.astype(stored))
    np.testing.assert_array_equal(test.array("embedding"), x[:7].astype(stored))
    np.testing.assert_array_equal(train.labels, y)
    assert train.dtype == stored
    assert train.classes == ("0", "1", "2")
    assert train.keys[8999] == "train/8999"
    assert train.encoder.spec.architecture == "imported:theirs"
    assert [u.problem for u in verify_store(FeatureStore(tmp_path / "store"), deep=True)] == [
        None
    ] * 4


def test_importing_again_does_nothing_and_other_bytes_are_another_encoder(tmp_path: Path) -> None:
    x, y = np.ones((4, 2), "f2"), np.arange(4)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.savez(tmp_path / "b.npz", x=x * 2, y=y)
    store = tmp_path / "store"

    first, again, other = (do_import(store, f"train={tmp_path}/{n}.npz")[0] for n in "aab")

    assert first.digest == again.digest
    assert first.encoder == again.encoder
    assert other.encoder.encoder_id != first.encoder.encoder_id
    assert other.encoder.names == first.encoder.names


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.ones((4, 2)), "y": np.arange(3)}, "expected 4 rows"),
        ({"x": np.ones(4), "y": np.arange(4)}, "expected features"),
        ({"x": np.ones((4, 2), int), "y": np.arange(4)}, "expected features"),
        ({"x": np.ones((4, 2)), "y": np.ones(4)}, "expected labels"),
        ({"x": np.ones((4, 2)), "y": np.full((4, 3), 2)}, "0 and 1"),
        ({"x": np.ones((4, 2)), "y": np.full((4, 3), 256)}, "0 and 1"),
        ({"x": np.ones((4, 2)), "y": np.array([0, 1, 2, -1])}, "expected labels in"),
        ({"x": np.full((4, 2), 1e300), "y": np.arange(4)}, "infinity"),
        ({"x": np.zeros((4, 2)), "y": np.arange(4)}, "all zeros"),
        ({"x": np.ones((4, 2), order="F"), "y": np.arange(4)}, "Fortran"),
        ({"a": np.ones((4, 2)), "y": np.arange(4)}, "no array called features"),
        ({"x": np.ones((4, 2)), "y": np.arange(4), "keys": np.array(list("abca"))}, "keys come"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: dict[str, NDArray[np.generic]], told: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]  # no name is an option

    with pytest.raises(StoreError, match=told):
        do_import(tmp_path / "store", f"train={tmp_path}/a.npz")

    assert list((tmp_path / "store").glob("enc-*/sets/*/train")) == []
    assert list((tmp_path / "store").rglob("tmp-*")) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train", "expected NAME=FILE"),
        ("train=a.npy", "two .npy files"),
        ("train=none.npz", "no such file"),
        ("train=none.npy,y.npy", "no such file"),
        ("train={}/a.npz:x", "expected FEATURES,LABELS"),
        ("train={}/a.npz:x,z", "no array 'z'"),
        ("train={}/text.npz", "not a zip file"),
        ("train={0}/text.npy,{0}/text.npy", "magic"),
    ],
)
def test_split_options_that_cannot_be_read_are_told(tmp_path: Path, text: str, told: str) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((4, 2)), y=np.arange(4))
    for name in ("text.npz", "text.npy"):
        (tmp_path / name).write_text("no array at all, but some text")

    with pytest.raises(StoreError, match=told):
        parse_splits([text.format(tmp_path)])


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((100, 2)))
    np.save(tmp_path / "y.npy", np.zeros(100, int))
    os.truncate(tmp_path / "x.npy", 1000)

    with pytest.raises(MismatchError, match="expected 100 rows, found the end after 54"):
        do_import(tmp_path / "s", f"train={tmp_path}/x.npy,{tmp_path}/y.npy")


@pytest.mark.parametrize("n_columns", [None, 3])
def test_export_and_import_are_a_round_trip(tmp_path: Path, n_columns: int | None) -> None:
    encoder = FeatureStore(tmp_path / "a").register_encoder(encoder_spec(5, 3), NAMES)
    write_part(encoder, fingerprint(0), block(encoder.spec, 5000, n_columns=n_columns))
    split = encoder.seal(dataset_spec([fingerprint(0)]), "train", dataset_name="Pets")

    exported = export_split(split, "pre_projection", tmp_path / "out.npz")
    (back,) = do_import(tmp_path / "b", f"train={tmp_path}/out.npz")

    assert exported.rows == 5000
    np.testing.assert_array_equal(back.array("embedding"), split.array("pre_projection"))
    np.testing.assert_array_equal(back.labels, split.labels)
    assert list(back.keys) == list(split.keys)
    assert back.classes == split.classes


@pytest.mark.parametrize("sizes", [(0,), (5000,)])
def test_exports_are_read_by_numpy_csv_and_parquet(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    split, _ = make_split(tmp_path / "store", sizes)
    for name in ("a.npy", "a.npz", "a.parquet"):
        export_split(split, "embedding", tmp_path / name)

    lines = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    arrays = np.load(tmp_path / "a.npz")
    expected = np.asarray(split.array("embedding"))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    np.testing.assert_array_equal(arrays["features"], expected)
    np.testing.assert_array_equal(arrays["labels"], split.labels)
    assert arrays["classes"].tolist() == list(split.classes)
    assert lines[0] == "key,label"
    pairs = list(zip(split.keys, split.labels, strict=True))
    assert lines[1:] == [f"{key},{label}" for key, label in pairs]
    assert table["key"].to_pylist() == list(split.keys)
    assert table["label"].to_pylist() == split.labels.tolist()
    values = table["features"].combine_chunks().values.to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(values.reshape(expected.shape), expected)


def test_an_export_never_overwrites_and_names_the_formats(tmp_path: Path) -> None:
    split, _ = make_split(tmp_path / "store")
    (tmp_path / "a.csv").write_text("mine")

    with pytest.raises(StoreError, match="is there already"):
        export_split(split, "embedding", tmp_path / "a.npy")
    with pytest.raises(MismatchError, match=r"\.npz, \.npy, \.parquet"):
        export_split(split, "embedding", tmp_path / "a.h5")
    with pytest.raises(NotFoundError, match="no tap"):
        export_split(split, "other", tmp_path / "b.npy")

    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "store"]


def outcomes(source: Path | str, target: Path | str, *, pack: bool = False) -> list[str]:
    request = CopyRequest(str(source), str(target), pack=pack)
    return [copied.outcome for copied in copy_store(request)]


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
    first.encoder.check_canary({"embedding": np.ones((2, 4), "f2")})
    (first.encoder.path / "provenance.jsonl").write_text(
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
    from linprobe_store import copying

    fetch = copying._fetch
    done: list[int] = []

    def failing(*args: object) -> int:
        if len(done) == n_files:
            raise ConnectionResetError("connection lost")
        done.append(1)
        return fetch(*args)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(copying, "_fetch", failing)


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
        sum(copied.bytes for copied in copy_store(CopyRequest(str(source), str(tmp_path / name))))
        for name in "cb"
    )

    assert moved == total if n_files == 0 else moved < total
    assert_same_store(tmp_path / "source", tmp_path / "b")
    assert list((tmp_path / "b").rglob("tmp-*")) == []


def damage_features(folder: Path) -> None:
    path = max(folder.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def remove_file(folder: Path) -> None:
    next(p for p in folder.rglob("*") if p.name == "0" and p.is_file()).unlink()


@pytest.mark.parametrize("damage", [damage_features, remove_file])
@pytest.mark.parametrize("pack", [False, True])
def test_damage_in_the_source_is_not_copied(
    source: Path, tmp_path: Path, damage: Callable[[Path], None], pack: bool
) -> None:
    if pack:
        outcomes(source, tmp_path / "packed", pack=True)
        source = tmp_path / "packed"
    for folder in source.glob("enc-*/sets"):
        damage(folder)

    with pytest.raises(IntegrityError):
        outcomes(source, tmp_path / "b")
    with pytest.raises(IntegrityError):
        outcomes(source, f"memory://{tmp_path.name}-damaged", pack=False)

    assert list((tmp_path / "b").rglob("COMMIT.json")) == []
    assert not [k for k in fsspec.filesystem("memory").store if "COMMIT" in k or "PACKED" in k]
    fsspec.filesystem("memory").store.clear()


def test_other_content_under_the_same_ids_is_told(source: Path, tmp_path: Path) -> None:
    make_split(tmp_path / "b", (10, 3000), encoder_spec(4, 3))

    with pytest.raises(MismatchError, match="expected digest"):
        outcomes(source, tmp_path / "b")


def test_a_copy_names_what_it_does_not_find(source: Path, tmp_path: Path) -> None:
    for request in (
        CopyRequest(str(tmp_path / "none"), str(tmp_path / "b")),
        CopyRequest(str(source), str(tmp_path / "b"), encoder="nothing"),
        CopyRequest(str(source), str(tmp_path / "b"), dataset="nothing"),
    ):
        with pytest.raises(NotFoundError):
            list(copy_store(request))
    with pytest.raises(StoreError, match="nosuch"):
        outcomes(source, "nosuch://bucket/features")
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
