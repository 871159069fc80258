"""What other programs read of the store: Parquet tables, dask arrays, xarray Datasets."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from store_factories import NAMES, block, dataset_spec, encoder_spec, fingerprint, write_part

from linprobe_store.arrays.seal import BLOCK_ROWS
from linprobe_store.care.export import export_split
from linprobe_store.format.spec import DatasetNames
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

README = Path(__file__).parents[2] / "store" / "README.md"
CLASSES = ("cat", "dög", "a,b")


def make_split(root: Path, n: int = 9, n_columns: int | None = None) -> Split:
    """A sealed split of n rows."""
    encoder = FeatureStore(root).register_encoder(encoder_spec(), NAMES)
    write_part(encoder, fingerprint(0), block(encoder.spec, n, n_columns=n_columns))
    shards = dataset_spec([fingerprint(0)], classes=CLASSES)
    return encoder.seal(shards, "train", names=DatasetNames("Pets"))


def rows_of(split: Split) -> list[dict[str, object]]:
    """What a table of the split has to say, with values as Python's own."""
    features = np.asarray(split.array("embedding"), np.float32).tolist()
    ids = [np.flatnonzero(y).tolist() if np.ndim(y) else int(y) for y in split.labels]
    names = [
        [CLASSES[label] for label in labels] if isinstance(labels, list) else CLASSES[labels]
        for labels in ids
    ]
    cells = zip(split.keys, ids, names, features, strict=True)
    columns = ("key", "label", "class_name", "features")
    return [dict(zip(columns, row, strict=True)) for row in cells]


@pytest.fixture(scope="module", params=[None, len(CLASSES)], ids=["one label", "several"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Split, Path]:
    """A split and its Parquet table."""
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    root = tmp_path_factory.mktemp("exported")
    split = make_split(root / "features", n_columns=request.param)
    return split, export_split(split, "embedding", root / "train.parquet")[0]


def test_a_table_has_keys_labels_class_names_and_features(exported: tuple[Split, Path]) -> None:
    import pyarrow.parquet as pq

    split, path = exported
    table = pq.read_table(path)
    assert table.to_pylist() == rows_of(split)
    metadata = table.schema.metadata
    assert json.loads(metadata[b"classes"]) == list(CLASSES)
    facts = json.loads(metadata[b"linprobe"])
    assert (facts["dataset"], facts["split"], facts["tap"]) == ("Pets", "train", "embedding")
    assert (facts["encoder_id"], facts["digest"]) == (split.encoder_id, split.digest)


def test_no_type_of_a_table_is_one_that_spark_does_not_read(exported: tuple[Split, Path]) -> None:
    """Spark has neither float16 nor, before 4.2, BYTE_STREAM_SPLIT in its vectorised reader."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(exported[1])
    types = {column.physical_type for column in file.schema}
    encodings = {
        encoding
        for i in range(file.metadata.num_columns)
        for encoding in file.metadata.row_group(0).column(i).encodings
    }
    assert types == {"BYTE_ARRAY", "INT64", "FLOAT"}
    assert encodings <= {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY"}


def test_duckdb_reads_it(exported: tuple[Split, Path]) -> None:
    duckdb = pytest.importorskip("duckdb")
    split, path = exported
    cells = duckdb.connect().execute(f"SELECT * FROM '{path}'").fetchall()
    assert [list(row) for row in cells] == [list(row.values()) for row in rows_of(split)]


def test_polars_reads_it(exported: tuple[Split, Path]) -> None:
    polars = pytest.importorskip("polars")
    split, path = exported
    assert polars.read_parquet(path).to_dicts() == rows_of(split)


def test_a_table_is_written_block_by_block_and_an_empty_one_too(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    for n in (BLOCK_ROWS + 1, 0):
        split = make_split(tmp_path / f"{n}", n)
        (path,) = export_split(split, "embedding", tmp_path / f"{n}.parquet")
        file = parquet.ParquetFile(path)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        assert sizes == ([BLOCK_ROWS, 1] if n else [])
        assert file.read()["key"].to_pylist() == list(split.keys)


def examples() -> dict[str, str]:
    """Python examples of the store's README, by the module that they begin with."""
    codes = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.S | re.M)
    return {re.match(r"import (\w+)", code)[1]: code for code in codes}  # type: ignore[index]


@pytest.mark.parametrize("library", ["dask", "xarray"])
def test_the_examples_of_other_readers_give_the_features(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not all(importlib.util.find_spec(name) for name in ("dask", library)):
        pytest.skip(f"needs dask and {library}")
    split = make_split(tmp_path / "features")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(examples()[library], names)
    X = np.asarray(split.array("embedding"), np.float32)
    if library == "dask":
        np.testing.assert_allclose(np.asarray(names["centre"]), X.mean(0), rtol=1e-6)
    else:
        labels = np.unique(split.labels)
        centres = [X[split.labels == label].mean(0) for label in labels]
        np.testing.assert_allclose(np.asarray(names["centres"]), centres, rtol=1e-6)
