"""Memory maps of Zarr arrays: rows on disk as read-only NumPy views, never copied, never filled.

A file is opened once: what is checked of it and what is read of it are the same map.
"""

import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import REPAIR, IntegrityError
from linprobe.records import open_regular, read_bytes
from linprobe_store.arrays.values import BadRow, find_bad_row, rows_at_once
from linprobe_store.format.checksums import (
    FileDigest,
    FileHasher,
    check_opened,
    compare_digests,
    digest_bytes,
)
from linprobe_store.format.layout import MAX_METADATA_BYTES
from linprobe_store.format.spec import FeatureArray
from linprobe_store.format.zarr_v3 import (
    ArrayGeometry,
    check_group_json,
    check_index,
    parse_geometry,
)

_SCATTERED = 8
"""Below one row in this many, pages are fetched singly (MADV_RANDOM): 2 to 3 times as fast on a
cold cache as letting the system read around every row, and ruinous for a scan."""

FileState: TypeAlias = tuple[int, int, int, int]
"""Inode, size, and times of the last change of content and of state, in nanoseconds."""
RowMap: TypeAlias = "np.memmap[tuple[int, ...], np.dtype[np.generic]]"


@dataclass(frozen=True)
class MappedFile:
    """A file of an array, mapped whole."""

    path: Path
    """Where it was opened."""
    digest: FileDigest
    """What it must be."""
    state: FileState | None
    """What it was when it was mapped; one that is still so has not been written to since. None
    where its bytes were copied, and nobody writes to them."""
    content: NDArray[np.uint8] = field(repr=False)
    """All its bytes, mapped or copied, read-only: rows, padding, index."""
    shape: tuple[int, ...]
    """Shape of its rows, which lie at the beginning."""
    dtype: "np.dtype[np.generic]"
    """Dtype of its rows."""

    @cached_property
    def rows(self) -> RowMap:
        """View of its rows."""
        n_bytes = math.prod(self.shape) * self.dtype.itemsize
        return cast("RowMap", self.content[:n_bytes].view(self.dtype).reshape(self.shape))

    def verify(self) -> BadRow | None:
        """Check all bytes of the map against the digest, and rows of floats for bad ones.

        One pass in blocks that stay in the cache. Gives the first row that must not be stored;
        raises an IntegrityError where the bytes are not those of the digest.
        """
        hasher, rows = FileHasher(strong=False), self.rows.view(np.ndarray)
        bad: BadRow | None = None
        step = rows_at_once(self.rows[:1].nbytes)
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            hasher.update(block)
            if bad is None and block.dtype.kind == "f":
                in_block = find_bad_row(cast("FeatureArray", block))
                bad = in_block and BadRow(start + in_block.row, in_block.problem)
        hasher.update(self.content[rows.nbytes :].view(np.ndarray))
        compare_digests(self.path, self.digest, hasher.digest())
        let_go(self.content)
        return bad

    def check_unchanged(self) -> None:
        """Refuse, by an IntegrityError, a file that is another, or was written to, since mapped."""
        if self.state is not None:
            with open_regular(self.path) as stream:
                self._check_state(stream)

    def scattered(self) -> NDArray[np.generic]:
        """The rows by a map of their own, advised for single rows; raises as check_unchanged."""
        with open_regular(self.path) as stream:
            self._check_state(stream)
            own = mmap.mmap(stream.fileno(), self.digest.bytes, access=mmap.ACCESS_READ)
        own.madvise(mmap.MADV_RANDOM)
        return np.ndarray(self.shape, self.dtype, own)

    def _check_state(self, stream: BinaryIO) -> None:
        if _state_of(os.fstat(stream.fileno())) != self.state:
            message = f"{self.path}: changed since it was opened"
            raise IntegrityError(message, hint="run the same command again")


@dataclass(frozen=True)
class MappedArray:
    """A Zarr array whose rows are mapped, one map for each of its files."""

    folder: Path
    """Folder of the array."""
    geometry: ArrayGeometry
    """Where its rows lie."""
    files: tuple[MappedFile, ...]
    """Its files, in row order."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.geometry.shape[0]

    @property
    def maps(self) -> tuple[RowMap, ...]:
        """Rows of each file, read-only, in row order."""
        return tuple(file.rows for file in self.files)

    def verify(self) -> BadRow | None:
        """Check every file, see ``MappedFile.verify``; gives the array's first bad row."""
        bad_rows = [file.verify() for file in self.files]
        for i, bad in enumerate(bad_rows):
            if bad is not None:
                return BadRow(i * self.geometry.file_rows + bad.row, bad.problem)
        return None

    def blocks(self, rows: int) -> Iterator[NDArray[np.generic]]:
        """Zero-copy views of consecutive rows, at most ``rows`` each; none spans two files."""
        for (view,) in side_by_side([self], rows):
            yield view

    def between(self, start: int, stop: int) -> NDArray[np.generic]:
        """Zero-copy view of the rows from ``start`` up to ``stop``, at least one, of one file."""
        number, first = divmod(start, self.geometry.file_rows)
        return self.files[number].rows.view(np.ndarray)[first : first + stop - start]

    def whole(self) -> NDArray[np.generic]:
        """All rows: a view of the map where there is one file, a copy where there are several."""
        if len(self.files) == 1:
            return self.files[0].rows.view(np.ndarray)
        empty = np.empty((0, *self.geometry.shape[1:]), self.geometry.dtype)
        return np.concatenate([empty, *self.maps])

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        """Copy of the rows at ``indices`` (m,), each in [0, n), in the order given.

        Raises an IntegrityError where few rows are wanted and their file changed since mapped.
        """
        out = np.empty((len(indices), *self.geometry.shape[1:]), self.geometry.dtype)
        numbers, local = np.divmod(indices, self.geometry.file_rows)
        for i in np.unique(numbers):
            in_file, file = numbers == i, self.files[i]
            is_scattered = len(indices) * _SCATTERED < self.rows
            # Advice given to the shared map would slow down its scans.
            rows = file.scattered() if is_scattered else file.rows.view(np.ndarray)
            out[in_file] = rows[local[in_file]]
        return out


def let_go(rows: NDArray[np.generic]) -> None:
    """Give the pages of a view of a map back to the system, which keeps their content while it can.

    Dask stops and kills a worker by its resident memory, mapped pages included. Views of other
    memory are left as they are.
    """
    whole = rows
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    pages: object = whole.base
    if isinstance(pages, mmap.mmap):
        start = rows.ctypes.data - whole.ctypes.data
        end = min(len(pages), start + rows.nbytes)
        start -= start % mmap.PAGESIZE
        pages.madvise(mmap.MADV_DONTNEED, start, end - start)


def side_by_side(
    arrays: Sequence[MappedArray], rows: int
) -> Iterator[tuple[NDArray[np.generic], ...]]:
    """Zero-copy views of the same rows of each array, at most ``rows``; none spans two files."""
    n = arrays[0].rows
    # A row may lie in the third file of one array and in the first of another.
    starts = {start for array in arrays for start in range(0, n, array.geometry.file_rows)}
    for first, end in pairwise([*sorted(starts), n]):
        for start in range(first, end, rows):
            stop = min(start + rows, end)
            yield tuple(array.between(start, stop) for array in arrays)


def map_array(folder: Path, files: Mapping[str, FileDigest], copied_bytes: int = 0) -> MappedArray:
    """Map anyone's array of our layout, of the files of a table and of no others.

    ``files`` has the digest of each file by its path below ``folder``; one of at most
    ``copied_bytes`` is read, which takes less than to map it. Raises an IntegrityError
    where one is damaged, missing or not in the table, and a StoreError for other Zarr.
    """
    metadata = folder / "zarr.json"
    data = _read_metadata(metadata, files.get("zarr.json"))
    geometry = parse_geometry(data, str(metadata))
    # One entry is that of zarr.json: a shape of too many files ends at one that is not listed.
    keys = [geometry.file_key(i) for i in range(min(geometry.n_files, len(files)))]
    digests = [_listed(folder / key, files.get(key)) for key in keys]
    if extra := sorted(files.keys() - {"zarr.json", *keys}):
        message = f"{folder / extra[0]}: expected {len(keys)} files of rows by the array's shape"
        raise IntegrityError(f"{message}, found it in the commit's files", hint=REPAIR)
    mapped = [_map_file(folder, geometry, i, digests[i], copied_bytes) for i in range(len(keys))]
    return MappedArray(folder, geometry, tuple(mapped))


def check_group(path: Path, digest: FileDigest | None) -> None:
    """Refuse, by an IntegrityError, a ``zarr.json`` that is no group's, or not of its digest."""
    check_group_json(_read_metadata(path, digest), str(path))


def _read_metadata(path: Path, digest: FileDigest | None) -> bytes:
    expected = _listed(path, digest)
    data = read_bytes(path, limit=MAX_METADATA_BYTES)
    compare_digests(path, expected, digest_bytes(data, strong=False))
    return data


def _listed(path: Path, digest: FileDigest | None) -> FileDigest:
    if digest is None:
        message = f"{path}: expected in the commit's files, found no such entry"
        raise IntegrityError(message, hint=REPAIR)
    return digest


def _map_file(
    folder: Path, geometry: ArrayGeometry, i: int, digest: FileDigest, copied_bytes: int
) -> MappedFile:
    """Map a file once its size is proved, and its rows once its shard index is."""
    path, n_bytes = folder / geometry.file_key(i), geometry.file_bytes(i)
    state: FileState | None = None
    content: NDArray[np.uint8]
    with open_regular(path) as stream:
        status = check_opened(path, stream, n_bytes)
        if n_bytes <= copied_bytes:
            content = np.frombuffer(stream.read(n_bytes), np.uint8)
        else:
            state = _state_of(status)
            content = np.memmap(stream, np.uint8, "r", shape=(n_bytes,))
    check_index(geometry, i, content[geometry.index_start(i) :].tobytes(), str(path))
    shape = (geometry.rows_in_file(i), *geometry.shape[1:])
    return MappedFile(path, digest, state, content, shape, geometry.dtype)


def _state_of(status: os.stat_result) -> FileState:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
