"""The initial metric of L-BFGS: one Hessian block per logit column.

For column j, with q_i = s_i p_ij (1 - p_ij) the curvature that row i adds to it (s_i the share of
row i in the mean), in principal coordinates:

    M_j = diag(d_j) + R' R,    R = sqrt(q_i) x_i over a few rows I,
    d_j = l2 + sum over the other rows of q_i x_i^2

so that with L L' = I + R diag(1/d) R' and T = L^-1 R diag(1/d), Woodbury gives
M_j^-1 g = g/d - T'(T g). The intercept gets g / sum_i q_i.

I holds the rows with the most curvature, of those whose q_i sum_c x_ic^2 / d_c stands out of the
diagonal at all: many rows that each add little are a diagonal in principal coordinates. None that
stands out may be missed: a sample that misses two thirds of them cost up to twice the passes.
With softmax, adding one vector to every column changes no probability, which no single block
can know; the mean over the columns is therefore taken out of the product.
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import cast

import numpy as np

from linprobe_train.solver.losses import Loss
from linprobe_train.solver.passes import FLOORS, Crew, waiting_of
from linprobe_train.solver.preparation import Float32, Float64
from linprobe_train.solver.problem import READ_BYTES, Problem, Sizes
from linprobe_train.solver.reads.curvature import Curvature, CurvatureAt, curvature_of
from linprobe_train.solver.rows import spans_of

OUTSTANDING = 0.02
"""Least weight of a row against the diagonal that is worth its products."""

CURVATURE_FLOOR = 1e-12
"""Least intercept curvature: keeps the step of an absent or fully separated class finite."""

FEW_ROWS, FEW_RANK = 3000, 32
"""Rows below which a rank of 32 is enough."""

FACTOR_BYTES = 512 * 10**6
"""Most memory for the factors of all columns."""


def measure_curvature(problem: Problem, V: Float64, rank: int, crew: Crew) -> Curvature:
    """Read all rows once at V = [W | b], (m, d + 1), keeping ``rank`` rows of every column."""
    streamed, m, d = problem.resident is None, len(V), problem.dim
    columns, offset = problem.columns(V, "float32")
    at = cast("Float32", columns), cast("Float32", offset)
    read = CurvatureAt(problem.reading, *at, rank, 0 if streamed else d)
    whole: Curvature = crew.total(problem.rows, read, partial(Curvature.add, rank=rank))
    if streamed:
        whole.diagonal = np.zeros((m, d))
        turned, offset = V[:, :-1].T.astype(np.float32), V[:, -1].astype(np.float32)
        for span in spans_of(len(problem.pilot_rows)):
            x = problem.pilot_block(span)
            q = curvature_of(x @ turned + offset, problem.loss, problem.pilot_share[span])
            whole.diagonal += q @ np.square(x)
    return whole


def rank_for(n: int, d: int, m: int) -> int:
    """Rows of a column whose curvature enters exactly.

    Factors cost about 3 m d r^2 products and a pass 4 m d n: with r = 1.6 sqrt(n) a build costs
    about two passes at every n. On CLIP features with n near 4,000, r = 64 took more passes and
    r = 128 more time; of few rows, 32 took up to a seventh more passes and less time. Above d / 2
    the d x d block itself would be cheaper, and memory must not grow with n for ever.
    """
    rank = round(1.6 * math.sqrt(n))
    few = FEW_RANK if n < FEW_ROWS else rank
    return max(1, min(n, d // 2, rank, few, FACTOR_BYTES // (4 * m * d)))


def metric_bytes(sizes: Sizes) -> int:
    """Of a :class:`BlockMetric`."""
    m, d = sizes.m, sizes.d
    return 4 * m * d * (rank_for(sizes.n, d, m) + 1)


def build_bytes(sizes: Sizes) -> int:
    """Of :func:`block_metric` on its way: first the curvature of all rows, then the factors."""
    m, d, rank = sizes.m, sizes.d, rank_for(sizes.n, sizes.d, sizes.m)
    block = (READ_BYTES + 4) * sizes.block + 40 * (sizes.logits + m * rank) + 12 * m * d
    waiting = waiting_of(sizes.threads) + FLOORS + 1
    measuring = sizes.threads * block + waiting * 8 * m * (d + rank)
    # Rows of a column as stored, prepared, turned; their squares and products.
    factors = sizes.threads * (40 * rank * d + 4 * rank**2) + 8 * m * (d + rank)
    gathered = 2 * min(GATHERED_BYTES, 4 * m * rank * d) if sizes.fetched else 0
    return 16 * m * d + max(measuring, factors + gathered)


GATHERED_BYTES = 2**26
"""Most that the rows of some columns take, as many as are asked for at once."""


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
    crew: Crew
    """Shares the columns."""

    def apply(self, gradient: Float32) -> Float32:
        """M^-1 times a gradient (m, d + 1)."""
        out = np.empty_like(gradient)
        out[:, -1] = gradient[:, -1] / self.intercept

        def of_columns(span: slice) -> None:
            for j in range(span.start, span.stop):
                g, T = gradient[j, :-1], self.factors[j]
                np.multiply(g, self.inverse[j], out=out[j, :-1])
                if len(T):
                    out[j, :-1] -= (T @ g) @ T

        list(self.crew.map(of_columns, _spans(len(gradient), self.crew.threads)))
        if self.loss == "softmax":
            out -= out.mean(axis=0)
        return out


def block_metric(
    problem: Problem, V: Float64, l2: float, crew: Crew, place: Float32
) -> BlockMetric:
    """Build the metric at V = [W | b], (m, d + 1): one read of the rows, and the factors.

    ``place``, (m, rank, d), takes the factors.
    """
    m, rank, d = place.shape
    curvature = measure_curvature(problem, V, rank, crew)
    diagonal = curvature.diagonal.astype(np.float32) + np.float32(l2)
    factors: list[Float32] = [np.empty((0, d), np.float32)] * m

    def of_columns(span: slice) -> None:
        for j in range(span.start, span.stop):
            order = np.argsort(curvature.rows[j])
            x, q = problem.turned_rows(curvature.rows[j, order], gather), curvature.top[j, order]
            outstanding = q * (np.square(x) @ (1 / diagonal[j])) > OUTSTANDING
            if count := int(outstanding.sum()):
                place[j, :count] = x[outstanding]
                factors[j] = _factor(place[j, :count], q[outstanding], diagonal[j], l2)

    at_once = max(1, GATHERED_BYTES // (4 * rank * d))
    for columns in spans_of(m, at_once):
        wanted = np.unique(curvature.rows[columns]).astype(np.int64)
        gather = crew.near(problem.source, wanted)
        count = columns.stop - columns.start
        list(crew.map(of_columns, _spans(count, 4 * crew.threads, columns.start)))
    intercept = np.maximum(curvature.total, CURVATURE_FLOOR)
    inverse = (1 / diagonal).astype(np.float32)
    return BlockMetric(inverse, tuple(factors), intercept, problem.loss, crew)


def _factor(R: Float32, q: Float32, diagonal: Float32, l2: float) -> Float32:
    """T of one column, (r, d), in place of R; takes the curvature of R out of ``diagonal``."""
    from scipy.linalg import blas, lapack  # not before a fit, as in lbfgs

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


def _spans(n: int, count: int, first: int = 0) -> list[slice]:
    edges = np.linspace(first, first + n, min(n, count) + 1).astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]
