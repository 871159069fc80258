"""The path over C: every fit starts from those before it.

A start is the solution at the nearest C, or the line through two in ln C if its objective is lower.
A jump of over a decade is bridged by loose fits: from afar the metric misleads into detours.
"""

import math

import numpy as np

from linprobe_train.solver.lbfgs import Descent, FitReport, StopReason, Surface, Tolerance
from linprobe_train.solver.passes import Crew, Objective, Point, with_ridge
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.problem import Problem

DECADE = math.log(10)
"""One decade of C in x = ln C; longest distance that is neither bridged nor extrapolated over."""

BRIDGE_STEP = DECADE / 2
"""Distance between the fits of a bridge; a third or a quarter of a decade took more time."""

BRIDGE = Tolerance(gap=1e-2, decrement=5e-3)
"""How far the fits of a bridge go: only the start of the next one depends on them."""

BRIDGE_RIDGE = 0.05
"""Share of the ridge in F from which a jump is bridged; below it the path is nearly straight."""


class PathSolver:
    """Fits one problem at many C."""

    def __init__(self, problem: Problem, crew: Crew) -> None:
        self.problem = problem
        self.surface = Surface(problem, crew)
        self._solved: dict[float, Point] = {}
        self._last = math.nan

    @property
    def passes(self) -> int:
        """Reads of all rows so far."""
        return self.surface.passes

    def start_from(self, coef: Float64, intercept: Float64, C: float) -> None:
        """Take coef (m, d) and intercept (m,) on prepared rows for the solution at C."""
        self._solved[math.log(C)] = self.surface.at(self.problem.into(coef, intercept))

    def solution(self, C: float) -> tuple[Float64, Float64]:
        """Coef (m, d) and intercept (m,) on prepared rows of a C already fitted.

        With softmax both have mean 0 over the columns: what columns share changes no probability.
        """
        V = self._solved[math.log(C)].V
        if self.problem.loss == "softmax":
            V = V - V.mean(axis=0)
        return self.problem.out_of(V)

    def fit(self, C: float, tolerance: Tolerance) -> FitReport:
        """Minimise F at C."""
        before = self.passes
        for x in self.bridge(math.log(C)):
            self._solve(x, BRIDGE)
        descent, reason = self._solve(math.log(C), tolerance)
        at, estimate, passes = descent.at, descent.decrement / descent.at.F, self.passes - before
        loss, iterations = at.point.loss, descent.iterations
        return FitReport(C, at.F, loss, at.bound, estimate, reason, iterations, passes)

    def _solve(self, x: float, tolerance: Tolerance) -> tuple[Descent, StopReason]:
        descent = Descent(self.surface, self._start(x))
        reason = descent.run(tolerance)
        self._solved[x] = descent.at.point
        self._last = x
        return descent, reason

    def bridge(self, x: float) -> list[float]:
        """Values of ln C to pass through on the way up to x."""
        below = [known for known in self._solved if known < x]
        if not below or x - max(below) <= 1.01 * DECADE:
            return []
        start = max(below)
        at = with_ridge(self._solved[start], self._l2(start))
        if at.ridge < BRIDGE_RIDGE * at.F:
            return []
        steps = round((x - start) / BRIDGE_STEP)
        return [start + (x - start) * i / steps for i in range(1, steps)]

    def _start(self, x: float) -> Objective:
        if not self._solved:
            V = np.zeros((self.problem.m, self.problem.dim + 1))
            return with_ridge(self.surface.at(V), self._l2(x))
        # Of two equally near, the smaller C: its solution errs on the smooth side.
        order = sorted(self._solved, key=lambda known: (abs(known - x), known))
        if order[0] != self._last:
            self.surface.pairs.clear()
        near = with_ridge(self._solved[order[0]], self._l2(x))
        if order[0] == x or len(order) < 2:
            return near
        a, b = order[:2]
        within_reach = abs(b - x) <= 2.01 * DECADE and abs(a - b) <= 1.01 * DECADE
        if not within_reach or abs(x - a) > 1.01 * abs(a - b):
            return near
        first, second = self._solved[a].V, self._solved[b].V
        V = first + (x - a) / (b - a) * (second - first)
        line = with_ridge(self.surface.at(V), self._l2(x))
        return line if line.F < near.F else near

    def _l2(self, x: float) -> float:
        return math.exp(-x) / self.problem.total_weight
