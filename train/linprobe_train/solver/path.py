"""The path over C: every fit starts from those before it.

A start is the least F over the span of the nearest solutions (:func:`.least_of_span`).

A fit at large C, far from any other, is led there by loose ones: from afar the metric misleads into
detours. With no other at all they begin where the ridge equals the curvature of the steepest axis
at W = 0.
"""

import math
from dataclasses import replace
from typing import TypeVar

import numpy as np

from linprobe_train.solver.lbfgs import Descent, FitReport, Judge, StopReason, Tolerance
from linprobe_train.solver.losses import Lent, least_of_span, logits_of_shares
from linprobe_train.solver.passes import Crew, Objective, Point, with_ridge
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.problem import Problem
from linprobe_train.solver.surface import Surface

P = TypeVar("P", Point, Lent)

DECADE = math.log(10)
"""One decade of C in x = ln C."""

BRIDGE_STEP = DECADE
"""Distance between the fits of a bridge: half a decade took as many passes, and more time."""

COLD_STEP = DECADE / 2
"""The same from nowhere, where there is little to start from."""

BRIDGE = Tolerance(gap=1e-3, decrement=2e-4)
"""How far the fits of a bridge go: only the start of the next one depends on them."""

BRIDGE_RIDGE = 0.05
"""Share of the ridge in F from which a jump is bridged; below it the path is nearly straight."""

BASIS = 5
"""Solutions whose span holds a start: 2 took a fifth more passes, 8 no fewer."""

KEPT_LOGITS = 8
"""Solutions whose logits are kept, the new one and those nearest to it; at least one more than
:data:`BASIS`."""

LENT_FAR = 3 * DECADE
"""Distance from where fits from nothing begin beyond which one from lent solutions is bridged too.
Passes, bridged and not, of fits of a tenth more rows: 46 and 33, 50 and 41, 65 and 59, 40 and 39
from 2.1 to 2.9 decades away; 76 and 82, 89 and 102, 47 and 56, 98 and 128 from 3.5 on."""

LENT = 3
"""Solutions of a sweep, those nearest to the chosen C, that fits of more rows start from."""


class PathSolver:
    """Fits one problem at many C."""

    def __init__(self, problem: Problem, crew: Crew, *, kept_logits: int = KEPT_LOGITS) -> None:
        self.problem = problem
        self.surface = Surface(problem, crew, keep_logits=kept_logits > 0)
        self._kept = kept_logits
        self._solved: dict[float, Point] = {}
        self._borrowed: dict[float, Lent] = {}
        self._bridges: set[float] = set()

    @property
    def passes(self) -> int:
        """Reads of all rows so far."""
        return self.surface.passes

    def borrow(self, coef: Float64, intercept: Float64, C: float, *, resume: bool = False) -> None:
        """Take coef (m, d) and intercept (m,) on prepared rows, fitted at C on other rows.

        ``resume`` takes them for a solution of these rows.
        """
        V = self.problem.into(coef, intercept)
        if resume:
            self._solved[math.log(C)] = self.surface.at(V)
        else:
            self._borrowed[math.log(C)] = Lent(V)

    def solution(self, C: float) -> tuple[Float64, Float64]:
        """Coef (m, d) and intercept (m,) on prepared rows of a C already fitted.

        With softmax both have mean 0 over the columns: what columns share changes no probability.
        """
        V = self._solved[math.log(C)].V
        if self.problem.loss == "softmax":
            V = V - V.mean(axis=0)
        return self.problem.out_of(V)

    def fit(self, C: float, tolerance: Tolerance, judge: Judge | None = None) -> FitReport:
        """Minimise F at C, until ``judge``, where there is one, has seen enough."""
        before = self.passes
        loose = replace(BRIDGE, max_iter=min(BRIDGE.max_iter, tolerance.max_iter))
        for x in self.bridge(math.log(C)):
            self._bridges.add(x)
            self._solve(x, loose)
        self._bridges.discard(math.log(C))
        descent, reason = self._solve(math.log(C), tolerance, judge)
        at, estimate, passes = descent.at, descent.decrement / descent.at.F, self.passes - before
        loss, iterations = at.point.loss, descent.iterations
        return FitReport(C, at.F, loss, at.bound, estimate, reason, iterations, passes)

    def refine(self, C: float, tolerance: Tolerance, judge: Judge) -> FitReport:
        """Go on at a C already fitted, in float64 and on the rows as they are stored.

        Memory is that of the fits so far: what they share is built again after this.
        """
        crew, x = self.surface.crew, math.log(C)
        self.surface = Surface(self.problem, crew, keep_logits=self.surface.keep_logits)
        for known, point in self._solved.items():
            self._solved[known] = replace(point, logits=None)
        self._borrowed = {known: Lent(lent.V) for known, lent in self._borrowed.items()}
        preparation = replace(self.problem.preparation, arithmetic="float64")
        pilot = self.problem.pilot
        if pilot is None:
            pilot = self.problem.turned_rows(self.problem.pilot_rows)
        problem = replace(self.problem, resident=None, pilot=pilot, preparation=preparation)
        exact = PathSolver(problem, crew)
        exact._solved[x] = exact.surface.at(self._solved[x].V)
        report = exact.fit(C, tolerance, judge)
        self._solved[x] = exact._solved[x]
        return report

    def _solve(
        self, x: float, tolerance: Tolerance, judge: Judge | None = None
    ) -> tuple[Descent, StopReason]:
        self._forget(x)
        start = self._start(x)
        self.surface.pairs.shift(start.l2)
        descent = Descent(self.surface, start, judge)
        reason = descent.run(tolerance)
        self._solved[x] = descent.at.point
        return descent, reason

    def _forget(self, x: float) -> None:
        """Make room for a fit at x: keep what its start needs, and what is asked for."""
        others = sorted(self._solved.keys() - {x}, key=lambda known: abs(known - x))
        for far in others[max(BASIS, self._kept - 1) :]:
            if far in self._bridges:
                del self._solved[far]
            else:
                self._solved[far] = replace(self._solved[far], logits=None)

    def bridge(self, x: float) -> list[float]:
        """Values of ln C to pass through on the way up to x."""
        below = [known for known in self._solved if known < x]
        if self._borrowed and not self._solved:
            # From below, the new rows lead away from what the others had in common.
            far = x - self._origin() > LENT_FAR
            return [x - 2 * DECADE, x - DECADE] if far else []
        if x in self._solved or (self._solved and not below):
            return []
        start, step = (max(below), BRIDGE_STEP) if below else (self._origin(), COLD_STEP)
        if below:
            point, W = self._solved[start], self._solved[start].V[:, :-1]
            ridge = 0.5 * self._l2(start) * float(np.vdot(W, W))
            if ridge < BRIDGE_RIDGE * (point.loss + ridge):
                return []
        if x - start <= 1.01 * DECADE:
            return []
        steps = round((x - start) / step)
        return [start + (x - start) * i / steps for i in range(1, steps)]

    def _origin(self) -> float:
        """Value of ln C whose ridge is the curvature of the steepest axis at W = 0."""
        problem = self.problem
        curvature = problem.steepest / (problem.m if problem.loss == "softmax" else 4)
        return -math.log(max(curvature, 1e-30) * problem.total_weight)

    def _start(self, x: float) -> Objective:
        # Of two equally near, the smaller C: its solution errs on the smooth side.
        near = sorted(self._solved, key=lambda known: (abs(known - x), known))[:BASIS]
        lent = sorted(self._borrowed, key=lambda known: (abs(known - x), known))
        if not near and not lent:
            V = np.zeros((self.problem.m, self.problem.dim + 1))
            V[:, -1] = logits_of_shares(self.problem.shares, self.problem.loss)
        elif x in near:
            V = self._solved[x].V
        else:
            # All rows are read at one place of the span at least.
            first = self._with_logits(self._solved, near.pop(0)) if near else None
            first = first or self.surface.at(self._borrowed[lent.pop(0)].V)
            others: list[Point | Lent] = [self._with_logits(self._solved, known) for known in near]
            others += [self._with_logits(self._borrowed, known) for known in lent]
            V = least_of_span(self.problem, self.surface.crew, first, others, self._l2(x))
        return with_ridge(self.surface.at(V), self._l2(x))

    def _with_logits(self, group: dict[float, P], x: float) -> P:
        if group[x].logits is None and self.surface.keep_logits:
            group[x] = replace(group[x], logits=self.surface.logits(group[x].V))
        return group[x]

    def _l2(self, x: float) -> float:
        return math.exp(-x) / self.problem.total_weight
