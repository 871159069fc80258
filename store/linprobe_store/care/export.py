"""Exporting a split for other programs, block by block, whole or not at all."""

import csv
import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from linprobe.disk import Staging, sync_path, told_as_store_error
from linprobe.errors import MismatchError, StoreError
from linprobe_store.arrays.seal import BLOCK_ROWS
from linprobe_store.handles.split import Split


@dataclass(frozen=True)
class Exported:
    """Files written by an export."""

    paths: tuple[Path, ...]
    """The files; ``.npy`` comes with a ``.csv`` of keys and labels."""
    rows: int
    """Number of samples."""
    bytes: int
    """Bytes of all files."""


def export_split(split: Split, tap: str, out: Path) -> Exported:
    """Export the features of one tap, un-normalised, with labels and keys.

    Parameters
    ----------
    tap : a tap of the split.
    out : ``.npz`` (arrays ``features``, ``labels``, ``keys``, ``classes``, as ``import`` takes
        them), ``.npy`` (features, and a ``.csv`` with a line ``key,label`` per row beside it), or
        ``.parquet`` (columns ``key``, ``label``, ``features``; needs the extra ``parquet``).

    Raises
    ------
    NotFoundError : no such tap.
    MismatchError : another suffix.
    StoreError : a file is there already, or the disk refuses.
    ModuleNotFoundError : a Parquet file without the extra ``parquet``.
    """
    writers = {".npz": _write_npz, ".npy": _write_npy, ".parquet": _write_parquet}
    writer = writers.get(out.suffix)
    if writer is None:
        raise MismatchError(
            f"{out}: expected one of {', '.join(writers)}, found {out.suffix!r}",
            hint="choose one of them",
        )
    split.dim(tap)
    with told_as_store_error(out), Staging(out.parent) as staging:
        names = writer(split, tap, staging.path / out.name)
        finals = tuple(out.with_name(path.name) for path in names)
        for final in finals:
            if final.exists():
                raise StoreError(f"{final}: is there already", hint="remove it, or name another")
        for path, final in zip(names, finals, strict=True):
            sync_path(path)
            path.rename(final)
    n_bytes = sum(path.stat().st_size for path in finals)
    return Exported(finals, split.n, n_bytes)


def _write_npz(split: Split, tap: str, out: Path) -> tuple[Path, ...]:
    dtype = np.dtype(split.dtype)
    width = max(map(len, split.keys), default=1) or 1
    key_dtype = np.dtype(f"<U{width}")
    classes = np.array(split.classes, dtype=str)
    arrays: list[tuple[str, tuple[int, ...], np.dtype[np.generic], Iterable[NDArray[np.generic]]]]
    arrays = [
        ("features", (split.n, split.dim(tap)), dtype, split.blocks(tap)),
        ("labels", split.labels.shape, split.labels.dtype, [split.labels]),
        ("keys", (split.n,), key_dtype, _key_blocks(split, key_dtype)),
        ("classes", classes.shape, classes.dtype, [classes]),
    ]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, shape, array_dtype, blocks in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                _write_array(stream, shape, array_dtype, blocks)
    return (out,)


def _write_array(
    stream: IO[bytes],
    shape: tuple[int, ...],
    dtype: "np.dtype[np.generic]",
    blocks: Iterable[NDArray[np.generic]],
) -> None:
    """Write an array (n, ...) in the ``.npy`` format from consecutive blocks of its rows."""
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(stream, header)
    for block in blocks:
        stream.write(np.ascontiguousarray(block, dtype).data if block.size else b"")


def _key_blocks(split: Split, dtype: "np.dtype[np.generic]") -> Iterator[NDArray[np.generic]]:
    for start in range(0, split.n, BLOCK_ROWS):
        yield np.array(split.keys.between(start, min(start + BLOCK_ROWS, split.n)), dtype)


def _write_npy(split: Split, tap: str, out: Path) -> tuple[Path, ...]:
    with out.open("wb") as stream:
        _write_array(stream, (split.n, split.dim(tap)), np.dtype(split.dtype), split.blocks(tap))
    table = out.with_suffix(".csv")
    is_multi_hot = split.labels.ndim == 2
    with table.open("w", newline="", encoding="utf-8") as text:
        lines = csv.writer(text)
        lines.writerow(["key", *(split.classes if is_multi_hot else ["label"])])
        for key, label in zip(split.keys, split.labels, strict=True):
            lines.writerow([key, *np.atleast_1d(label).tolist()])
    return out, table


def _write_parquet(split: Split, tap: str, out: Path) -> tuple[Path, ...]:
    """Columns ``key``, ``label`` and ``features``; the class names are JSON in the metadata."""
    # Imported here: an optional extra that takes half a second.
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_multi_hot = split.labels.ndim == 2
    features = pa.list_(pa.from_numpy_dtype(np.dtype(split.dtype)), split.dim(tap))
    labels = pa.list_(pa.uint8(), split.labels.shape[1]) if is_multi_hot else pa.int64()
    schema = pa.schema(
        {"key": pa.string(), "label": labels, "features": features},
        {"classes": json.dumps(split.classes, ensure_ascii=False)},
    )

    def column(rows: NDArray[np.generic], kind: pa.DataType) -> pa.Array:
        if rows.ndim == 1:
            return pa.array(rows, kind)
        values = pa.array(rows.reshape(-1), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(values, type=kind)

    start = 0
    with pq.ParquetWriter(out, schema) as writer:
        for block in split.blocks(tap, BLOCK_ROWS):
            stop = start + len(block)
            keys = pa.array(split.keys.between(start, stop), pa.string())
            columns = [keys, column(split.labels[start:stop], labels), column(block, features)]
            writer.write_table(pa.table(columns, schema=schema))
            start = stop
    return (out,)
