"""Zarr v3 array metadata, and where the rows of an array lie in its files: pure, no I/O.

An array can be mapped when its grid splits axis 0 only and its codecs leave rows as they are:

(a) ``[bytes little]``                      a chunk file is rows, the last one padded to full size
(b) ``[bytes little, crc32c]``              the same and 4 bytes
(c) ``[sharding_indexed [bytes little]]``   inner chunks of rows and an index, at either end

Sources: the Zarr v3 core specification and its ``sharding-indexed`` codec. That codec promises
no order of the inner chunks, so a reader proves the order from the index (:func:`dense_offset`).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import IntegrityError, StoreError
from linprobe.records import JsonObject, JsonValue, canonical_json
from linprobe_store.format.checksums import crc32c

MISSING = 2**64 - 1
"""Offset and length in the index of an inner chunk that is not stored."""
_CRC_BYTES = 4
_MAPPABLE_TYPES = ("float16", "float32", "float64", "int64", "uint8")
_REPACK = "rewrite it uncompressed with 'linprobe store export' and 'linprobe store import'"


@dataclass(frozen=True)
class ArrayGeometry:
    """Where the rows of one mappable array lie."""

    shape: tuple[int, ...]
    """Shape of the array; rows are axis 0."""
    dtype: "np.dtype[np.generic]"
    """Little-endian dtype of an element."""
    file_rows: int
    """Rows of a full file: the shape of Zarr's grid along axis 0."""
    inner_rows: int
    """Rows of an inner chunk; equals ``file_rows`` where the array is not sharded."""
    sharded: bool
    """Whether files end or begin with a shard index."""
    index_crc: bool
    """Whether 4 bytes of crc32c follow the shard index."""
    index_at_end: bool
    """Whether the shard index is at the end of the file."""
    trailer_bytes: int
    """Bytes after the rows of an unsharded file: 4 where the codec crc32c is used."""
    key_prefix: str
    """What a chunk key begins with: ``c`` and the separator, or nothing."""
    separator: str
    """What separates the parts of a chunk key."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def n_files(self) -> int:
        """Number of files."""
        return -(-self.shape[0] // self.file_rows)

    @property
    def inner_per_file(self) -> int:
        """Inner chunks of a full file, and entries in every index."""
        return self.file_rows // self.inner_rows

    @property
    def index_bytes(self) -> int:
        """Bytes of a shard index with its checksum: two uint64 for every inner chunk."""
        if not self.sharded:
            return 0
        return 16 * self.inner_per_file + (_CRC_BYTES if self.index_crc else 0)

    def file_key(self, i: int) -> str:
        """Path of file ``i`` below the array's folder."""
        return self.key_prefix + self.separator.join([str(i), *["0"] * (len(self.shape) - 1)])

    def rows_in_file(self, i: int) -> int:
        """Rows of the array that lie in file ``i``."""
        return min(self.file_rows, self.shape[0] - i * self.file_rows)

    def stored_rows(self, i: int) -> int:
        """Rows in file ``i`` with the padding of its last chunk."""
        if not self.sharded:
            return self.file_rows
        return -(-self.rows_in_file(i) // self.inner_rows) * self.inner_rows

    def file_bytes(self, i: int) -> int:
        """Exact size of file ``i``."""
        return self.stored_rows(i) * self.row_bytes + self.index_bytes + self.trailer_bytes


def dense_index(n_stored: int, n_entries: int, chunk_bytes: int) -> bytes:
    """Shard index, with its crc32c, of ``n_stored`` inner chunks that lie back to back from 0."""
    index = np.full((n_entries, 2), MISSING, "<u8")
    index[:n_stored, 0] = np.arange(n_stored, dtype=np.uint64) * np.uint64(chunk_bytes)
    index[:n_stored, 1] = chunk_bytes
    raw = index.tobytes()
    return raw + crc32c(raw).to_bytes(_CRC_BYTES, "little")


def dense_offset(geometry: ArrayGeometry, i: int, index: bytes, place: str) -> int:
    """Offset of the rows of file ``i``, proved from its shard index.

    Raises
    ------
    IntegrityError : the index fails its checksum.
    StoreError : the inner chunks do not lie back to back in row order.
    """
    base = 0 if geometry.index_at_end else geometry.index_bytes
    chunk_bytes = geometry.inner_rows * geometry.row_bytes
    n_stored = geometry.stored_rows(i) // geometry.inner_rows
    if geometry.index_crc:
        index, checksum = index[:-_CRC_BYTES], index[-_CRC_BYTES:]
        if crc32c(index) != int.from_bytes(checksum, "little"):
            raise IntegrityError(f"{place}: the shard index fails its checksum", hint=_REPACK)
    entries: NDArray[np.uint64] = np.frombuffer(index, "<u8").reshape(-1, 2)
    expected = np.uint64(base) + np.arange(n_stored, dtype=np.uint64) * np.uint64(chunk_bytes)
    is_dense = (entries[:n_stored, 0] == expected).all()
    is_whole = (entries[:n_stored, 1] == chunk_bytes).all()
    if not (is_dense and is_whole and (entries[n_stored:] == MISSING).all()):
        raise StoreError(f"{place}: expected rows back to back in order, found gaps", hint=_REPACK)
    return base


def array_json(
    geometry: ArrayGeometry, fill: float | int | str, dimensions: tuple[str, ...]
) -> bytes:
    """``zarr.json`` of an array in the layout that this package writes, layout (c)."""
    little: JsonValue = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding: JsonValue = {
        "chunk_shape": [geometry.inner_rows, *geometry.shape[1:]],
        "codecs": [little if geometry.dtype.itemsize > 1 else {"name": "bytes"}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return canonical_json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": geometry.shape,
            "data_type": geometry.dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [geometry.file_rows, *geometry.shape[1:]]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": dimensions,
            "attributes": {},
        }
    )


def group_json(attributes: JsonValue) -> bytes:
    """``zarr.json`` of a group."""
    return canonical_json({"zarr_format": 3, "node_type": "group", "attributes": attributes})


def parse_geometry(json: JsonObject) -> ArrayGeometry:
    """Geometry of an array from its ``zarr.json``, whoever wrote it.

    Raises
    ------
    StoreError : the array is valid Zarr and cannot be mapped (compressed, big-endian, chunked
        along another axis, ...).
    IntegrityError : the metadata is not that of a Zarr v3 array.
    """
    if json.get("zarr_format") != 3 or json.get("node_type") != "array":
        raise IntegrityError(f"{json.place}: expected a Zarr v3 array", hint=_REPACK)
    shape = json.integers("shape")
    grid = json.object("chunk_grid")
    if grid.text("name") != "regular" or not shape or json.fields.get("storage_transformers"):
        raise _unmappable(json, "its grid is not regular, or it has storage transformers")
    outer = grid.object("configuration").integers("chunk_shape")
    data_type = json.get("data_type")
    if data_type not in _MAPPABLE_TYPES:
        raise _unmappable(json, f"its data type is {data_type}")
    sharding = _sharding(json)
    inner = outer if sharding is None else sharding.integers("chunk_shape")
    if (
        0 in shape[1:]
        or outer[1:] != shape[1:]
        or inner[1:] != shape[1:]
        or outer[:1] < (1,)
        or inner[:1] < (1,)
    ):
        raise _unmappable(json, f"its chunks {inner} in {outer} split more than axis 0 of {shape}")
    if outer[0] % inner[0]:
        raise IntegrityError(f"{json.place}: chunks {inner} do not divide {outer}", hint=_REPACK)
    prefix, separator = _chunk_keys(json)
    return ArrayGeometry(
        shape=shape,
        dtype=np.dtype(str(data_type)).newbyteorder("<"),
        file_rows=outer[0],
        inner_rows=inner[0],
        sharded=sharding is not None,
        index_crc=sharding is not None and len(sharding.list("index_codecs")) > 1,
        index_at_end=sharding is None or sharding.fields.get("index_location", "end") == "end",
        trailer_bytes=_CRC_BYTES if sharding is None and len(json.list("codecs")) > 1 else 0,
        key_prefix=prefix,
        separator=separator,
    )


def _sharding(json: JsonObject) -> JsonObject | None:
    """Configuration of the sharding codec; None for the plain layouts (a) and (b)."""
    names = [codec.text("name") for codec in json.objects("codecs")]
    if names == ["sharding_indexed"]:
        sharding = next(json.objects("codecs")).object("configuration")
        _only_bytes(sharding, "codecs", trailer=False)
        _only_bytes(sharding, "index_codecs", trailer=True)
        return sharding
    _only_bytes(json, "codecs", trailer=True)
    return None


def _only_bytes(json: JsonObject, field: str, *, trailer: bool) -> None:
    """Refuse codecs other than little-endian bytes and, where allowed, a crc32c after them."""
    codecs = list(json.objects(field))
    names = [codec.text("name") for codec in codecs]
    if names != ["bytes"] and not (trailer and names == ["bytes", "crc32c"]):
        raise _unmappable(json, f"its {field} are {names}")
    configuration = codecs[0].fields.get("configuration", {})
    if isinstance(configuration, dict) and configuration.get("endian", "little") != "little":
        raise _unmappable(json, "its bytes are big-endian")


def _chunk_keys(json: JsonObject) -> tuple[str, str]:
    """Prefix and separator of chunk keys; the defaults are those of the Zarr v3 specification."""
    encoding = json.object("chunk_key_encoding")
    is_default = encoding.text("name") == "default"
    configuration = encoding.fields.get("configuration", {})
    separator = "/" if is_default else "."
    if isinstance(configuration, dict):
        separator = str(configuration.get("separator", separator))
    return ("c" + separator if is_default else ""), separator


def _unmappable(json: JsonObject, why: str) -> StoreError:
    return StoreError(f"{json.place}: cannot be mapped: {why}", hint=_REPACK)
