"""Images that come twice, byte for byte: in two splits, or in one.

Few are equal, so 8 bytes of each digest find those that may be, and all 32 decide between them.
Memory is 8 bytes a row of one split, however large the other is.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from linprobe_store.arrays.mapping import MappedArray
from linprobe_store.handles.split import Split

_BLOCK_ROWS = 1 << 16


def same_images(first: Split, second: Split) -> NDArray[np.int64]:
    """Rows of a split whose images come in another one, or came before in the same one.

    Parameters
    ----------
    first, second : sealed splits; the same one twice means its own rows.

    Returns
    -------
    (m, 2): a row of ``first``, the earliest of its image, and a row of ``second`` with that image;
    every such row of ``second`` once, in order. m = 0 where either has no digests of images.

    Raises
    ------
    IntegrityError : the digests are damaged.
    """
    ours, theirs = first.arrays.read_image_sha256(), second.arrays.read_image_sha256()
    if ours is None or theirs is None:
        return np.empty((0, 2), np.int64)
    values = np.concatenate([np.empty(0, np.uint64), *(v for _, v in _prefixes(theirs))])
    values.sort()
    if ours is theirs:
        values = values[1:][values[1:] == values[:-1]]
    else:
        shared = [v[_are_in(v, values)] for _, v in _prefixes(ours)]
        values = np.unique(np.concatenate([values[:0], *shared]))
    earliest: dict[bytes, int] = {}
    for row, digest in _rows_of(ours, values):
        earliest.setdefault(digest, row)
    pairs = [(earliest.get(digest, -1), row) for row, digest in _rows_of(theirs, values)]
    is_same = ours is theirs
    kept = [
        (before, row) for before, row in pairs if before >= 0 and not (is_same and before == row)
    ]
    return np.array(kept, np.int64).reshape(-1, 2)


def _prefixes(digests: MappedArray) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """The first 8 bytes of consecutive digests, each block after the number of its first row."""
    start = 0
    for block in digests.blocks(_BLOCK_ROWS):
        yield start, np.ascontiguousarray(block[:, :8]).view(np.uint64)[:, 0]
        start += len(block)


def _are_in(prefixes: NDArray[np.uint64], values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of them are among sorted values."""
    if not len(values):
        return np.zeros(len(prefixes), np.bool_)
    places = np.searchsorted(values, prefixes)
    is_in: NDArray[np.bool_] = values[np.minimum(places, len(values) - 1)] == prefixes
    return is_in


def _rows_of(digests: MappedArray, values: NDArray[np.uint64]) -> Iterator[tuple[int, bytes]]:
    """Rows whose digest begins with one of the values, and the whole digest."""
    for start, prefixes in _prefixes(digests):
        rows = start + np.flatnonzero(_are_in(prefixes, values))
        for row, digest in zip(rows.tolist(), digests.take(rows) if len(rows) else (), strict=True):
            yield row, digest.tobytes()
