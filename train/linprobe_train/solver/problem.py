"""The problem the solver sees: prepared rows in its own coordinates, targets and row weights.

Objective, per unit weight (S = sum of row weights; scikit-learn's divided by C S):

    F(W, b) = (1/S) sum_i w_i loss(W x_i + b, y_i) + l2/2 ||W||^2,    l2 = 1 / (C S)

Coordinates: rows are centred (the intercept is free, so this changes nothing but b) and turned
into the principal axes of a sample of rows (W is turned with them, ||W|| stays). A resident copy is
turned once; streamed rows stay as they are, and W and the gradient are turned at every pass.
Of few rows only the axes of their span are kept: what of W is orthogonal to it adds to the ridge.

n rows, d axes, m logit columns: k for softmax and multi-label, 1 for two classes.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from linprobe_train.solver.losses import Loss
from linprobe_train.solver.preparation import (
    Arithmetic,
    Float32,
    Float64,
    Preparation,
    Real,
)
from linprobe_train.solver.reads.axes import Gather, axes_of_span, principal_axes
from linprobe_train.solver.reads.reading import Reading, hot_labels
from linprobe_train.solver.rows import BLOCK_ROWS, MAX_LANES, Block, Rows, spans_of

if TYPE_CHECKING:
    from linprobe_train.solver.passes import Crew

PILOT_ROWS = 16384
"""Rows sampled for the principal axes and the curvature: both only steer the path to the optimum,
never the optimum itself."""


@dataclass(frozen=True)
class Sizes:
    """What the memory of a fit depends on; every module says what of it its own arrays take."""

    n: int
    """Rows."""
    d: int
    """Features of a row."""
    m: int
    """Logit columns."""
    threads: int
    """Of the crew."""
    value: int = 4
    """Bytes of a prepared feature."""
    label: int = 8
    """Bytes of the labels of a row."""
    fetched: bool = False
    """Whether rows that are gathered come from workers, and are copied once more."""

    @property
    def place(self) -> int:
        """Entries of V = [W | b]."""
        return self.m * (self.d + 1)

    @property
    def pilot(self) -> int:
        """Entries of the pilot rows."""
        return min(self.n, PILOT_ROWS) * self.d

    @property
    def block(self) -> int:
        """Entries of a block of rows."""
        return min(self.n, BLOCK_ROWS) * self.d

    @property
    def logits(self) -> int:
        """Entries of its logits."""
        return min(self.n, BLOCK_ROWS) * self.m


@dataclass(frozen=True)
class Problem:
    """Everything about the data that a fit needs; C is not part of it."""

    loss: Loss
    """softmax; sigmoid for multi-label rows and for two classes, which share one logit."""
    targets: NDArray[np.int64] | NDArray[np.uint8]
    """In row order. softmax: (n,) class ids; sigmoid: (n, m) of 0 and 1."""
    mean: Float64
    """(d,) subtracted from prepared rows."""
    rotation: Float64
    """(features, d) with orthonormal columns by ascending variance: coordinates are
    (x - mean) @ rotation."""
    steepest: float
    """Mean square of the last coordinate, the one of the largest variance."""
    pilot: Float32 | None
    """(s, d) sampled rows, turned: the metric's diagonal where rows are streamed; None where they
    are resident."""
    pilot_rows: NDArray[np.int64]
    """(s,) which rows those are, ascending."""
    pilot_share: Float32
    """(s,) what each of them stands for in the mean; sums to 1."""
    resident: Real | None
    """(n, d) in the solver's coordinates; None when rows are streamed."""
    source: Rows
    """The rows as stored, with their weights."""
    preparation: Preparation
    """From a stored row to a prepared one."""

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.source.n

    @property
    def dim(self) -> int:
        """Axes: as many as features, or as resident rows that are at most half as many."""
        return len(self.rotation.T)

    @property
    def m(self) -> int:
        """Number of logit columns."""
        return self.source.n_classes if self.loss == "softmax" else self.targets.shape[1]

    @cached_property
    def turn(self) -> Float32:
        """The rotation in float32."""
        return self.rotation.astype(np.float32)

    @property
    def weights(self) -> Float64 | None:
        """(n,) row weights, all >= 0 and not all 0; None for ones."""
        return self.source.weights

    @cached_property
    def total_weight(self) -> float:
        """S, the sum of the row weights."""
        return float(self.n if self.weights is None else self.weights.sum())

    @cached_property
    def rows(self) -> Rows:
        """The rows to read: those of the copy where there is one, in equal blocks."""
        if self.resident is None:
            return self.source
        lanes = min(MAX_LANES, 2 * -(-self.n // (2 * BLOCK_ROWS))) if self.n > BLOCK_ROWS else 1
        count = lanes * -(-self.n // (lanes * BLOCK_ROWS))
        edges = np.linspace(0, self.n, count + 1).astype(int).tolist()
        blocks = tuple(Block(self.resident[a:b]) for a, b in pairwise(edges))
        return replace(self.source, blocks=blocks)

    @cached_property
    def reading(self) -> Reading:
        """How :attr:`rows` are read."""
        stored = self.preparation if self.resident is None else None
        mean = self.mean.astype(self.preparation.arithmetic)
        return Reading(self.loss, stored, mean, self.total_weight)

    @cached_property
    def shares(self) -> Float64:
        """(m,) share of the weight that is of the class of each column."""
        weights = np.ones(self.n) if self.weights is None else self.weights
        softmax = self.loss == "softmax"
        mass = np.bincount(self.targets, weights, self.m) if softmax else weights @ self.targets
        shares: Float64 = mass / self.total_weight
        return shares

    def into(self, coef: Float64, intercept: Float64) -> Float64:
        """Turn a probe on prepared rows, (m, d) and (m,), into V = [W | b], (m, d + 1)."""
        return np.column_stack([coef @ self.rotation, intercept + coef @ self.mean])

    def out_of(self, V: Float64) -> tuple[Float64, Float64]:
        """Give coef (m, d) and intercept (m,) on prepared rows from V, (m, d + 1)."""
        coef = V[:, :-1] @ self.rotation.T
        return coef, V[:, -1] - coef @ self.mean

    def share(self, row: int, count: int) -> Float32:
        """What each of ``count`` rows from ``row`` on stands for in the mean, (count,)."""
        weights = None if self.weights is None else self.weights[row : row + count]
        return self.reading.share(weights, count)

    def turned_rows(self, rows: NDArray[np.int64], gather: Gather | None = None) -> Float32:
        """Copy rows at ascending positions in the coordinates of V, (len(rows), d).

        ``gather`` copies them as stored; None for the rows' own.
        """
        if self.resident is not None:
            return self.resident[rows].astype(np.float32, copy=False)
        stored = (gather or self.source.gather)(rows)
        prepared = self.preparation.apply(stored).astype(np.float32, copy=False)
        prepared -= self.mean.astype(np.float32)
        return prepared @ self.turn

    def pilot_block(self, span: slice) -> Float32:
        """Some of the sampled rows in the coordinates of V, (b, d)."""
        return self.turned_rows(self.pilot_rows[span]) if self.pilot is None else self.pilot[span]

    def columns(self, V: Float64, arithmetic: Arithmetic) -> tuple[Real, Real]:
        """W (d, m) and b (m,) for the rows as they are read, from V = [W | b]."""
        W = V[:, :-1] @ self.rotation.T if self.resident is None else V[:, :-1]
        return np.ascontiguousarray(W.T, dtype=arithmetic), V[:, -1].astype(arithmetic)


READ_BYTES = 16
"""Of an entry of a block that is read: as stored and prepared, or prepared and in float64."""


def rows_bytes(sizes: Sizes, *, resident: bool) -> int:
    """Of a :class:`Problem`: rows, labels, weights, and the rotation in both precisions."""
    rows = sizes.value * sizes.n * sizes.d if resident else 4 * sizes.pilot
    return rows + (2 * sizes.label + 16) * sizes.n + 16 * sizes.d**2


def setup_bytes(sizes: Sizes) -> int:
    """Of :func:`make_problem` before the copy: the sample, its covariance, LAPACK's workspace."""
    sample = (4 + (8 if sizes.fetched else 0)) * sizes.pilot
    return sample + (2 * sizes.label + 16) * sizes.n + 26 * sizes.d**2


def make_problem(
    rows: Rows,
    preparation: Preparation,
    *,
    weights: Float64 | None,
    resident: bool,
    crew: "Crew | None" = None,
) -> Problem:
    """Prepare rows for fitting: one read for the sample, one more for a resident copy.

    ``weights`` is (n,) or None for ones; ``crew`` reads the sample, None for this thread.
    """
    chosen = np.arange(rows.n)
    if rows.n > PILOT_ROWS:
        # One row from each equal stretch, at a seeded offset: stored rows may have a period.
        edges = np.linspace(0, rows.n, PILOT_ROWS + 1).astype(np.int64)
        offsets = np.random.default_rng(0).random(PILOT_ROWS) * np.diff(edges)
        chosen = edges[:-1] + offsets.astype(np.int64)
    share = np.ones(len(chosen)) if weights is None else weights[chosen]
    share = share / share.sum()
    few = resident and 2 * rows.n <= rows.dim
    sample = np.empty((0 if few else len(chosen), rows.dim), np.float32)
    if few:
        mean, variances, rotation = axes_of_span(share, rows, preparation)
    else:
        gather = rows.gather if crew is None else crew.near(rows, chosen)
        mean, variances, rotation = principal_axes(sample, share, gather, preparation, chosen)
    copy, pilot = None, None
    if resident:
        del sample  # the copy takes its place
        copy = _resident(rows, preparation, mean, rotation)
    else:
        pilot, turn = sample, rotation.astype(np.float32)
        for span in spans_of(len(pilot)):
            pilot[span] = pilot[span] @ turn
    two = rows.n_classes == 2 and not rows.multi_label
    loss: Loss = "sigmoid" if two or rows.multi_label else "softmax"
    targets = hot_labels(rows.labels) if two else rows.labels
    axes, sampled = (
        (mean, rotation, float(variances[-1])),
        (pilot, chosen, share.astype(np.float32)),
    )
    weighted = rows if weights is rows.weights else replace(rows, weights=weights)
    return Problem(loss, targets, *axes, *sampled, copy, weighted, preparation)


def _resident(rows: Rows, preparation: Preparation, mean: Float64, rotation: Float64) -> Real:
    out: Real = np.empty((rows.n, rotation.shape[1]), preparation.arithmetic)
    mean, rotation = mean.astype(out.dtype), rotation.astype(out.dtype)
    for start, block in rows.pairs():
        features = preparation.apply(block.read())
        features -= mean
        np.matmul(features, rotation, out=out[start : start + block.n])
    return out
