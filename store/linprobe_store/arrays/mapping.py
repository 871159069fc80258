"""Memory maps of Zarr arrays: rows on disk as read-only NumPy views, never copied, never filled."""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import REPAIR, IntegrityError, unreadable
from linprobe.records import read_bytes
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
        if not self.maps:
            return np.empty(self.geometry.shape, self.geometry.dtype)
        return np.concatenate(self.maps)

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        """Copy of the rows at ``indices`` (m,), each in [0, n), in the order given."""
        out = np.empty((len(indices), *self.geometry.shape[1:]), self.geometry.dtype)
        is_scattered = len(indices) * _SCATTERED < self.rows
        files, local = np.divmod(indices, self.geometry.file_rows)
        for i in np.unique(files):
            in_file = files == i
            source = self._scattered_map(int(i)) if is_scattered else self.maps[i].view(np.ndarray)
            out[in_file] = source[local[in_file]]
        return out

    def _scattered_map(self, i: int) -> NDArray[np.generic]:
        """A map of its own, since advice given to a shared map would slow down scans of it."""
        with (self.folder / self.geometry.file_key(i)).open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.madvise(mmap.MADV_RANDOM)
        shape = (self.geometry.rows_in_file(i), *self.geometry.shape[1:])
        return np.ndarray(shape, self.geometry.dtype, mapped)


def map_array(folder: Path) -> MappedArray:
    """Map a Zarr v3 array in the layout of the store, whoever wrote it.

    Raises
    ------
    IntegrityError : a file is missing, of another size, or its shard index is damaged.
    StoreError : valid Zarr that cannot be mapped (compressed, rows out of order, ...).
    """
    metadata = folder / "zarr.json"
    geometry = parse_geometry(read_bytes(metadata), str(metadata))
    return MappedArray(
        folder, geometry, tuple(_map_file(folder, geometry, i) for i in range(geometry.n_files))
    )


def _map_file(
    folder: Path, geometry: ArrayGeometry, i: int
) -> "np.memmap[tuple[int, ...], np.dtype[np.generic]]":
    """Map the rows of a file once its size and its shard index are proved."""
    path = folder / geometry.file_key(i)
    expected = geometry.file_bytes(i)
    try:
        with path.open("rb") as stream:
            n_bytes = stream.seek(0, os.SEEK_END)
            if n_bytes != expected:
                raise IntegrityError(
                    f"{path}: expected {expected} bytes, found {n_bytes}", hint=REPAIR
                )
            stream.seek(expected - geometry.index_bytes)
            check_index(geometry, i, stream.read(), str(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise IntegrityError(f"{path}: missing, expected {expected} bytes", hint=REPAIR) from None
    except OSError as error:
        raise unreadable(path, error) from error
    shape = (geometry.rows_in_file(i), *geometry.shape[1:])
    return np.memmap(path, geometry.dtype, "r", 0, shape)
