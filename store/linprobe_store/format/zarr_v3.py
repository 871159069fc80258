"""Zarr v3 metadata of our arrays, and where their rows lie in their files: pure, no I/O.

The grid splits axis 0 only; a file is one shard: inner chunks of rows, back to back in row order
and uncompressed, the last one padded, then an index of the chunks and its crc32c. So the rows of
a file can be mapped from its first byte on. Sources: the Zarr v3 core specification and its
``sharding-indexed`` codec, which promises no order of the chunks: a reader proves it by the index.
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np

from linprobe.errors import REPAIR, IntegrityError, StoreError
from linprobe.records import JsonValue, canonical_json, parse
from linprobe.terminal import command

_MAX_ROW_BYTES = 64 << 20
"""Of a row, which is looked at whole."""
_USUAL_BYTES = 1 << 10
"""Of a ``zarr.json`` that is remembered."""
_MAX_CHUNKS = 1 << 20
"""Inner chunks of a file at most: 256 MiB of one-dimensional float16 features have 2^17."""


@dataclass(frozen=True)
class ArrayGeometry:
    """Where the rows of an array lie."""

    shape: tuple[int, ...]
    """Shape of the array; rows are axis 0."""
    dtype: "np.dtype[np.generic]"
    """Little-endian dtype of an element."""
    file_rows: int
    """Rows of a full file: the shape of Zarr's grid along axis 0."""
    inner_rows: int
    """Rows of an inner chunk; divides ``file_rows``."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def n_files(self) -> int:
        """Number of files."""
        return -(-self.shape[0] // self.file_rows)

    def file_key(self, i: int) -> str:
        """Path of file ``i`` below the array's folder."""
        return "/".join(["c", str(i), *["0"] * (len(self.shape) - 1)])

    def rows_in_file(self, i: int) -> int:
        """Rows of the array that lie in file ``i``."""
        return min(self.file_rows, self.shape[0] - i * self.file_rows)

    def stored_rows(self, i: int) -> int:
        """Rows in file ``i`` with the padding of its last chunk."""
        return -(-self.rows_in_file(i) // self.inner_rows) * self.inner_rows

    def index_start(self, i: int) -> int:
        """Where the rows of file ``i`` end and its index begins, in bytes."""
        return self.stored_rows(i) * self.row_bytes

    def file_bytes(self, i: int) -> int:
        """Exact size of file ``i``: rows, two uint64 for every chunk of a full file, a crc32c."""
        return self.index_start(i) + 16 * (self.file_rows // self.inner_rows) + 4

    def file_index(self, i: int) -> bytes:
        """Index of file ``i``, with its crc32c: its inner chunks lie back to back from 0."""
        n_stored = self.stored_rows(i) // self.inner_rows
        chunk_bytes = self.inner_rows * self.row_bytes
        index = np.full((self.file_rows // self.inner_rows, 2), 2**64 - 1, "<u8")  # no chunk
        index[:n_stored, 0] = np.arange(n_stored, dtype=np.uint64) * np.uint64(chunk_bytes)
        index[:n_stored, 1] = chunk_bytes
        raw = index.tobytes()
        return raw + int(google_crc32c.value(raw)).to_bytes(4, "little")


def check_index(geometry: ArrayGeometry, i: int, index: bytes, place: str) -> None:
    """Prove rows in order; IntegrityError for a bad checksum, StoreError for chunks elsewhere."""
    if google_crc32c.value(index[:-4]) != int.from_bytes(index[-4:], "little"):
        raise IntegrityError(f"{place}: the shard index fails its checksum", hint=REPAIR)
    if index != geometry.file_index(i):
        raise _unmappable(place, "expected rows back to back in order, found gaps")


def array_metadata(geometry: ArrayGeometry) -> dict[str, JsonValue]:
    """Fields of ``zarr.json`` that say where the rows of an array lie."""
    little: JsonValue = {"name": "bytes", "configuration": {"endian": "little"}}
    row_shape = geometry.shape[1:]
    sharding: JsonValue = {
        "chunk_shape": [geometry.inner_rows, *row_shape],
        "codecs": [little if geometry.dtype.itemsize > 1 else {"name": "bytes"}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    grid: JsonValue = {"chunk_shape": [geometry.file_rows, *row_shape]}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [*geometry.shape],
        "data_type": geometry.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": grid},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def array_json(
    geometry: ArrayGeometry, fill: float | int | str, dimensions: tuple[str, ...]
) -> bytes:
    """``zarr.json`` of an array."""
    own: dict[str, JsonValue] = {"fill_value": fill, "dimension_names": dimensions}
    return canonical_json({**array_metadata(geometry), **own, "attributes": {}})


def group_json(attributes: JsonValue) -> bytes:
    """``zarr.json`` of a group."""
    return canonical_json({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def parse_geometry(data: bytes, place: str) -> ArrayGeometry:
    """Geometry from anyone's ``zarr.json``; StoreError for a layout not ours: compressed, ..."""
    if len(data) <= _USUAL_BYTES:
        with suppress(StoreError):
            return _usual_geometry(data)
    return _geometry(data, place)


@lru_cache(maxsize=256)
def _usual_geometry(data: bytes) -> ArrayGeometry:
    """The parts of a split have the same few."""
    return _geometry(data, "")


def _geometry(data: bytes, place: str) -> ArrayGeometry:
    metadata = parse(dict[str, Any], data, place)
    if (data_type := metadata.get("data_type")) not in ("float16", "float32", "int64", "uint8"):
        raise _unmappable(place, f"found the data_type {str(data_type)[:80]}")
    try:
        (file_rows, *_) = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        (inner_rows, *_) = metadata["codecs"][0]["configuration"]["chunk_shape"]
        shape = tuple(metadata["shape"])
    except (LookupError, ValueError, TypeError):
        codecs = str(metadata.get("codecs"))[:120]
        raise _unmappable(place, f"expected sharding_indexed, found codecs {codecs}") from None
    geometry = ArrayGeometry(shape, np.dtype(data_type).newbyteorder("<"), file_rows, inner_rows)
    if not _is_possible(geometry):
        sizes = (
            f"shape {str(shape)[:80]} and chunk_shapes of {file_rows!r:.40} and {inner_rows!r:.40}"
        )
        raise _unmappable(
            place, f"expected whole numbers of a size that can be, found {sizes} rows"
        )
    expected = array_metadata(geometry)
    other = [name for name, value in expected.items() if metadata.get(name) != value]
    free = metadata.keys() - expected.keys() | {"fill_value"}
    other += [name for name in sorted(free) if not _may_be(name, metadata.get(name), geometry)]
    if other:
        raise _unmappable(place, f"its {' and '.join(other)} differ from ours")
    return geometry


def check_group_json(data: bytes, place: str) -> None:
    """Refuse, by an IntegrityError, a ``zarr.json`` that is no group's."""
    with suppress(IntegrityError):
        if len(data) <= _USUAL_BYTES:
            return _check_usual_group(data)
    return _check_group(data, place)


@lru_cache(maxsize=16)
def _check_usual_group(data: bytes) -> None:
    """The parts of an encoder have the same."""
    _check_group(data, "")


def _check_group(data: bytes, place: str) -> None:
    metadata = parse(dict[str, object], data, place)
    kind = {"zarr_format": 3, "node_type": "group"}
    attributes = metadata.pop("attributes", {})
    if metadata != kind or not isinstance(attributes, dict):
        message = f"{place}: expected {kind} and attributes, found {str(metadata)[:120]}"
        raise IntegrityError(message, hint=REPAIR)


def _may_be(name: str, value: object, geometry: ArrayGeometry) -> bool:
    """Whether a field that says nothing of the layout is one that every reader of Zarr takes."""
    if name == "fill_value" and geometry.dtype.kind == "f":
        return type(value) in (int, float) or value in ("NaN", "Infinity", "-Infinity")
    if name == "fill_value":
        limits = np.iinfo(geometry.dtype.name)
        return type(value) is int and limits.min <= value <= limits.max
    if name == "dimension_names":
        names = value if isinstance(value, list) else ()
        is_list = len(names) == len(geometry.shape) and all(
            isinstance(n, str | None) for n in names
        )
        return value is None or is_list
    if name == "attributes":
        return isinstance(value, dict)
    return name == "storage_transformers" and value == []


def _is_possible(geometry: ArrayGeometry) -> bool:
    """Whether an array of one or two axes can have these sizes; the numbers are from anyone."""
    sizes = (*geometry.shape, geometry.file_rows, geometry.inner_rows)
    if not 1 <= len(geometry.shape) <= 2 or not all(type(n) is int for n in sizes):
        return False
    if min(geometry.shape) < 0 or min((*geometry.shape[1:], *sizes[-2:])) < 1:
        return False
    n_chunks, rest = divmod(geometry.file_rows, geometry.inner_rows)
    largest = max(geometry.shape[0], geometry.file_rows) * geometry.row_bytes
    is_small = n_chunks <= _MAX_CHUNKS and geometry.row_bytes <= _MAX_ROW_BYTES
    return rest == 0 and is_small and largest < 1 << 62


def _unmappable(place: str, why: str) -> StoreError:
    return StoreError(
        f"{place}: cannot be mapped: {why}",
        hint=f"{command('store import')} stores rows of any array in the layout of the store",
    )
