"""One fit: L-BFGS in a Hessian metric, stopped on what it can show.

Stop, whichever comes first (F objective, g gradient, H the inverse Hessian L-BFGS has built):

- ``bound``: ||g_W||^2 / (2 l2 F) <= ``gap``. Rigorous, see :class:`Objective`; the gradient of the
  intercept is negligible there.
- ``estimate``: g'Hg / 2 <= ``decrement`` F: the decrease that L-BFGS itself expects of its next
  step. Measured, the true gap is up to about ten times this.

Both also ask that W, and not only F, has settled. Everything else is ``converged = False``.

The inverse Hessian is the two-loop recursion (Nocedal and Wright 2006, algorithm 7.4) as four
matrix products. With steps and gradient changes as columns of S and Y, oldest first, M the metric,
R the upper triangle of S'Y and D its diagonal:

    alpha = R^-1 S'g,    z0 = M^-1 (g - Y alpha),    z = z0 + S R^-T (D alpha - Y'z0)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from linprobe_train.solver.passes import Crew, Objective, Point, evaluate, with_ridge
from linprobe_train.solver.preconditioner import BlockMetric, block_metric
from linprobe_train.solver.preparation import Arithmetic, Float32, Float64
from linprobe_train.solver.problem import Problem

StopReason = Literal["bound", "estimate", "max_iter", "stalled"]

PAIRS = 30
"""Pairs kept; 60 saved no pass."""

ARMIJO = 1e-4
"""Share of the expected decrease a step must bring; Nocedal and Wright 2006, section 3.1."""

MAX_LENGTHS = 25
"""Lengths tried along one direction."""

SETTLED = 1e-3
"""Decrease left to gain, relative to the ridge, that moves W by about 3 % at most."""

FLAT = 1e-11
"""Relative decrease of F that float64 sums barely resolve: nothing is left to gain."""

F32_NOISE = 1e-7
"""Relative change of F that float32 logits cannot resolve."""

NEAR = math.log(3.2)
"""Change of ln l2 over which a metric serves on: half a decade."""

SECOND_LOOK = 8
"""Steps after which a fit has left the place its metric was built at; 6 and 10 took more time."""

LONG = 25
"""Least steps between later builds."""

FAR = 0.01
"""Fall of the expected decrease, since the last build, that makes a later build worth it."""


@dataclass(frozen=True)
class Tolerance:
    """When a fit is done: it stops when one of the two tests is met, or at ``max_iter``.

    Parameters
    ----------
    gap : relative objective gap (F - F*) / F, >= 0, that the rigorous bound must reach.
    decrement : decrease of F expected of the next step, relative to F, that counts as done, >= 0.
    max_iter : most iterations; 1,000 is the CLIP paper's number.

    Examples
    --------
    >>> Tolerance(gap=1e-9, decrement=1e-11)
    Tolerance(gap=1e-09, decrement=1e-11, max_iter=1000)
    """

    gap: float = 1e-6
    decrement: float = 2e-8
    max_iter: int = 1000


@dataclass(frozen=True)
class FitReport:
    """How one fit ended.

    F = mean loss + ||W||^2 / (2 C S), S the sum of the row weights; C S F is scikit-learn's.

    Attributes
    ----------
    C : inverse L2 strength, scikit-learn's meaning.
    objective : F at the end, in nats.
    loss : the part of F that is the mean loss of the rows, in nats.
    bound : rigorous bound of (F - F*) / F, where the intercept's gradient is 0.
    estimate : decrease expected of the next step, relative to F; None where the solver gives none.
    stop : the test that ended it, ``bound`` or ``estimate``; else ``max_iter`` or ``stalled``.
    iterations : accepted steps.
    passes : reads of all rows.
    converged : whether one of the two tests was met.

    Examples
    --------
    >>> FitReport(1.0, 0.5, 0.4, 1e-7, 1e-9, "bound", iterations=12, passes=14).converged
    True
    """

    C: float
    objective: float
    loss: float
    bound: float
    estimate: float | None
    stop: StopReason
    iterations: int
    passes: int

    @property
    def converged(self) -> bool:
        """Whether one of the two tests was met."""
        return self.stop in ("bound", "estimate")


class PairMemory:
    """The last steps and gradient changes, (m, d + 1) each, kept in float32."""

    def __init__(self, size: int) -> None:
        self._steps = np.zeros((PAIRS, size), np.float32)
        self._changes = np.zeros((PAIRS, size), np.float32)
        self._products = np.zeros((PAIRS, PAIRS))
        self._order: list[int] = []

    def clear(self) -> None:
        """Forget every pair."""
        self._order.clear()

    def remember(self, s: Float64, y: Float64, least: float) -> None:
        """Keep a pair whose s'y exceeds ``least``: only such pairs keep the metric positive."""
        product = float(np.vdot(s, y))
        if product <= least:
            return
        place = len(self._order) if len(self._order) < PAIRS else self._order.pop(0)
        self._steps[place], self._changes[place] = s.ravel(), y.ravel()
        self._products[:, place] = self._steps @ self._changes[place]
        self._products[place, place] = product
        self._order.append(place)

    def direction(self, gradient: Float64, metric: Callable[[Float32], Float32]) -> Float64:
        """Inverse Hessian times gradient, (m, d + 1)."""
        g = gradient.astype(np.float32)
        # Not before a fit: a stored answer is shown without the eighth of a second that it takes.
        from scipy.linalg import solve_triangular

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


class Surface:
    """The loss of one problem, counted by passes, with what fits of it share."""

    def __init__(self, problem: Problem, crew: Crew) -> None:
        self.problem = problem
        self.passes = 0
        self.pairs = PairMemory(problem.m * (problem.dim + 1))
        self._crew = crew
        self._metric: BlockMetric | None = None
        self._metric_l2 = math.nan

    def metric(self, at: Objective, *, anew: bool = False) -> BlockMetric:
        """Build the metric; unless ``anew``, that of the fit before serves on where l2 is near.

        A build costs as much as a few passes, a stale metric costs more.
        """
        if anew or self._metric is None or abs(math.log(at.l2 / self._metric_l2)) > NEAR:
            self._metric = block_metric(self.problem, at.point.V, at.l2, self._crew)
            self._metric_l2 = at.l2
        return self._metric

    def at(self, V: Float64, arithmetic: Arithmetic | None = None) -> Point:
        """Read all rows once; in the arithmetic of the rows where none is given."""
        self.passes += 1
        arithmetic = arithmetic or self.problem.preparation.arithmetic
        return evaluate(self.problem, V, self._crew, arithmetic)


class Descent:
    """One fit: the state that its iterations share."""

    def __init__(self, surface: Surface, start: Objective) -> None:
        self.at = start
        self.iterations = 0
        self.decrement = math.inf
        self._surface = surface
        self._arithmetic = surface.problem.preparation.arithmetic

    def run(self, tolerance: Tolerance) -> StopReason:
        """Iterate until a test is met."""
        surface, built, reference = self._surface, 0, math.inf
        metric = surface.metric(self.at)
        while True:
            direction = surface.pairs.direction(self.at.g, metric.apply)
            if np.vdot(self.at.g, direction) <= 0:  # rounding cost the pairs their sign
                surface.pairs.clear()
                direction = surface.pairs.direction(self.at.g, metric.apply)
            slope = -float(np.vdot(self.at.g, direction))
            self.decrement = -0.5 * slope
            # At tiny C all of F is the loss at W = 0, where a small relative gap says nothing of
            # the direction of W, which alone decides predictions: W's part of F is the ridge.
            settled = self.decrement <= max(SETTLED * self.at.ridge, FLAT * self.at.F)
            if settled and self.at.bound <= tolerance.gap:
                return "bound"
            if settled and 0 < self.decrement <= tolerance.decrement * self.at.F:
                return "estimate"
            if self.iterations >= tolerance.max_iter:
                return "max_iter"
            if not self._step(direction, slope):
                if self._arithmetic == "float64":
                    return "stalled"
                self._arithmetic = "float64"
                self.at = with_ridge(surface.at(self.at.point.V, "float64"), self.at.l2)
            if self.iterations == built + 1:
                reference = self.decrement
            left = self.iterations - built >= LONG and self.decrement < FAR * reference
            if self.iterations == SECOND_LOOK or left:
                metric = surface.metric(self.at, anew=True)
                built, reference = self.iterations, math.inf

    def _step(self, direction: Float64, slope: float) -> bool:
        """Move along -direction, from length 1 down by safeguarded secants; False if stuck."""
        start, length = self.at, 1.0
        for _ in range(MAX_LENGTHS):
            point = self._surface.at(start.point.V - length * direction, self._arithmetic)
            end = with_ridge(point, start.l2)
            new_slope = -float(np.vdot(end.g, direction))
            flat = new_slope <= 0 and end.F <= start.F * (1 + F32_NOISE)
            if start.F + ARMIJO * length * slope >= end.F or flat:
                moved, least = point.V - start.point.V, 1e-12 * abs(slope)
                self._surface.pairs.remember(moved, end.g - start.g, least)
                self.at = end
                self.iterations += 1
                return True
            secant = slope / (slope - new_slope) if new_slope > slope else 0.5
            length *= min(max(secant, 0.1), 0.7)
        return False
