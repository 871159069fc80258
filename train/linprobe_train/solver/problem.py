"""The problem the solver sees: prepared rows in its own coordinates, targets and row weights.

Objective, per unit weight (S = sum of row weights; scikit-learn's divided by C S):

    F(W, b) = (1/S) sum_i w_i loss(W x_i + b, y_i) + l2/2 ||W||^2,    l2 = 1 / (C S)

Coordinates: rows are centred (the intercept is free, so this changes nothing but b) and turned
into the principal axes of a sample of rows (W is turned with them, ||W|| stays). A resident copy is
turned once; streamed rows stay as they are, and W and the gradient are turned at every pass.
Of fewer rows than features only the axes of their span are kept: the best W lies in it, as what is
orthogonal to every row adds to the ridge alone.

n rows, d axes, m logit columns: k for softmax and multi-label, 1 for two classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from linprobe_train.solver.losses import Loss
from linprobe_train.solver.preparation import Arithmetic, Float32, Float64, Preparation, Real
from linprobe_train.solver.rows import BLOCK_ROWS, Rows

PILOT_ROWS = 16384
"""Rows sampled for the principal axes and the curvature: both only steer the path to the optimum,
never the optimum itself."""
MAX_CHUNKS = 64
"""Chunks of a pass. Their sums are added in order, so the result does not depend on the number of
threads; also the most threads that help."""

LEAST_SHARE = 1e-6
"""Of a class whose rows have no weight: its best intercept is minus infinity."""


@dataclass(frozen=True)
class Problem:
    """Everything about the data that a fit needs; C is not part of it."""

    loss: Loss
    """softmax; sigmoid for multi-label rows and for two classes, which share one logit."""
    targets: NDArray[np.int64] | NDArray[np.uint8]
    """In row order. softmax: (n,) class ids; sigmoid: (n, m) of 0 and 1."""
    weights: Float64 | None
    """(n,) row weights, all >= 0 and not all 0; None for ones."""
    mean: Float64
    """(d,) subtracted from prepared rows."""
    rotation: Float64
    """(features, d) with orthonormal columns by ascending variance: coordinates are
    (x - mean) @ rotation."""
    pilot: Float32
    """(s, d) sampled rows, turned: the metric's diagonal where rows are streamed."""
    pilot_rows: NDArray[np.int64]
    """(s,) which rows those are, ascending."""
    pilot_share: Float32
    """(s,) what each of them stands for in the mean; sums to 1."""
    resident: Real | None
    """(n, d) in the solver's coordinates; None when rows are streamed."""
    source: Rows
    """The rows as stored."""
    preparation: Preparation
    """From a stored row to a prepared one."""

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.source.n

    @property
    def dim(self) -> int:
        """Axes: as many as there are features, or resident rows where these are fewer."""
        return len(self.rotation.T)

    @property
    def m(self) -> int:
        """Number of logit columns."""
        return self.source.n_classes if self.loss == "softmax" else self.targets.shape[1]

    @cached_property
    def total_weight(self) -> float:
        """S, the sum of the row weights."""
        return float(self.n if self.weights is None else self.weights.sum())

    @cached_property
    def shares(self) -> Float64:
        """(m,) share of the weight that is of the class of each column."""
        weights = np.ones(self.n) if self.weights is None else self.weights
        softmax = self.loss == "softmax"
        mass = np.bincount(self.targets, weights, self.m) if softmax else weights @ self.targets
        shares: Float64 = mass / self.total_weight
        return shares

    @cached_property
    def loss_of_shares(self) -> float:
        """The least mean loss at W = 0: the entropy of the classes, or of every column."""
        p = self.shares if self.loss == "softmax" else np.stack([self.shares, 1 - self.shares])
        return -float((p * np.log(np.maximum(p, 1e-300))).sum())

    def log_odds(self) -> Float64:
        """Intercepts (m,) of that loss."""
        p = np.clip(self.shares, LEAST_SHARE, 1 - LEAST_SHARE)
        odds: Float64 = np.log(p) - (np.log(p).mean() if self.loss == "softmax" else np.log1p(-p))
        return odds

    def into(self, coef: Float64, intercept: Float64) -> Float64:
        """Turn a probe on prepared rows, (m, d) and (m,), into V = [W | b], (m, d + 1)."""
        return np.column_stack([coef @ self.rotation, intercept + coef @ self.mean])

    def out_of(self, V: Float64) -> tuple[Float64, Float64]:
        """Give coef (m, d) and intercept (m,) on prepared rows from V, (m, d + 1)."""
        coef = V[:, :-1] @ self.rotation.T
        return coef, V[:, -1] - coef @ self.mean

    def share(self, row: int, count: int) -> Float32:
        """What each of ``count`` rows from ``row`` on stands for in the mean, (count,)."""
        if self.weights is None:
            return np.full(count, 1 / self.total_weight, np.float32)
        return (self.weights[row : row + count] / self.total_weight).astype(np.float32)

    def turned_rows(self, rows: NDArray[np.int64]) -> Float32:
        """Copy rows at ascending positions in the coordinates of V, (len(rows), d)."""
        if self.resident is not None:
            return self.resident[rows].astype(np.float32, copy=False)
        prepared = self.preparation.apply(self.source.gather(rows)).astype(np.float32, copy=False)
        prepared -= self.mean.astype(np.float32)
        return prepared @ self.rotation.astype(np.float32)

    def columns(self, V: Float64, arithmetic: Arithmetic) -> tuple[Real, Real]:
        """W (d, m) and b (m,) for the rows that :meth:`blocks` gives, from V = [W | b]."""
        W = V[:, :-1] @ self.rotation.T if self.resident is None else V[:, :-1]
        return np.ascontiguousarray(W.T, dtype=arithmetic), V[:, -1].astype(arithmetic)

    def chunks(self) -> list[tuple[int, int]]:
        """Near-equal ranges of rows or blocks, in order and even in number, one a task."""
        resident = self.resident is not None
        n, unit = (self.n, BLOCK_ROWS) if resident else (len(self.source.blocks), 1)
        count = max(1, min(MAX_CHUNKS, 2 * round(n / (2 * unit))))
        return list(pairwise(np.linspace(0, n, count + 1).astype(int).tolist()))

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, Real]]:
        """First row and centred features (b, d) of every block of a chunk."""
        if self.resident is not None:
            for row in range(start, stop, BLOCK_ROWS):
                yield row, self.resident[row : min(row + BLOCK_ROWS, stop)]
            return
        mean = self.mean.astype(self.preparation.arithmetic)
        for index in range(start, stop):
            features = self.preparation.apply(self.source.blocks[index].read())
            features -= mean
            yield int(self.source.offsets[index]), features


def make_problem(
    rows: Rows, preparation: Preparation, *, weights: Float64 | None, resident: bool
) -> Problem:
    """Prepare rows for fitting: one read for the sample, one more for a resident copy.

    ``resident`` keeps 4 n d bytes; streaming keeps the sample alone, 4 d min(n, PILOT_ROWS).
    ``weights`` is (n,) or None for ones.
    """
    chosen = np.arange(rows.n)
    if rows.n > PILOT_ROWS:
        # One row from each equal stretch, at a seeded offset: stored rows may have a period.
        edges = np.linspace(0, rows.n, PILOT_ROWS + 1).astype(np.int64)
        offsets = np.random.default_rng(0).random(PILOT_ROWS) * np.diff(edges)
        chosen = edges[:-1] + offsets.astype(np.int64)
    sample = preparation.apply(rows.gather(chosen)).astype(np.float32, copy=False)
    share = np.ones(len(chosen)) if weights is None else weights[chosen]
    share = share / share.sum()
    mean = share @ sample
    sample -= mean.astype(np.float32)
    if resident and rows.n < rows.dim:
        rotation = _axes_of_span(preparation.apply(rows.gather(chosen)) - mean, share)
    else:
        covariance = (sample * share[:, None].astype(np.float32)).T @ sample
        rotation = np.linalg.eigh(covariance.astype(np.float64))[1]
    copy = _resident(rows, preparation, mean, rotation) if resident else None
    if copy is not None and len(copy) == len(sample):
        pilot = copy.astype(np.float32, copy=False)
    else:
        pilot = sample @ rotation.astype(np.float32)
    two = rows.n_classes == 2 and not rows.multi_label
    loss: Loss = "sigmoid" if two or rows.multi_label else "softmax"
    targets = (rows.labels[:, None] == 1).astype(np.uint8) if two else rows.labels
    sampled = pilot, chosen, share.astype(np.float32)
    return Problem(loss, targets, weights, mean, rotation, *sampled, copy, rows, preparation)


def _axes_of_span(centred: Float64, share: Float64) -> Float64:
    """Principal axes of few rows, (features, n): a QR keeps them orthonormal at any condition."""
    span, inside = np.linalg.qr(centred.T)
    axes: Float64 = span @ np.linalg.eigh((inside * share) @ inside.T)[1]
    return axes


def _resident(rows: Rows, preparation: Preparation, mean: Float64, rotation: Float64) -> Real:
    out: Real = np.empty((rows.n, rotation.shape[1]), preparation.arithmetic)
    mean, rotation = mean.astype(out.dtype), rotation.astype(out.dtype)
    for start, block in rows.pairs():
        features = preparation.apply(block.read())
        features -= mean
        np.matmul(features, rotation, out=out[start : start + block.n])
    return out
