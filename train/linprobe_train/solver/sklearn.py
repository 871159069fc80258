"""The adapter of scikit-learn's ``LogisticRegression``: slower, independent, for comparison."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from linprobe_train.solver.lbfgs import FitReport, Judge, StopReason, Tolerance
from linprobe_train.solver.passes import Crew, evaluate, with_ridge
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.problem import Problem

TOL = 1e-6
"""On max |gradient of the mean loss|. scikit-learn's default, 1e-4, stops far from the optimum on
unit-norm features."""

MAX_ITER = 10_000
"""Far above what it takes; the tolerance decides."""


class SklearnSolver:
    """Fits by scikit-learn in float64, holding all rows in memory."""

    def __init__(self, problem: Problem, crew: Crew) -> None:
        self.problem = problem
        self._crew = crew
        self._features = np.empty((problem.n, problem.dim))
        for start, block in problem.source.pairs():
            self._features[start : start + block.n] = problem.preparation.apply(block.read())
        self._solved: dict[float, tuple[Float64, Float64]] = {}

    def fit(self, C: float, tolerance: Tolerance, judge: Judge | None = None) -> FitReport:
        """Fit at C from zero; of ``tolerance`` only a larger ``max_iter`` counts, no judge."""
        problem, labels = self.problem, self.problem.source.labels
        model = LogisticRegression(C=C, tol=TOL, max_iter=max(MAX_ITER, tolerance.max_iter))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            if labels.ndim == 1:
                columns = [model.fit(self._features, labels, sample_weight=problem.weights)]
            else:
                columns = OneVsRestClassifier(model).fit(self._features, labels).estimators_
        coef = np.concatenate([column.coef_ for column in columns])
        intercept = np.concatenate([column.intercept_ for column in columns])
        iterations = sum(int(column.n_iter_.max()) for column in columns)
        self._solved[C] = coef, intercept
        point = evaluate(problem, problem.into(coef, intercept), self._crew, "float64")
        at = with_ridge(point, 1 / (C * problem.total_weight))
        ended = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
        stop: StopReason = "max_iter" if ended else "estimate"
        return FitReport(C, at.F, at.point.loss, at.bound, None, stop, iterations, iterations)

    def refine(self, C: float, tolerance: Tolerance, judge: Judge) -> FitReport:
        """Fit at C once more: its fits are float64, and as far as its own tolerance goes."""
        return self.fit(C, tolerance, judge)

    def solution(self, C: float) -> tuple[Float64, Float64]:
        """Coef (m, d) and intercept (m,) on prepared rows of a C already fitted."""
        return self._solved[C]

    def borrow(self, coef: Float64, intercept: Float64, C: float, *, resume: bool = False) -> None:
        """Nothing: scikit-learn starts from zero, as people use it."""
