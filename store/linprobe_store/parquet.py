"""The adapter of pyarrow: a split as one Parquet table, written in row groups."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from linprobe_store.records import FeatureArray
from linprobe_store.spec import StorageDtype


class ParquetWriter:
    """Writer of a table with the columns ``key``, ``label`` and ``features``.

    ``label`` is an int64, or a list of uint8 for multi-hot labels; ``features`` is a list of
    fixed size d. The class names are in the table's metadata under ``classes``, as JSON.
    """

    def __init__(self, path: Path, dim: int, dtype: StorageDtype, classes: tuple[str, ...]) -> None:
        self._path = path
        self._features_type = pa.list_(pa.from_numpy_dtype(np.dtype(dtype)), dim)
        self._metadata = {"classes": json.dumps(classes, ensure_ascii=False)}
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "ParquetWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is None:  # a table without rows still has its columns
            self.append((), np.empty(0, np.int64), np.empty(0, np.float16))
        if self._writer is not None:
            self._writer.close()

    def append(
        self, keys: tuple[str, ...], labels: NDArray[np.generic], features: FeatureArray
    ) -> None:
        """Append rows as one row group: keys (m,), labels (m,) or (m, k), features (m, d)."""
        values = pa.array(features.reshape(-1), self._features_type.value_type)
        columns = {
            "key": pa.array(keys, pa.string()),
            "label": _label_column(labels),
            "features": pa.FixedSizeListArray.from_arrays(values, type=self._features_type),
        }
        table = pa.table(columns).replace_schema_metadata(self._metadata)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)


def _label_column(labels: NDArray[np.generic]) -> pa.Array:
    if labels.ndim == 1:
        return pa.array(labels, pa.int64())
    values = pa.array(labels.reshape(-1), pa.uint8())
    return pa.FixedSizeListArray.from_arrays(values, labels.shape[1])
