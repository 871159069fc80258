"""Exporting a split for other programs, block by block, whole or not at all."""

import csv
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from linprobe.disk import (
    Staging,
    check_space,
    make_folders,
    store_errors,
    sync_path,
    sync_tree,
)
from linprobe.errors import MismatchError, StoreError
from linprobe.names import csv_cell
from linprobe.records import digest_json
from linprobe.tars import MAX_NAME
from linprobe_store.arrays.seal import BLOCK_ROWS
from linprobe_store.handles.split import Split

_Blocks: TypeAlias = Iterable[NDArray[np.generic]]
_Writer: TypeAlias = Callable[[Split, str, Path], tuple[Path, ...]]


def export_split(split: Split, tap: str, out: Path, *, csv_guard: bool = True) -> tuple[Path, ...]:
    """Export the features of one tap, un-normalised, with labels and keys; gives the files.

    ``out``: ``.npz`` (arrays ``features``, ``labels``, ``keys``, ``classes``, as ``import`` takes
    them), ``.npy`` (features, and a ``.csv`` with a line ``key,label`` per row beside it, whose
    texts go through :func:`linprobe.names.csv_cell` with ``csv_guard``), or
    ``.parquet`` (columns ``key``, ``label``, ``class_name``, lists of both where rows have several,
    and ``features``, lists of float32, which Spark, DuckDB and Polars read; the key-value metadata
    ``classes`` and ``linprobe`` hold all class names and the ids; ModuleNotFoundError without the
    extra).
    Raises NotFoundError for an unknown tap, MismatchError for another suffix, and StoreError where
    a file is there already or the disk refuses.
    """
    write_npy = partial(_write_npy, csv_guard=csv_guard)
    writers: Mapping[str, _Writer] = {
        ".npz": _write_npz,
        ".npy": write_npy,
        ".parquet": _write_parquet,
    }
    if (writer := writers.get(out.suffix)) is None:
        message = f"{out}: expected one of {', '.join(writers)}, found {out.suffix!r}"
        raise MismatchError(message, hint="choose one of them")
    n_bytes = split.n * split.dim(tap) * np.dtype(split.dtype).itemsize
    finals = (out, out.with_suffix(".csv")) if out.suffix == ".npy" else (out,)
    _check_free(finals)
    make_folders(out.parent)
    # One name a file, so that the next run takes what a killed one left.
    resume_as = f"{digest_json(out.name)[:12]}.export"
    with store_errors(out), Staging(out.parent, resume_as=resume_as) as staging:
        staging.drop()
        if out.suffix != ".parquet":  # which compresses
            check_space(out, n_bytes)
        writer(split, tap, staging.path / out.name)
        split.check_unchanged()
        _check_free(finals)
        sync_tree(staging.path)
        for final in finals:
            (staging.path / final.name).rename(final)
        sync_path(out.parent)
    return finals


def _check_free(finals: Iterable[Path]) -> None:
    """Refuse, by a StoreError, names of files that are there, and names that cannot be."""
    for final in finals:
        with store_errors(final), suppress(FileNotFoundError):
            final.lstat()
            raise StoreError(f"{final}: is there already", hint="remove it, or name another")


def _write_npz(split: Split, tap: str, out: Path) -> tuple[Path, ...]:
    texts = {"key": split.keys, "class name": split.classes}
    for what, n in ((what, max(map(len, names), default=0)) for what, names in texts.items()):
        if n > MAX_NAME:  # NumPy gives every row the room of the longest
            message = f"{out.name}: a {what} has {n:,} characters, a .npz takes {MAX_NAME:,}"
            raise MismatchError(message, hint="export it as .npy or .parquet")
    text = f"<U{max(map(len, split.keys), default=1) or 1}"
    starts = range(0, split.n, BLOCK_ROWS)
    keys = (np.array(split.keys.between(i, i + BLOCK_ROWS), text) for i in starts)
    classes = np.array(split.classes, dtype=str)
    arrays: Mapping[str, tuple[tuple[int, ...], str, _Blocks]] = {
        "features": ((split.n, split.dim(tap)), split.dtype, split.blocks(tap)),
        "labels": (split.labels.shape, split.labels.dtype.str, [split.labels]),
        "keys": ((split.n,), text, keys),
        "classes": (classes.shape, classes.dtype.str, [classes]),
    }
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, (shape, dtype, blocks) in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                _write_array(stream, shape, dtype, blocks)
    return (out,)


def _write_npy(split: Split, tap: str, out: Path, *, csv_guard: bool) -> tuple[Path, ...]:
    with out.open("wb") as stream:
        _write_array(stream, (split.n, split.dim(tap)), split.dtype, split.blocks(tap))
    table = out.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as text:
        lines = csv.writer(text)
        classes = [csv_cell(name, guard=csv_guard) for name in split.classes]
        lines.writerow(["key", *(classes if split.labels.ndim == 2 else ["label"])])
        for key, label in zip(split.keys, split.labels, strict=True):
            lines.writerow([csv_cell(key, guard=csv_guard), *np.atleast_1d(label).tolist()])
    return out, table


def _write_array(stream: IO[bytes], shape: tuple[int, ...], dtype: str, blocks: _Blocks) -> None:
    """Write an array (n, ...) in the ``.npy`` format from consecutive blocks of its rows."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(stream, header)
    for block in blocks:
        stream.write(np.ascontiguousarray(block, dtype).data if block.size else b"")


def _write_parquet(split: Split, tap: str, out: Path) -> tuple[Path, ...]:
    # Imported here: an optional extra that takes half a second.
    import pyarrow as pa
    import pyarrow.parquet as pq

    def columns(block: NDArray[np.generic], start: int) -> list[pa.Array]:
        stop = start + len(block)
        labels = split.labels[start:stop]
        rows, ids = np.nonzero(labels) if several else (None, labels)
        values = [pa.array(ids, pa.int64()), classes.take(pa.array(ids))]
        if rows is not None:
            ends = pa.array(np.searchsorted(rows, np.arange(len(block) + 1)), pa.int32())
            values = [pa.ListArray.from_arrays(ends, column) for column in values]
        keys = pa.array(split.keys.between(start, stop), pa.string())
        flat = pa.array(np.ascontiguousarray(block, np.float32).reshape(-1))
        return [keys, *values, pa.FixedSizeListArray.from_arrays(flat, block.shape[1])]

    several, classes = split.labels.ndim == 2, pa.array(split.classes, pa.string())
    label, name = pa.int64(), pa.string()
    kinds = {
        "key": pa.string(),
        "label": pa.list_(label) if several else label,
        "class_name": pa.list_(name) if several else name,
        "features": pa.list_(pa.float32(), split.dim(tap)),
    }
    schema, start = pa.schema(kinds, _parquet_facts(split, tap)), 0
    # By default values are a dictionary of at most 65,536 halves: about the size of float16.
    with pq.ParquetWriter(out, schema) as writer:
        for block in split.blocks(tap, BLOCK_ROWS):
            writer.write_table(pa.table(columns(block, start), schema=schema))
            start += len(block)
    return (out,)


def _parquet_facts(split: Split, tap: str) -> dict[str, str]:
    """Key-value metadata of the file: where the rows are from."""
    facts = {
        "encoder": split.encoder_names.model,
        "encoder_id": split.encoder_id,
        "tap": tap,
        "dataset": split.dataset_name,
        "dataset_id": split.dataset_id,
        "split": split.name,
        "digest": split.digest,
    }
    return {
        "classes": json.dumps(split.classes, ensure_ascii=False),
        "linprobe": json.dumps(facts, ensure_ascii=False),
    }
