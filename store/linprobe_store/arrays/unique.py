"""Keys that come more than once, of any number of keys in some 30 MB of memory.

A hash of 64 bits of each goes into sorted runs, in a file without a name once there are several;
equal hashes are then found range by range, and only the keys of these are compared as text.
"""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from linprobe_store.arrays.keys import Keys

_RUN = 1 << 20
"""Hashes of a run: 8 MiB."""
_EDGES = np.arange(-127, 128) * 2**56
"""Where the numbers of 64 bits are cut into 256 ranges."""


class KeyHashes:
    """Hashes of keys, of which those that come more than once are wanted.

    A context manager; leaving it removes the file.

    Parameters
    ----------
    folder : where the file is made; None means the system's place for temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._pending: list[NDArray[np.int64]] = []
        self._file: IO[bytes] | None = None
        self._runs: list[NDArray[np.int64]] = []
        """Where each range of a run begins in the file, and where the last one ends, in hashes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def take(self, keys: Keys) -> None:
        """Take more keys."""
        self._pending.append(keys.hashes())
        if sum(map(len, self._pending)) >= _RUN:
            self._write()

    def repeated(self) -> NDArray[np.int64]:
        """The hashes that came more than once, sorted."""
        if self._file is None:
            return _repeated(self._pending)
        self._write()
        self._file.flush()
        return np.concatenate([self._read(i) for i in range(len(_EDGES) + 1)])

    def _write(self) -> None:
        run = np.sort(np.concatenate([np.empty(0, np.int64), *self._pending]))
        self._pending = []
        if self._file is None:
            self._file = TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed on leaving
        start = self._runs[-1][-1] if self._runs else 0
        self._runs.append(start + np.array([0, *np.searchsorted(run, _EDGES), len(run)]))
        self._file.write(run.data)

    def _read(self, i: int) -> NDArray[np.int64]:
        """The hashes of a range that came more than once."""
        assert self._file is not None
        fd, pieces = self._file.fileno(), []
        for run in self._runs:
            start, stop = int(run[i]), int(run[i + 1])
            pieces.append(np.frombuffer(os.pread(fd, 8 * (stop - start), 8 * start), np.int64))
        return _repeated(pieces)


def _repeated(pieces: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    values = np.sort(np.concatenate([np.empty(0, np.int64), *pieces]))
    return np.unique(values[1:][values[1:] == values[:-1]])


def keys_of_hashes(values: NDArray[np.int64], keys: Keys) -> list[str]:
    """Keys that come more than once, of those with these hashes."""
    counts = Counter[str]()
    for block in keys.blocks() if len(values) else ():
        rows = np.flatnonzero(np.isin(block.hashes(), values))
        counts.update(block[int(row)] for row in rows)
    return [key for key, count in counts.items() if count > 1]
