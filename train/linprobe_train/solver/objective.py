"""The objective at a point: loss and gradient of the data, the ridge, and what they prove."""

from dataclasses import dataclass

import numpy as np

from linprobe_train.solver.preparation import Float64


@dataclass(frozen=True)
class Point:
    """A place and what the data say there; C has no part in it."""

    V: Float64
    """(m, d + 1), [W | b]."""
    loss: float
    """Mean loss."""
    gradient: Float64
    """(m, d + 1) of the mean loss."""


@dataclass(frozen=True)
class Objective:
    """F = loss + l2/2 ||W||^2 at a point; C and the sum of weights times F is scikit-learn's."""

    point: Point
    """Where."""
    l2: float
    """1 / (C S)."""
    F: float
    """The value."""
    g: Float64
    """(m, d + 1), its gradient."""

    @property
    def ridge(self) -> float:
        """The part of F that is l2/2 ||W||^2."""
        return self.F - self.point.loss

    @property
    def bound(self) -> float:
        """Rigorous bound of (F - F*) / F, given a zero intercept gradient.

        F is l2-strongly convex in W, so F - F* <= ||g_W||^2 / (2 l2); the same number is the
        duality gap of the probabilities at this point.
        """
        g = self.g[:, :-1]
        return float(np.vdot(g, g)) / (2 * self.l2 * self.F)


def with_ridge(point: Point, l2: float) -> Objective:
    """Add the ridge, which does not touch the intercept."""
    W = point.V[:, :-1]
    g = point.gradient.copy()
    g[:, :-1] += l2 * W
    return Objective(point, l2, point.loss + 0.5 * l2 * float(np.vdot(W, W)), g)
