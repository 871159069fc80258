"""L-BFGS memory: the last steps and gradient changes, and their two-loop product."""

from collections.abc import Callable

import numpy as np

from linprobe_train.preparation import Float32, Float64

DEFAULT_PAIRS = 30
"""Pairs kept; 60 saved no pass."""


class PairMemory:
    """Pairs (s, y) of shape (m, d + 1) in float32, oldest first."""

    def __init__(self, most: int = DEFAULT_PAIRS) -> None:
        self.most = most
        self._pairs: list[tuple[Float32, Float32, float]] = []

    def clear(self) -> None:
        """Forget every pair."""
        self._pairs.clear()

    def remember(self, s: Float64, y: Float64, least: float) -> None:
        """Keep a pair whose s'y exceeds ``least``: only such pairs keep the metric positive."""
        product = dot(s, y)
        if product > least:
            self._pairs.append((s.astype(np.float32), y.astype(np.float32), 1 / product))
            del self._pairs[: -self.most]

    def direction(self, gradient: Float64, metric: Callable[[Float32], Float32]) -> Float64:
        """Inverse Hessian times gradient, (m, d + 1): Nocedal and Wright 2006, algorithm 7.4."""
        q = gradient.astype(np.float32)
        coefficients: list[float] = []
        for s, y, rho in reversed(self._pairs):
            alpha = rho * dot(s, q)
            coefficients.append(alpha)
            q -= np.float32(alpha) * y
        z = metric(q)
        for (s, y, rho), alpha in zip(self._pairs, reversed(coefficients), strict=True):
            z += np.float32(alpha - rho * dot(y, z)) * s
        return z.astype(np.float64)


def dot(a: Float32 | Float64, b: Float32 | Float64) -> float:
    """Inner product of two arrays of the same shape."""
    return float(np.dot(a.ravel(), b.ravel()))
