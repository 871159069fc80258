"""Labelled features, (n, d) of k classes, as views of arrays or memory maps in blocks (b, d)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linprobe.errors import DataError
from linprobe_store.format.spec import FeatureArray, LabelArray
from linprobe_store.handles.split import Split

AnyFeatures: TypeAlias = FeatureArray | NDArray[np.float64]
"""Features (n, d): float16 or float32 as stored, or float64 from a Python program."""

Features: TypeAlias = Split | ArrayLike
"""What the public functions take: a stored split, or an array (n, d)."""

BLOCK_ROWS = 1024
"""Rows read at once: 2 MB of float32 at d = 512, which stays in a core's cache between the two
products that use it; larger blocks were not faster."""

MAX_LANES = 64
"""Lanes of a read, at most: what is summed of each is summed up one fixed tree over them, so that
no bit depends on who reads which; also the most threads or processes that help."""


@dataclass(frozen=True)
class Origin:
    """Where a block lies in a store."""

    split: Split
    """Whose rows."""
    tap: str
    """Of which point of the encoder."""
    index: int
    """Which of the split's blocks."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one array, or some of them."""

    features: AnyFeatures
    """(b, d) view, never written."""
    take: NDArray[np.intp] | None = None
    """Positions to use, ascending; None for all."""
    beside: tuple[AnyFeatures, ...] = ()
    """More columns of the same rows: views (b, d) of the other taps that are joined."""
    origin: Origin | None = None
    """None for an array of this process alone."""

    @property
    def n(self) -> int:
        """Rows used."""
        return len(self.features) if self.take is None else len(self.take)

    @property
    def dim(self) -> int:
        """Columns, of all taps."""
        return sum(int(view.shape[1]) for view in (self.features, *self.beside))

    def read(self) -> AnyFeatures:
        """Give the rows used, (n, d): a view where all of one tap are used, else a copy."""
        views = [self.features, *self.beside]
        used = views if self.take is None else [view[self.take] for view in views]
        return cast("AnyFeatures", used[0] if len(used) == 1 else np.concatenate(used, axis=1))

    def at(self, positions: NDArray[np.int64]) -> "Block":
        """Use only some of the rows used."""
        take = positions if self.take is None else self.take[positions]
        return replace(self, take=take)


@dataclass(frozen=True)
class Rows:
    """Labelled features in a fixed order."""

    blocks: tuple[Block, ...]
    """In row order; none is empty."""
    labels: LabelArray
    """(n,) int64 class ids, or (n, k) uint8 multi-hot."""
    n_classes: int
    """k; labels lie in [0, k)."""
    weights: NDArray[np.float64] | None = None
    """(n,) of a fit, all >= 0 and not all 0; None for ones."""
    fitted: NDArray[np.int64] | None = None
    """Class ids of the dataset that the labels stand for, ascending; None where they are those."""

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @property
    def dim(self) -> int:
        """Feature dimension d."""
        return self.blocks[0].dim

    @property
    def multi_label(self) -> bool:
        """Whether a row can have several classes."""
        return self.labels.ndim == 2

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """First row of every block, and n: (number of blocks + 1,)."""
        return np.concatenate(([0], np.cumsum([block.n for block in self.blocks]))).astype(np.int64)

    def pairs(self) -> Iterator[tuple[int, Block]]:
        """Every block with its first row."""
        yield from zip(self.offsets.tolist(), self.blocks, strict=False)

    @cached_property
    def lanes(self) -> tuple[tuple[int, "Rows"], ...]:
        """First row and rows of near-equal ranges of blocks, a function of the rows alone."""
        count = min(MAX_LANES, len(self.blocks))
        edges = np.linspace(0, len(self.blocks), count + 1).astype(int).tolist()
        lanes = []
        for start, stop in pairwise(edges):
            span = slice(int(self.offsets[start]), int(self.offsets[stop]))
            weights = None if self.weights is None else self.weights[span]
            blocks, labels = self.blocks[start:stop], self.labels[span]
            part = replace(self, blocks=blocks, labels=labels, weights=weights)
            lanes.append((span.start, part))
        return tuple(lanes)

    def numbered(self, fitted: NDArray[np.int64]) -> "Rows":
        """These rows with labels, or columns of them, for these classes alone, ascending."""
        if self.multi_label:
            labels: LabelArray = np.ascontiguousarray(self.labels[:, fitted], np.uint8)
        else:
            labels = np.searchsorted(fitted, self.labels)
        return replace(self, labels=labels, n_classes=len(fitted), fitted=fitted)

    def select(self, keep: NDArray[np.bool_]) -> "Rows":
        """Keep the rows marked in ``keep``, (n,); their order stays."""
        blocks = []
        for start, block in self.pairs():
            marked = keep[start : start + block.n]
            if marked.any():
                blocks.append(block if marked.all() else block.at(np.flatnonzero(marked)))
        weights = None if self.weights is None else self.weights[keep]
        return replace(self, blocks=tuple(blocks), labels=self.labels[keep], weights=weights)

    def join(self, other: "Rows") -> "Rows":
        """These rows, then the others; DataError where dimension, classes or kind differ."""
        ours = self.dim, self.n_classes, self.multi_label
        theirs = other.dim, other.n_classes, other.multi_label
        if ours != theirs:
            what = f"cannot join rows of (dim, classes, multi-label) {ours} and {theirs}"
            raise DataError(what, hint="use splits of the same dataset and the same encoder")
        labels, weights = np.concatenate([self.labels, other.labels]), None
        if self.weights is not None or other.weights is not None:
            given = [np.ones(r.n) if r.weights is None else r.weights for r in (self, other)]
            weights = np.concatenate(given)
        return replace(self, blocks=self.blocks + other.blocks, labels=labels, weights=weights)

    def gather(self, indices: NDArray[np.int64]) -> AnyFeatures:
        """Copy the rows at ``indices``, ascending, as one array (len(indices), d)."""
        edges = np.searchsorted(indices, self.offsets)
        out = np.empty((len(indices), self.dim), self._dtype)
        for i in np.flatnonzero(np.diff(edges)).tolist():
            span = slice(edges[i], edges[i + 1])
            out[span] = self.blocks[i].at(indices[span] - self.offsets[i]).read()
        return cast("AnyFeatures", out)

    @cached_property
    def _dtype(self) -> np.dtype[np.generic]:
        return np.result_type(*{block.features.dtype for block in self.blocks})


def spans_of(n: int, rows: int = BLOCK_ROWS) -> list[slice]:
    """0 to n in blocks."""
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


def rows_of_views(views: Sequence[AnyFeatures], labels: LabelArray, n_classes: int) -> Rows:
    """Rows over arrays (b, d) that follow one another.

    ``DataError``: no rows, another number of labels than rows, a label outside [0, k), or a
    multi-hot matrix that is not (n, k) of 0 and 1.
    """
    return _checked(tuple(Block(view) for view in views if len(view)), labels, n_classes)


def _checked(blocks: tuple[Block, ...], labels: LabelArray, n_classes: int) -> Rows:
    n = sum(block.n for block in blocks)
    if n == 0:
        raise DataError("there are no rows", hint="extract the split, or give it some rows")
    if n != len(labels):
        what = f"{n} rows of features and {len(labels)} labels"
        raise DataError(what, hint="give one label for every row")
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if labels.ndim == 2 and (labels.shape[1] != n_classes or high > 1):
        what = f"multi-hot labels of shape {labels.shape} with values up to {high}; "
        what += f"expected (n, {n_classes}) of 0 and 1"
        raise DataError(what, hint="give one column for every class")
    if labels.ndim == 1 and (low < 0 or high >= n_classes):
        what = f"label {low if low < 0 else high} is outside 0..{n_classes - 1}, "
        what += f"the range of {n_classes} classes"
        raise DataError(what, hint="number the classes from 0 without gaps")
    return Rows(blocks, labels, n_classes)


def rows_of_split(split: Split, tap: str) -> Rows:
    """Rows of a stored split, through its maps; taps joined by ``+`` are read side by side.

    ``DataError``: empty, or labels out of range. ``NotFoundError``: no such tap.
    """
    views = enumerate(split.views(tap, rows=BLOCK_ROWS))
    blocks = [
        Block(first, beside=tuple(beside), origin=Origin(split, tap, index))
        for index, (first, *beside) in views
    ]
    return _checked(tuple(blocks), split.labels, len(split.classes))


def rows_of_array(features: AnyFeatures, labels: LabelArray, n_classes: int) -> Rows:
    """Rows over one array (n, d); see :func:`rows_of_views`."""
    starts = range(0, len(features), BLOCK_ROWS)
    return rows_of_views([features[i : i + BLOCK_ROWS] for i in starts], labels, n_classes)


def as_matrix(features: ArrayLike) -> AnyFeatures:
    """View numbers (n, d) as floats, float64 where they are none; DataError for anything else."""
    array = np.asarray(features)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        what = f"features of shape {array.shape} and type {array.dtype}; expected numbers (n, d)"
        raise DataError(what, hint="give one row of features for every sample")
    kind = array.dtype if array.dtype in (np.float16, np.float32) else np.dtype(np.float64)
    return cast("AnyFeatures", array.astype(kind, copy=False))
