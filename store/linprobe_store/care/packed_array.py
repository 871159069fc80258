"""One array of a packed split in zarr's hands: its metadata, and its chunks one by one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import REPAIR, IntegrityError
from linprobe.records import canonical_json, parse, plain
from linprobe_store.arrays.mapping import MappedArray
from linprobe_store.format.zarr_v3 import ArrayGeometry

_CHUNK_BYTES = 8 << 20
"""Bytes of a chunk before compression: large enough for the codec, small enough to resume."""
_HEADER_BYTES = 16
"""Of a blosc chunk: at 4 its bytes when decoded, at 12 its own, as little-endian uint32."""
_METADATA = "zarr.json"


class PackedArray:
    """The packed form of an array of a sealed split, of which memory holds one chunk.

    ``geometry`` and ``sealed``, its ``zarr.json``, are those of the sealed form.
    """

    def __init__(self, geometry: ArrayGeometry, sealed: str) -> None:
        self.geometry = geometry
        fields = parse(dict[str, Any], sealed.encode(), "sealed metadata")
        fill = fields.get("fill_value")
        self.fill: int | str = fill if type(fill) is int else "NaN"
        """As the sealed form pads the last rows of a file."""
        self._dimensions = fields.get("dimension_names")
        self.chunk_rows = max(1, min(_CHUNK_BYTES // max(1, geometry.row_bytes), geometry.shape[0]))
        """Rows of a chunk."""
        self.n_chunks = -(-geometry.shape[0] // self.chunk_rows)
        """Number of chunks."""
        self.max_chunk_bytes = self.chunk_rows * geometry.row_bytes + 4096
        """Largest file of a chunk; where it does not shrink, blosc adds 16 bytes."""
        self._made: tuple[Any, dict[str, Any]] | None = None

    def chunk_key(self, i: int) -> str:
        """Path of chunk ``i`` below the array's folder."""
        return "/".join(["c", str(i), *["0"] * (len(self.geometry.shape) - 1)])

    def rows_of(self, mapped: MappedArray, i: int) -> NDArray[np.generic]:
        """Rows of chunk ``i`` of the sealed array."""
        start = i * self.chunk_rows
        stop = min(start + self.chunk_rows, mapped.rows)
        return mapped.take(np.arange(start, stop))

    @property
    def metadata(self) -> bytes:
        """Its ``zarr.json``."""
        _, files = self._array()
        fields = parse(dict[str, object], files[_METADATA].to_bytes(), _METADATA)
        return canonical_json(plain(fields))

    def check_metadata(self, data: bytes, place: str) -> None:
        """Refuse, by an IntegrityError, a ``zarr.json`` that lays rows out in another way."""
        expected, fields = (
            parse(dict[str, object], content, place) for content in (self.metadata, data)
        )
        for name in ("zarr_format", "node_type", "shape", "data_type", "chunk_grid",
                     "chunk_key_encoding", "codecs", "storage_transformers"):  # fmt: skip
            if fields.get(name) != expected.get(name):
                message = f"{place}: expected {name} {expected.get(name)}, found another"
                raise IntegrityError(message, hint=REPAIR)

    def encode(self, i: int, rows: NDArray[np.generic]) -> bytes:
        """Compressed chunk ``i``, of these rows."""
        array, files = self._array()
        array[i * self.chunk_rows : i * self.chunk_rows + len(rows)] = rows
        data: bytes = files.pop(self.chunk_key(i)).to_bytes()
        return data

    def decode(self, i: int, data: bytes) -> NDArray[np.generic]:
        """Rows of a compressed chunk, in memory for the rows alone; ValueError for another one."""
        from zarr.core.buffer import default_buffer_prototype

        n_bytes = self.chunk_rows * self.geometry.row_bytes
        sizes = [int.from_bytes(data[at : at + 4], "little") for at in (4, 12)]
        if len(data) < _HEADER_BYTES or sizes != [n_bytes, len(data)]:
            raise ValueError(f"chunk {i}: expected {n_bytes} bytes, compressed to {len(data)}")
        array, files = self._array()
        files[self.chunk_key(i)] = default_buffer_prototype().buffer.from_bytes(data)
        start = i * self.chunk_rows
        try:
            rows = np.asarray(array[start : start + self.chunk_rows])
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"chunk {i}: {error}") from error
        finally:
            files.pop(self.chunk_key(i), None)
        return rows

    def _array(self) -> tuple[Any, dict[str, Any]]:
        """The array and the files that zarr keeps of it, in memory; made when first needed."""
        if self._made is None:
            # Imported here: only a packed copy pays for the half second.
            import zarr
            from zarr.codecs import BloscCodec, BloscShuffle

            files: dict[str, Any] = {}
            shape = self.geometry.shape
            array = zarr.create_array(
                files,
                shape=shape,
                dtype=self.geometry.dtype,
                chunks=(self.chunk_rows, *shape[1:]),
                compressors=BloscCodec(cname="zstd", clevel=5, shuffle=BloscShuffle.bitshuffle),
                fill_value=float(self.fill) if self.fill == "NaN" else self.fill,
                dimension_names=self._dimensions,
                config={"write_empty_chunks": True},
            )
            self._made = array, files
        return self._made
