"""What rows, labels and keys may be: one test for those who write them and those who read them."""

import codecs
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linprobe_store.format.spec import FeatureArray, LabelArray

_BLOCK_BYTES = 256 << 10
"""Bytes checked at once: they and what is computed of them stay in the cache of a core."""
NotFinite = Literal["finite values, found NaN or infinity"]
AllZero = Literal["features, found all zeros"]


@dataclass(frozen=True)
class BadRow:
    """A row of features that must not be stored."""

    row: int
    """Where it is."""
    problem: NotFinite | AllZero
    """What was expected, and what was found."""


def rows_at_once(row_bytes: int) -> int:
    """Rows of a block that stays in the cache of a core."""
    return max(1, _BLOCK_BYTES // row_bytes)


def find_bad_row(features: FeatureArray) -> BadRow | None:
    """The first row of features (n, d) that is not finite, or else the first that is all zero.

    Works on the bits, at about 10 GB/s: without the sign bit, float16 and float32 order like
    unsigned integers, and all values from the infinity's bits on are infinities and NaNs.
    """
    dtype = features.dtype.newbyteorder("=")
    unsigned = np.dtype(f"u{dtype.itemsize}").type
    infinity = np.array(np.inf, dtype).view(unsigned)
    magnitude_mask = unsigned(np.iinfo(unsigned).max >> 1)
    bits: NDArray[np.unsignedinteger] = np.ascontiguousarray(features, dtype).view(unsigned)
    step = rows_at_once(max(1, bits.shape[1] * dtype.itemsize))
    for start in range(0, len(bits), step):
        largest = (bits[start : start + step] & magnitude_mask).max(axis=1)
        if (largest >= infinity).any():
            row = start + int((largest >= infinity).argmax())
            return BadRow(row, "finite values, found NaN or infinity")
        if not largest.all():
            return BadRow(start + int((largest == 0).argmax()), "features, found all zeros")
    return None


def label_problem(labels: LabelArray, n_classes: int) -> str | None:
    """What is wrong with class ids not in [0, k), or multi-hot labels not k columns of 0 and 1."""
    if not len(labels):
        return None
    if labels.ndim == 2 and (labels.shape[1] != n_classes or labels.max() > 1):
        given = f"{labels.shape[1]} columns up to {labels.max(initial=0)}"
        return f"expected {n_classes} columns of 0 and 1, found {given}"
    if labels.ndim == 1 and (labels.min() < 0 or labels.max() >= n_classes):
        wanted = f"labels in 0..{n_classes - 1} ({n_classes} classes)"
        return f"expected {wanted}, found {labels.min()}..{labels.max()}"
    return None


def find_bad_key(offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> int | None:
    """The first key that is not UTF-8 of its own, of keys back to back in ``data``."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    edges = offsets[:-1][offsets[:-1] < len(data)]
    try:
        for start in range(0, len(data), _BLOCK_BYTES):
            decoder.decode(data[start : start + _BLOCK_BYTES].tobytes())
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        is_whole = False
    else:  # a byte 10xxxxxx goes on with the character before it
        is_whole = not (data[edges] & 0xC0 == 0x80).any()
    if is_whole:
        return None
    for row, (start, stop) in enumerate(pairwise(offsets.tolist())):
        try:
            data[start:stop].tobytes().decode()
        except UnicodeDecodeError:
            return row
    return None
