"""Arrays from elsewhere come in, and go out again, unchanged or not at all."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from store_factories import NAMES, block, dataset_spec, encoder_spec, fingerprint, write_part
from store_factories import sealed_split as make_split

from linprobe.errors import MismatchError, NotFoundError, StoreError
from linprobe_store.care.export import export_split
from linprobe_store.care.importing import import_files
from linprobe_store.care.verify import verify_store
from linprobe_store.format.spec import DatasetNames
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

RNG = np.random.default_rng(0)


def do_import(
    store: Path,
    *splits: str,
    name: str = "theirs",
    dataset: str = "Pets",
    metric: str | None = None,
    classes: Path | None = None,
) -> tuple[Split, ...]:
    names = DatasetNames(dataset, metric)
    return import_files(FeatureStore(store), splits, name, names, classes=classes)


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
    assert train.encoder_spec.architecture == "imported:theirs"
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
    assert first.encoder_id == again.encoder_id
    assert other.encoder_id != first.encoder_id
    assert other.encoder_names == first.encoder_names


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": np.ones((4, 2)), "y": np.arange(3)}, "expected 4 rows"),
        ({"x": np.ones(4), "y": np.arange(4)}, "expected features"),
        ({"x": np.ones((4, 2), int), "y": np.arange(4)}, "expected features"),
        ({"x": np.ones((4, 2)), "y": np.ones(4)}, "expected labels"),
        ({"x": np.ones((4, 2)), "y": np.full((4, 3), 2)}, "0 and 1"),
        ({"x": np.ones((4, 2)), "y": np.full((4, 3), 256)}, "0 and 1"),
        ({"x": np.ones((4, 2)), "y": np.array([0, 1, 2, -1])}, "expected labels from 0, found -1"),
        ({"x": np.full((4, 2), 1e300), "y": np.arange(4)}, "infinity"),
        ({"x": np.zeros((4, 2)), "y": np.arange(4)}, "all zeros"),
        ({"x": np.ones((4, 2), order="F"), "y": np.arange(4)}, "Fortran"),
        ({"a": np.ones((4, 2)), "y": np.arange(4)}, "no array 'features' or 'x'"),
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
        do_import(tmp_path / "store", text.format(tmp_path))

    assert FeatureStore(tmp_path / "store").encoders() == ()


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((100, 2)))
    np.save(tmp_path / "y.npy", np.zeros(100, int))
    os.truncate(tmp_path / "x.npy", 1000)

    with pytest.raises(MismatchError, match=r"x\.npy: expected 1,728 bytes .*1,000") as caught:
        do_import(tmp_path / "s", f"train={tmp_path}/x.npy,{tmp_path}/y.npy")
    assert "cut" in caught.value.hint


def test_a_zip_that_is_damaged_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=RNG.standard_normal((900, 4)), y=np.zeros(900, int))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[5000] ^= 1
    (tmp_path / "a.npz").write_bytes(data)

    with pytest.raises(MismatchError, match=r"a\.npz"):
        do_import(tmp_path / "s", f"train={tmp_path}/a.npz")


def test_names_are_no_part_of_what_a_dataset_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((4, 2), "f2"), y=np.arange(4))
    split = f"train={tmp_path}/a.npz"

    (first,) = do_import(tmp_path / "s", split, dataset="caltech101", metric="mean_per_class")
    (again,) = do_import(tmp_path / "s", split, dataset="mydata", metric="top1")
    (other,) = do_import(tmp_path / "t", split, dataset="mydata")

    assert first.dataset_id == again.dataset_id == other.dataset_id
    assert first.digest == again.digest == other.digest
    assert (again.dataset_names.name, again.dataset_names.metric) == (
        "caltech101",
        "mean_per_class",
    )
    assert (other.dataset_names.name, other.dataset_names.metric) == ("mydata", None)


def test_a_metric_that_is_no_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="--metric 'Top 1'"):
        do_import(tmp_path / "s", f"train={tmp_path}/a.npz", metric="Top 1")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"cat\n\ndog\neel\n", "class name 2 of .* is blank"),
        (b"cat\ndog\ncat\neel\n", "class name 'cat' occurs 2 times .* 1, 3"),
        ("cat\nété\ndog\neel\n".encode("latin-1"), "expected UTF-8"),
        (b"cat\n\xef\xbb\xbfdog\neel\nfly\n", "class name 2 of .* unprintable"),
    ],
)
def test_class_names_that_cannot_be_meant_are_refused_by_line(
    tmp_path: Path, data: bytes, told: str
) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((4, 2)), y=np.arange(4))
    (tmp_path / "names.txt").write_bytes(data)

    with pytest.raises(StoreError, match=told):
        do_import(tmp_path / "s", f"train={tmp_path}/a.npz", classes=tmp_path / "names.txt")

    assert FeatureStore(tmp_path / "s").encoders() == ()


def test_a_byte_order_mark_is_no_part_of_the_first_class(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((2, 2)), y=np.arange(2))
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcat\ndog\n")

    split = f"train={tmp_path}/a.npz"
    (imported,) = do_import(tmp_path / "s", split, classes=tmp_path / "names.txt")

    assert imported.classes == ("cat", "dog")


def test_a_class_twice_in_the_array_of_names_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((2, 2)), y=np.arange(2), classes=["cat", "cat"])

    with pytest.raises(StoreError, match="'cat' occurs 2 times"):
        do_import(tmp_path / "s", f"train={tmp_path}/a.npz")


def test_a_split_without_rows_is_imported(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((0, 2), "f2"), y=np.zeros(0, int))

    (split,) = do_import(tmp_path / "s", f"train={tmp_path}/a.npz")

    assert (split.n, split.classes) == (0, ())


@pytest.mark.parametrize("array", ["classes", "keys"])
def test_names_stored_as_bytes_are_read_as_utf8_or_refused(tmp_path: Path, array: str) -> None:
    x, y = np.ones((2, 2), "f2"), np.arange(2)
    for name, encoding in (("good", "utf-8"), ("bad", "latin-1")):
        texts = np.array([text.encode(encoding) for text in ("é", "b")])
        np.savez(tmp_path / f"{name}.npz", x=x, y=y, **{array: texts})  # type: ignore[arg-type]

    (split,) = do_import(tmp_path / "s", f"train={tmp_path}/good.npz")
    with pytest.raises(MismatchError, match=f"{array}.* expected UTF-8"):
        do_import(tmp_path / "t", f"train={tmp_path}/bad.npz")

    assert "é" in (split.classes if array == "classes" else list(split.keys))


@pytest.mark.parametrize("n_columns", [None, 3])
def test_export_and_import_are_a_round_trip(tmp_path: Path, n_columns: int | None) -> None:
    encoder = FeatureStore(tmp_path / "a").register_encoder(encoder_spec(5, 3), NAMES)
    write_part(encoder, fingerprint(0), block(encoder.spec, 5000, n_columns=n_columns))
    split = encoder.seal(dataset_spec([fingerprint(0)]), "train", names=DatasetNames("Pets"))

    (exported,) = export_split(split, "pre_projection", tmp_path / "out.npz")
    (back,) = do_import(tmp_path / "b", f"train={exported}")

    assert back.n == 5000
    np.testing.assert_array_equal(back.array("embedding"), split.array("pre_projection"))
    np.testing.assert_array_equal(back.labels, split.labels)
    assert list(back.keys) == list(split.keys)
    assert back.classes == split.classes


@pytest.mark.parametrize("sizes", [(0,), (5000,)])
def test_exports_are_read_by_numpy_csv_and_parquet(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    split, _ = make_split(tmp_path / "store", sizes)
    for name in ("a.npy", "a.npz", "a.parquet"):
        export_split(split, "embedding", tmp_path / name)

    lines = (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()
    table = parquet.read_table(tmp_path / "a.parquet")
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
    values = table["features"].combine_chunks().values.to_numpy()
    np.testing.assert_array_equal(values.reshape(expected.shape), expected)


@pytest.mark.parametrize("guard", [True, False])
def test_texts_in_an_exported_table_are_guarded_and_numbers_are_not(
    tmp_path: Path, guard: bool
) -> None:
    encoder = FeatureStore(tmp_path / "a").register_encoder(encoder_spec(), NAMES)
    write_part(encoder, fingerprint(0), block(encoder.spec, 3, prefix="=1+1", n_columns=2))
    shards = dataset_spec([fingerprint(0)], classes=("@a", "-b"))
    split = encoder.seal(shards, "train", names=DatasetNames("Pets"))
    export_split(split, "embedding", tmp_path / "a.npy", csv_guard=guard)
    header, *rows = csv.reader((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines())

    mark = "'" if guard else ""
    assert header == ["key", f"{mark}@a", f"{mark}-b"]
    assert [row[0] for row in rows] == [f"{mark}{key}" for key in split.keys]
    assert [row[1:] for row in rows] == split.labels.astype(str).tolist()


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


def test_features_asserted_to_be_of_one_encoder_are_and_the_spec_says_whose_word_it_is(
    tmp_path: Path,
) -> None:
    for name in "ab":
        x = np.random.default_rng(ord(name)).standard_normal((30, 4)).astype(np.float16)
        np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(30) % 3)
    store = FeatureStore(tmp_path / "store")

    def one(name: str, asserted_id: str | None, **changed: str) -> Split:
        words = [f"train={tmp_path}/{name}.npz", f"test={tmp_path}/{name}.npz"]
        given = {"asserted_id": asserted_id, **changed}
        return import_files(store, words, "theirs", DatasetNames(name), **given)[0]  # type: ignore[arg-type] # of any option

    first, second = one("a", "my-dinov2"), one("b", "my-dinov2")
    by_bytes = one("b", None)

    assert first.encoder_id == second.encoder_id != by_bytes.encoder_id
    assert first.dataset_id != second.dataset_id
    assert first.encoder_spec.config == {"asserted_id": "my-dinov2"}
    assert by_bytes.encoder_spec.config == {}
    assert one("a", "another").encoder_id not in (first.encoder_id, by_bytes.encoder_id)
    with pytest.raises(MismatchError, match=r"the store has it as .* embedding of 4 float16"):
        one("a", "my-dinov2", storage_dtype="float32")
    with pytest.raises(MismatchError, match="--encoder-id is blank"):
        one("a", " ")
