"""The initial metric of L-BFGS: one Hessian block per logit column.

For column j, with curvature q_i = s_i p_ij (1 - p_ij) of the pilot rows (s_i: what row i stands for
in the mean, sum 1), in principal coordinates:

    M_j = diag(d_j) + R' R,    R = sqrt(q_i) x_i over a few rows I,
    d_j = l2 + sum over the other rows of q_i x_i^2

so that with L L' = I + R diag(1/d) R' and T = L^-1 R diag(1/d), Woodbury gives
M_j^-1 g = g/d - T'(T g). The intercept gets g / sum_i q_i.

I holds the rows with the most curvature, of those whose q_i sum_c x_ic^2 / d_c stands out of the
diagonal at all: many rows that each add little are a diagonal in principal coordinates.
With softmax, adding one vector to every column changes no probability, which no single block
can know; the mean over the columns is therefore taken out of the product.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.linalg import blas, lapack

from linprobe_train.losses import Loss, probabilities
from linprobe_train.passes import Crew
from linprobe_train.preparation import Float32, Float64
from linprobe_train.problem import Problem

RANK = 96
"""Most rows of a column whose curvature enters exactly: 64 took more passes, 128 more time."""

OUTSTANDING = 0.02
"""Least weight of a row against the diagonal that is worth its products."""

CURVATURE_FLOOR = 1e-12
"""Least intercept curvature: keeps the step of an absent or fully separated class finite."""


@dataclass(frozen=True)
class BlockMetric:
    """A positive definite approximation of the Hessian, inverted."""

    inverse: Float32
    """(m, d) 1 / d_j."""
    factors: tuple[Float32, ...]
    """m arrays T_j, (r_j, d)."""
    intercept: Float64
    """(m,) curvature of the intercepts."""
    loss: Loss
    """Decides whether columns have a common part."""

    def apply(self, gradient: Float32, crew: Crew) -> Float32:
        """M^-1 times a gradient (m, d + 1)."""
        out = np.empty_like(gradient)
        out[:, -1] = gradient[:, -1] / self.intercept

        def some(span: slice) -> None:
            for j in range(span.start, span.stop):
                g, T = gradient[j, :-1], self.factors[j]
                np.multiply(g, self.inverse[j], out=out[j, :-1])
                if len(T):
                    out[j, :-1] -= (T @ g) @ T

        list(crew.map(some, _spans(len(gradient), crew.threads)))
        if self.loss == "softmax":
            out -= out.mean(axis=0)
        return out


def block_metric(problem: Problem, V: Float64, l2: float, crew: Crew) -> BlockMetric:
    """Build the metric at V = [W | b], (m, d + 1), from the pilot rows.

    Costs about a pass over the pilot and at most m r^2 d products; memory at most 4 m r d bytes.
    """
    x, share = problem.pilot.rows, problem.pilot.weights
    p = x @ V[:, :-1].T.astype(np.float32)
    p += V[:, -1].astype(np.float32)
    probabilities(p, problem.targets.loss)
    p *= 1 - p
    p *= share[:, None]
    q = np.ascontiguousarray(p.T)
    squares = np.square(x)
    diagonal = q @ squares
    diagonal += np.float32(l2)
    weight = (1 / diagonal) @ squares.T
    weight *= q
    factors: list[Float32] = [x[:0]] * len(q)

    def some(span: slice) -> None:
        for j in range(span.start, span.stop):
            rows = _outstanding(weight[j], q[j])
            if len(rows):
                factors[j] = _factor(x[rows], q[j, rows], diagonal[j], l2)

    list(crew.map(some, _spans(len(q), 4 * crew.threads)))
    intercept = np.maximum(q.sum(axis=1, dtype=np.float64), CURVATURE_FLOOR)
    inverse = (1 / diagonal).astype(np.float32)
    return BlockMetric(inverse, tuple(factors), intercept, problem.targets.loss)


def _outstanding(weight: Float32, q: Float32) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    rows = np.flatnonzero(weight > OUTSTANDING)
    if len(rows) > RANK:
        rows = rows[np.argpartition(q[rows], len(rows) - RANK)[len(rows) - RANK :]]
    return rows


def _factor(R: Float32, q: Float32, diagonal: Float32, l2: float) -> Float32:
    """T of one column, (r, d); takes the curvature of its rows out of ``diagonal``."""
    diagonal -= q @ np.square(R)
    np.maximum(diagonal, np.float32(l2), out=diagonal)
    root = np.sqrt(1 / diagonal)
    R *= np.sqrt(q)[:, None]
    R *= root
    gram = blas.ssyrk(1.0, R.T, trans=1, lower=1)
    gram.flat[:: len(R) + 1] += 1
    lower, failed = lapack.spotrf(gram, lower=1, clean=0, overwrite_a=1)
    if failed:
        return R[:0]
    R *= root
    # R in rows is R' in columns, as BLAS reads it: X L' = R' gives X = T'.
    solved: Float32 = blas.strsm(1.0, lower, R.T, side=1, lower=1, trans_a=1, overwrite_b=1)
    return solved.T


def _spans(n: int, count: int) -> list[slice]:
    edges = np.linspace(0, n, min(n, count) + 1).astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]
