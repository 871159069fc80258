"""What fits of one problem share: places and lines between them, the pairs, the metric.

Where memory allows, the logits Z = X W' + b of a place are kept, (n, m). Along V - t D they are
Z - t U with U the logits of D: one product with the rows serves every t, and a second one gives the
gradient where the walk stops. Else every length that is tried is a whole pass.
"""

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

from linprobe_train.solver.passes import (
    Crew,
    Objective,
    Point,
    evaluate,
    gradient_of,
    logits_of,
    loss_along,
)
from linprobe_train.solver.preconditioner import BlockMetric, block_metric, rank_for
from linprobe_train.solver.preparation import Arithmetic, Float32, Float64, Real
from linprobe_train.solver.problem import Problem, Sizes

PAIRS = 20
"""Pairs kept; 15 and 30 took as many passes, 30 more time."""

NEAR = 1.01 * math.log(10)
"""Change of ln l2 over which a metric serves on: a decade."""


class PairMemory:
    """The last steps and gradient changes, (m, d + 1) each, kept in float32."""

    def __init__(self, m: int, d: int) -> None:
        self._steps = np.zeros((PAIRS, m, d + 1), np.float32)
        self._changes = np.zeros((PAIRS, m, d + 1), np.float32)
        self._products = np.zeros((PAIRS, PAIRS))
        self._order: list[int] = []
        self._l2 = math.nan

    def clear(self) -> None:
        """Forget every pair."""
        self._order.clear()

    def shift(self, l2: float) -> None:
        """Make the pairs those of another l2: y grows by (l2' - l2) s on the weights.

        The loss has no part in l2, so this is exact, and pairs of one C serve the next.
        """
        change, self._l2 = l2 - self._l2, l2
        known = len(self._order)
        if not known or change == 0:
            return
        for place in range(known):
            self._changes[place, :, :-1] += np.float32(change) * self._steps[place, :, :-1]
        S, Y = self._flat(known)
        self._products[:known, :known] = S @ Y.T
        if (self._products.diagonal()[:known] <= 0).any():
            self.clear()

    def remember(self, s: Float64, y: Float64, least: float) -> None:
        """Keep a pair whose s'y exceeds ``least``: only such pairs keep the metric positive."""
        product = float(np.vdot(s, y))
        if product <= least:
            return
        place = len(self._order) if len(self._order) < PAIRS else self._order.pop(0)
        self._steps[place], self._changes[place] = s, y
        self._products[:, place] = self._flat(PAIRS)[0] @ self._changes[place].ravel()
        self._products[place, place] = product
        self._order.append(place)

    def direction(self, gradient: Float64, metric: Callable[[Float32], Float32]) -> Float64:
        """Inverse Hessian times gradient, (m, d + 1)."""
        g = gradient.astype(np.float32)
        # Not before a fit: a stored answer is shown without the eighth of a second that it takes.
        from scipy.linalg import solve_triangular

        if not self._order:
            return metric(g).astype(np.float64)
        S, Y = self._flat(len(self._order))
        order = np.array(self._order)
        R = self._products[np.ix_(order, order)]
        alpha = solve_triangular(R, (S @ g.ravel())[order], check_finite=False)
        weights = np.empty(len(order), np.float32)
        weights[order] = alpha
        g -= (weights @ Y).reshape(g.shape)
        z = metric(g)
        rest = R.diagonal() * alpha - (Y @ z.ravel())[order]
        weights[order] = solve_triangular(R, rest, trans=1, check_finite=False)
        z += (weights @ S).reshape(z.shape)
        return z.astype(np.float64)

    def scale(self, metric: Callable[[Float32], Float32]) -> float:
        """What the metric's inverse is off by along the last pair, s'y / y'M^-1 y; 1 without one.

        Nocedal and Wright 2006, (7.20), in a metric.
        """
        if not self._order:
            return 1.0
        last = self._order[-1]
        y = self._changes[last]
        return float(self._products[last, last]) / float(np.vdot(y, metric(y)))

    def _flat(self, known: int) -> tuple[Float32, Float32]:
        return self._steps[:known].reshape(known, -1), self._changes[:known].reshape(known, -1)


def pairs_bytes(sizes: Sizes) -> int:
    """Of a :class:`PairMemory`, one step changed at a time."""
    return 4 * (2 * PAIRS + 1) * sizes.place


class Line:
    """The mean loss on V - t D, every t a pass."""

    lengths = 1
    """Acceptable lengths that are worth trying for a better one."""

    def __init__(
        self, surface: "Surface", V: Float64, D: Float64, arithmetic: Arithmetic, first: float
    ) -> None:
        self._surface, self._V, self._D, self._arithmetic = surface, V, D, arithmetic
        self.first = first
        """Length to try first."""

    def at(self, t: float) -> tuple[float, float]:
        """The mean loss at t, and its derivative by t."""
        self._point = self._surface.at(self._V - t * self._D, self._arithmetic)
        return self._point.loss, -float(np.vdot(self._point.gradient, self._D))

    def point(self) -> Point:
        """The place of the last t."""
        return self._point


class LogitLine:
    """The mean loss on V - t D from the logits of V and of D: a product for D, one to stop."""

    first, lengths = 1.0, 3

    def __init__(self, surface: "Surface", at: Point, logits: Real, D: Float64) -> None:
        self._surface, self._at, self._logits, self._D = surface, at, logits, D
        self._slope = surface.logits(D)

    def at(self, t: float) -> tuple[float, float]:
        """The mean loss at t, and its derivative by t."""
        self._t = t
        self._loss, derivative = self._surface.along(self._logits, self._slope, t)
        return self._loss, derivative

    def point(self) -> Point:
        """The place of the last t; ends the line."""
        self._slope *= -self._t
        self._slope += self._logits
        V, gradient = self._at.V - self._t * self._D, self._surface.gradient()
        return Point(V, self._loss, gradient, self._slope)


class Surface:
    """The loss of one problem, counted by passes, with what fits of it share."""

    def __init__(self, problem: Problem, crew: Crew, *, keep_logits: bool = True) -> None:
        self.problem = problem
        self.crew = crew
        self.pairs = PairMemory(problem.m, problem.dim)
        self.keep_logits = keep_logits and problem.resident is not None
        """Whether there is room for the logits of places."""
        self._products = 0
        self._metric: BlockMetric | None = None
        self._metric_l2 = math.nan

    @property
    def passes(self) -> int:
        """Reads of all rows, forward and backward, so far; a single product is half of one."""
        return -(-self._products // 2)

    def ready(self, at: Objective, *, anew: bool = False) -> None:
        """Build the metric; unless ``anew``, that of the fit before serves on where l2 is near.

        A build costs as much as a few passes, a stale metric costs more.
        """
        if anew or self._metric is None or abs(math.log(at.l2 / self._metric_l2)) > NEAR:
            self._metric = block_metric(self.problem, at.point.V, at.l2, self.crew, self._factors)
            self._metric_l2 = at.l2

    def direction(self, at: Objective) -> Float64:
        """Inverse Hessian times gradient, (m, d + 1); by the metric that was built last."""
        assert self._metric is not None
        return self.pairs.direction(at.g, self._metric.apply)

    @cached_property
    def _factors(self) -> Float32:
        # Empty memory takes no room before it is written; every metric is built where the last was.
        m, d = self.problem.m, self.problem.dim
        return np.empty((m, rank_for(self.problem.n, d, m), d), np.float32)

    def at(self, V: Float64, arithmetic: Arithmetic | None = None) -> Point:
        """Read all rows; in the arithmetic of the rows where none is given, with logits if kept."""
        own = self.problem.preparation.arithmetic
        if not self.keep_logits or arithmetic not in (None, own):
            self._products += 2
            return evaluate(self.problem, V, self.crew, arithmetic or own)
        logits = self.logits(V)
        loss, _ = self.along(logits, logits, 0.0)
        return Point(V, loss, self.gradient(), logits)

    def logits(self, V: Float64) -> Real:
        """X W' + b of all rows, (n, m): half a pass."""
        self._products += 1
        return logits_of(self.problem, V, self.crew)

    def gradient(self) -> Float64:
        """Gradient of the mean loss, (m, d + 1), where :meth:`along` looked last: half a pass."""
        self._products += 1
        return gradient_of(self.problem, self._residual, self.crew)

    def along(self, logits: Real, slope: Real, t: float) -> tuple[float, float]:
        """Mean loss at logits - t slope, and its derivative by t."""
        return loss_along(self.problem, logits, slope, t, self._residual, self.crew)

    @cached_property
    def _residual(self) -> Real:
        problem = self.problem
        return np.empty((problem.n, problem.m), problem.preparation.arithmetic)

    def line(self, at: Point, D: Float64, arithmetic: Arithmetic) -> "Line | LogitLine":
        """The mean loss on V - t D."""
        if at.logits is None:
            # Of many rows every second length of 1 was twice too long, and each costs a pass.
            scale = self.pairs.scale(self._metric.apply) if self._metric else 1.0
            return Line(self, at.V, D, arithmetic, min(1.0, scale))
        return LogitLine(self, at, at.logits, D)
