"""L-BFGS memory: the last steps and gradient changes, and their product with a vector.

The two-loop recursion (Nocedal and Wright 2006, algorithm 7.4) as four matrix products. With the
pairs as columns of S and Y, oldest first, R the upper triangle of S'Y and D its diagonal:

    alpha = R^-1 S'g,    z0 = M^-1 (g - Y alpha),    z = z0 + S R^-T (D alpha - Y'z0)
"""

from collections.abc import Callable

import numpy as np
from scipy.linalg import solve_triangular

from linprobe_train.preparation import Float32, Float64

DEFAULT_PAIRS = 30
"""Pairs kept; 60 saved no pass."""


class PairMemory:
    """Pairs (s, y) of shape (m, d + 1), kept in float32."""

    def __init__(self, most: int = DEFAULT_PAIRS) -> None:
        self.most = most
        self._steps = np.zeros((0, 0), np.float32)
        self._changes = np.zeros((0, 0), np.float32)
        self._products = np.zeros((most, most))
        self._order: list[int] = []

    def clear(self) -> None:
        """Forget every pair."""
        self._order.clear()

    def remember(self, s: Float64, y: Float64, least: float) -> None:
        """Keep a pair whose s'y exceeds ``least``: only such pairs keep the metric positive."""
        product = dot(s, y)
        if product <= least:
            return
        if self._steps.shape[1] != s.size:
            self._steps = np.zeros((self.most, s.size), np.float32)
            self._changes = np.zeros((self.most, s.size), np.float32)
        place = len(self._order) if len(self._order) < self.most else self._order.pop(0)
        self._steps[place], self._changes[place] = s.ravel(), y.ravel()
        self._products[:, place] = self._steps @ self._changes[place]
        self._products[place, place] = product
        self._order.append(place)

    def direction(self, gradient: Float64, metric: Callable[[Float32], Float32]) -> Float64:
        """Inverse Hessian times gradient, (m, d + 1)."""
        g = gradient.astype(np.float32)
        if not self._order:
            return metric(g).astype(np.float64)
        known = len(self._order)
        S, Y = self._steps[:known], self._changes[:known]
        order = np.array(self._order)
        R = self._products[np.ix_(order, order)]
        alpha = solve_triangular(R, (S @ g.ravel())[order], check_finite=False)
        weights = np.empty(known, np.float32)
        weights[order] = alpha
        g -= (weights @ Y).reshape(g.shape)
        z = metric(g)
        rest = R.diagonal() * alpha - (Y @ z.ravel())[order]
        weights[order] = solve_triangular(R, rest, trans=1, check_finite=False)
        z += (weights @ S).reshape(z.shape)
        return z.astype(np.float64)


def dot(a: Float32 | Float64, b: Float32 | Float64) -> float:
    """Inner product of two arrays of the same shape."""
    return float(np.dot(a.ravel(), b.ravel()))
