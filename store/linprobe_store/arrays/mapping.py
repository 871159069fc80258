"""Memory maps of Zarr arrays: rows on disk as read-only NumPy views, never copied, never filled."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import unreadable
from linprobe.records import read_bytes
from linprobe_store.format.checksums import check_size
from linprobe_store.format.zarr_v3 import ArrayGeometry, check_index, parse_geometry

_SCATTERED = 8
"""Below one row in this many, pages are fetched singly (MADV_RANDOM): 2 to 3 times as fast on a
cold cache as letting the system read around every row, and ruinous for a scan."""


@dataclass(frozen=True)
class MappedArray:
    """A Zarr array whose rows are mapped, one map for each of its files."""

    folder: Path
    """Folder of the array."""
    geometry: ArrayGeometry
    """Where its rows lie."""
    maps: tuple["np.memmap[tuple[int, ...], np.dtype[np.generic]]", ...]
    """Rows of each file, read-only, in row order."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.geometry.shape[0]

    def blocks(self, rows: int) -> Iterator[NDArray[np.generic]]:
        """Zero-copy views of consecutive rows, at most ``rows`` each; none spans two files."""
        for mapped in self.maps:
            array = mapped.view(np.ndarray)
            for start in range(0, len(array), rows):
                yield array[start : start + rows]

    def whole(self) -> NDArray[np.generic]:
        """All rows: a view of the map where there is one file, a copy where there are several."""
        if len(self.maps) == 1:
            return self.maps[0].view(np.ndarray)
        empty = np.empty((0, *self.geometry.shape[1:]), self.geometry.dtype)
        return np.concatenate([empty, *self.maps])

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        """Copy of the rows at ``indices`` (m,), each in [0, n), in the order given."""
        out = np.empty((len(indices), *self.geometry.shape[1:]), self.geometry.dtype)
        files, local = np.divmod(indices, self.geometry.file_rows)
        for i in np.unique(files):
            in_file, rows = files == i, self.maps[i].view(np.ndarray)
            if len(indices) * _SCATTERED < self.rows:
                # A map of its own: advice given to the shared one would slow down its scans.
                with (self.folder / self.geometry.file_key(int(i))).open("rb") as stream:
                    own = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                own.madvise(mmap.MADV_RANDOM)
                rows = np.ndarray(rows.shape, rows.dtype, own)
            out[in_file] = rows[local[in_file]]
        return out


def map_array(folder: Path) -> MappedArray:
    """Map anyone's array of our layout; IntegrityError if damaged, StoreError for other Zarr."""
    metadata = folder / "zarr.json"
    geometry = parse_geometry(read_bytes(metadata), str(metadata))
    maps = tuple(_map_file(folder, geometry, i) for i in range(geometry.n_files))
    return MappedArray(folder, geometry, maps)


def _map_file(
    folder: Path, geometry: ArrayGeometry, i: int
) -> "np.memmap[tuple[int, ...], np.dtype[np.generic]]":
    """Map the rows of a file once its size and its shard index are proved."""
    path = folder / geometry.file_key(i)
    check_size(path, geometry.file_bytes(i))
    try:
        with path.open("rb") as stream:
            stream.seek(geometry.index_start(i))
            check_index(geometry, i, stream.read(), str(path))
    except OSError as error:
        raise unreadable(path, error) from error
    shape = (geometry.rows_in_file(i), *geometry.shape[1:])
    return np.memmap(path, geometry.dtype, "r", 0, shape)
