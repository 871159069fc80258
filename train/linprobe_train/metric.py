"""The initial metric of L-BFGS: one Hessian block per logit column.

For column j, with curvature q_i = s_i p_ij (1 - p_ij) of the pilot rows (s_i: what row i stands for
in the mean, sum 1), in principal coordinates:

    M_j = diag(d_j) + R' R,    R = sqrt(q_i) x_i over the r rows I with the most curvature,
    d_j = l2 + sum over the other rows of q_i x_i^2

so that with L L' = I + R diag(1/d) R' and T = L^-1 R diag(1/d), Woodbury gives
M_j^-1 g = g/d - T'(T g). The intercept gets g / sum_i q_i.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.linalg import lapack, solve_triangular

from linprobe_train.losses import probabilities
from linprobe_train.passes import Crew
from linprobe_train.preparation import Float32, Float64
from linprobe_train.problem import Problem

RANK = 128
"""Rows of each column whose curvature enters exactly; 64 took more passes, 256 more time."""

CURVATURE_FLOOR = 1e-12
"""Least intercept curvature: keeps the step of an absent or fully separated class finite."""


@dataclass(frozen=True)
class BlockMetric:
    """A positive definite approximation of the Hessian, inverted."""

    diagonal: Float32
    """(m, d) d_j."""
    factors: Float32
    """(m, r, d) T_j."""
    intercept: Float64
    """(m,) curvature of the intercepts."""

    def apply(self, gradient: Float32, crew: Crew) -> Float32:
        """M^-1 times a gradient (m, d + 1)."""
        out = np.empty_like(gradient)
        out[:, -1] = gradient[:, -1] / self.intercept

        def some(span: slice) -> None:
            g = gradient[span, :-1]
            inner = np.matmul(self.factors[span], g[:, :, None])
            low = np.matmul(inner.transpose(0, 2, 1), self.factors[span])[:, 0]
            out[span, :-1] = g / self.diagonal[span] - low

        list(crew.map(some, _spans(len(gradient), crew.threads)))
        return out


def block_metric(problem: Problem, V: Float64, l2: float, crew: Crew) -> BlockMetric:
    """Build the metric at V = [W | b], (m, d + 1), from the pilot rows.

    Costs about half a pass over the pilot and m r^2 d products; memory 4 m r d bytes.
    """
    x, share = problem.pilot.rows, problem.pilot.weights
    r = min(RANK, len(x))
    p = x @ V[:, :-1].T.astype(np.float32)
    p += V[:, -1].astype(np.float32)
    probabilities(p, problem.targets.loss)
    p *= 1 - p
    p *= share[:, None]
    q = np.ascontiguousarray(p.T)
    diagonal = q @ np.square(x)
    diagonal += np.float32(l2)
    factors = np.zeros((len(q), r, x.shape[1]), np.float32)

    def some(span: slice) -> None:
        for j in range(span.start, span.stop):
            top = np.argpartition(q[j], len(x) - r)[len(x) - r :]
            R = x[top]
            weight = q[j, top]
            spread = diagonal[j] - weight @ np.square(R)
            diagonal[j] = np.maximum(spread, np.float32(l2))
            R *= np.sqrt(weight)[:, None]
            scaled = R / diagonal[j]
            gram = scaled @ R.T
            gram.flat[:: r + 1] += 1
            lower, failed = lapack.spotrf(gram, lower=1, clean=1)
            if not failed:
                factors[j] = solve_triangular(lower, scaled, lower=True, check_finite=False)

    list(crew.map(some, _spans(len(q), 4 * crew.threads)))
    intercept = np.maximum(q.sum(axis=1, dtype=np.float64), CURVATURE_FLOOR)
    return BlockMetric(diagonal, factors, intercept)


def _spans(n: int, count: int) -> list[slice]:
    edges = np.linspace(0, n, min(n, count) + 1).astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(edges)]
