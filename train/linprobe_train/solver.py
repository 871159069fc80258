"""The solver: L-BFGS in a Hessian metric, warm-started along C, stopped on what it can show.

Stop, whichever comes first (F objective, g gradient, H the inverse Hessian L-BFGS has built):

- ``bound``: ||g_W||^2 / (2 l2 F) <= ``gap``. Rigorous: F is l2-strongly convex in W, and the
  gradient of the intercept is negligible there. This is also the duality gap.
- ``estimate``: g'Hg / 2 <= ``decrement`` F: the decrease that L-BFGS itself expects of its next
  step. Measured, the true gap is up to about ten times this.

Both also ask that W, and not only F, has settled.

Everything else is an honest ``converged = False``.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from linprobe_train.metric import BlockMetric, block_metric
from linprobe_train.pairs import PairMemory, dot
from linprobe_train.passes import Arithmetic, Crew, evaluate
from linprobe_train.preparation import Float64
from linprobe_train.problem import Problem

StopReason = Literal["bound", "estimate", "max_iter", "stalled"]

ARMIJO = 1e-4
"""Share of the expected decrease a step must bring; Nocedal and Wright 2006, section 3.1."""

SETTLED = 1e-3
"""Decrease left to gain, relative to the ridge, that moves W by about 3 % at most."""

FLAT = 1e-11
"""Relative decrease of F that float64 sums barely resolve: nothing is left to gain."""

F32_NOISE = 1e-7
"""Relative change of F that float32 logits cannot resolve."""


@dataclass(frozen=True)
class Tolerance:
    """When a fit is done."""

    gap: float = 1e-6
    """Relative objective gap that the rigorous bound must reach."""
    decrement: float = 2e-8
    """Relative decrease expected of the next step that counts as done."""
    max_iter: int = 1000
    """Most iterations; the CLIP paper's number."""


@dataclass(frozen=True)
class FitReport:
    """How one fit ended."""

    C: float
    """Inverse L2 strength, scikit-learn's meaning."""
    objective: float
    """F at the end; times C and the sum of weights it is scikit-learn's objective."""
    bound: float
    """Rigorous bound of (F - F*) / F, where the intercept's gradient is 0."""
    estimate: float | None
    """Decrease expected of the next step, relative to F; None where the solver gives none."""
    stop: StopReason
    """Which test ended it."""
    iterations: int
    """Accepted steps."""
    passes: int
    """Reads of all rows."""

    @property
    def converged(self) -> bool:
        """Whether one of the two tests was met."""
        return self.stop in ("bound", "estimate")


@dataclass(frozen=True)
class Point:
    """A place and what was found there, without the ridge."""

    V: Float64
    """(m, d + 1), [W | b]."""
    loss: float
    """Mean loss."""
    gradient: Float64
    """(m, d + 1)"""


@dataclass(frozen=True)
class Objective:
    """F and its gradient at a point, the ridge included."""

    F: float
    """Mean loss + l2/2 ||W||^2."""
    g: Float64
    """(m, d + 1)"""
    l2: float
    """1 / (C S)."""

    @property
    def bound(self) -> float:
        """Rigorous relative gap, given a zero intercept gradient."""
        return dot(self.g[:, :-1], self.g[:, :-1]) / (2 * self.l2 * self.F)


def with_ridge(point: Point, l2: float) -> Objective:
    """Add the ridge, which does not touch the intercept."""
    W = point.V[:, :-1]
    g = point.gradient.copy()
    g[:, :-1] += l2 * W
    return Objective(point.loss + 0.5 * l2 * dot(W, W), g, l2)


class PathSolver:
    """Fits one problem at many C, each started from the nearest C solved before."""

    def __init__(self, problem: Problem, crew: Crew) -> None:
        self.problem = problem
        self.crew = crew
        self.passes = 0
        self.pairs = PairMemory()
        self._solved: dict[float, Point] = {}
        self._last = math.nan

    def start_from(self, V: Float64, C: float) -> None:
        """Take V, (m, d + 1), as if it were the solution at C."""
        self._solved[math.log(C)] = self.evaluate(V)

    def solution(self, C: float) -> tuple[Float64, Float64]:
        """Coef (m, d) and intercept (m,) on prepared rows of a C already fitted."""
        return self.problem.axes.out_of(self._solved[math.log(C)].V)

    def evaluate(self, V: Float64, arithmetic: Arithmetic = "float32") -> Point:
        """Read all rows once."""
        self.passes += 1
        found = evaluate(self.problem, V, self.crew, arithmetic)
        return Point(V, found.loss, found.gradient)

    def fit(self, C: float, tolerance: Tolerance) -> FitReport:
        """Minimise F at C."""
        before = self.passes
        descent = Descent(self, C, tolerance, self._start(math.log(C)))
        stop = descent.run()
        self._last = math.log(C)
        self._solved[self._last] = descent.point
        return FitReport(
            C=C,
            objective=descent.at.F,
            bound=descent.at.bound,
            estimate=descent.decrement / descent.at.F,
            stop=stop,
            iterations=descent.iterations,
            passes=self.passes - before,
        )

    def _start(self, x: float) -> Point:
        if not self._solved:
            return self.evaluate(np.zeros((self.problem.targets.columns, self.problem.dim + 1)))
        # Of two equally near, the smaller C: its solution errs on the smooth side.
        nearest = min(self._solved, key=lambda known: (abs(known - x), known))
        if nearest != self._last:
            self.pairs.clear()
        return self._solved[nearest]


class Descent:
    """One fit: the state that its iterations share."""

    def __init__(self, path: PathSolver, C: float, tolerance: Tolerance, point: Point) -> None:
        self.path = path
        self.tolerance = tolerance
        self.arithmetic: Arithmetic = "float32"
        self.iterations = 0
        self.decrement = math.inf
        self.point = point
        self.at = with_ridge(point, 1 / (C * path.problem.targets.total_weight))
        self._refreshed = 0
        self._reference = math.inf
        self._metric = self._build()

    def run(self) -> StopReason:
        """Iterate until a test is met."""
        while True:
            direction = self.path.pairs.direction(
                self.at.g, lambda q: self._metric.apply(q, self.path.crew)
            )
            slope = -dot(self.at.g, direction)
            self.decrement = -0.5 * slope
            if self._weights_settled():
                if self.at.bound <= self.tolerance.gap:
                    return "bound"
                if self.decrement <= self.tolerance.decrement * self.at.F:
                    return "estimate"
            if self.iterations >= self.tolerance.max_iter:
                return "max_iter"
            if not self._step(direction, slope):
                if self.arithmetic == "float64":
                    return "stalled"
                self.arithmetic = "float64"
                self._move(self.path.evaluate(self.point.V, "float64"))
            self._refresh()

    def _weights_settled(self) -> bool:
        """Whether W itself, not only F, is near its end.

        At tiny C all of F is the loss at W = 0, where a small relative gap says nothing of the
        direction of W, which alone decides predictions. The ridge is the scale of W's part of F.
        """
        ridge = self.at.F - self.point.loss
        return self.decrement <= max(SETTLED * ridge, FLAT * self.at.F)

    def _move(self, point: Point) -> None:
        self.point, self.at = point, with_ridge(point, self.at.l2)

    def _build(self) -> BlockMetric:
        return block_metric(self.path.problem, self.point.V, self.at.l2, self.path.crew)

    def _refresh(self) -> None:
        """Rebuild the metric once the curvature it was built from is left behind."""
        if self._refreshed == self.iterations - 1:
            self._reference = self.decrement
        since = self.iterations - self._refreshed
        if self.iterations == 6 or (since >= 25 and self.decrement < 0.01 * self._reference):
            self._metric = self._build()
            self._refreshed, self._reference = self.iterations, math.inf

    def _step(self, direction: Float64, slope: float) -> bool:
        """Move along -direction, from length 1 down by safeguarded secants; False if stuck."""
        length = 1.0
        for _ in range(25):
            point = self.path.evaluate(self.point.V - length * direction, self.arithmetic)
            at = with_ridge(point, self.at.l2)
            new_slope = -dot(at.g, direction)
            flat = new_slope <= 0 and at.F <= self.at.F * (1 + F32_NOISE)
            if self.at.F + ARMIJO * length * slope >= at.F or flat:
                self.path.pairs.remember(
                    point.V - self.point.V, at.g - self.at.g, least=1e-12 * abs(slope)
                )
                self.point, self.at = point, at
                self.iterations += 1
                return True
            secant = slope / (slope - new_slope) if new_slope > slope else 0.5
            length *= min(max(secant, 0.1), 0.7)
        return False
