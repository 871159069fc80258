# mypy: ignore-errors
# It puts the attributes of two libraries' classes together, one of which has no types.
"""A pytest plugin: scikit-learn's own tests of LogisticRegression, run on LinearProbe.

Both classes are replaced before the module of the tests is imported. The stand-ins have
LogisticRegression's parameters. ``solver``, ``tol`` and ``random_state`` change nothing; so
does ``fit_intercept=False``, as most tests that say it compare two fits: there is an intercept
always. What changes the objective (another penalty than L2, or none) is refused. The outcome of
every test is written to the file that ``SKLEARN_OUTCOMES`` names, as JSON.
"""

import inspect
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pluggy
import pytest
import sklearn.linear_model
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from linprobe_train.estimator import LinearProbe
from linprobe_train.estimator_cv import LinearProbeCV
from linprobe_train.solver.lbfgs import Tolerance

THEIRS = (sklearn.linear_model.LogisticRegression, sklearn.linear_model.LogisticRegressionCV)
OUTCOMES: dict[str, str] = {}


class NotOursError(Exception):
    """A parameter of LogisticRegression asks for what LinearProbe does not have."""


class _StandIn(BaseEstimator):  # type: ignore[misc]
    """Takes LogisticRegression's parameters, and gives LinearProbe those that it has too."""

    _parameter_constraints: ClassVar[dict[str, list[object]]] = {}
    _theirs: ClassVar[type]

    def __init_subclass__(cls) -> None:
        signature = inspect.signature(cls._theirs.__init__)
        defaults = {name: p.default for name, p in signature.parameters.items() if name != "self"}

        def init(self: "_StandIn", **given: object) -> None:
            if unknown := given.keys() - defaults.keys():
                raise TypeError(f"unexpected {unknown}")
            vars(self).update({"normalize": False, "standardize": False, **defaults, **given})

        init.__signature__ = signature  # type: ignore[attr-defined]
        cls.__init__ = init  # type: ignore[method-assign,assignment]

    gap = 1e-15

    def _tolerance(self, rows: object) -> Tolerance:
        return Tolerance(self.gap, self.gap / 50, min(self.max_iter, 300))

    def _validate_params(self) -> None:
        self._theirs._validate_params(self)
        wanted = {"penalty": "deprecated", "dual": False, "l1_ratio": 0, "l1_ratios": (0,)}
        for name, value in self.get_params().items():
            default = isinstance(value, str) and value == "warn"
            if name in wanted and not default and not np.array_equal(value, wanted[name]):
                raise NotOursError(f"{name}={value!r}")
        if getattr(self, "C", 1.0) == np.inf:
            raise NotOursError("C=inf")


class LogisticRegression(_StandIn, LinearProbe):
    """LinearProbe with LogisticRegression's parameters."""

    _theirs = THEIRS[0]
    _parameter_constraints: ClassVar[dict[str, list[object]]] = _theirs._parameter_constraints


class LogisticRegressionCV(_StandIn, LinearProbeCV):
    """LinearProbeCV with LogisticRegressionCV's parameters, and its axis of l1_ratios."""

    _theirs = THEIRS[1]
    _parameter_constraints: ClassVar[dict[str, list[object]]] = _theirs._parameter_constraints

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """As LinearProbeCV; then what scikit-learn gives only adds an axis, or repeats."""
        asked, self.scoring = self.scoring, None if self.scoring == "warn" else self.scoring
        try:
            super().fit(X, y, sample_weight)
        finally:
            self.scoring = asked
        self.l1_ratios_, self.l1_ratio_ = np.zeros(1), 0.0
        self.scores_, self.n_iter_ = self.scores_[:, None], self.n_iter_[:, None]
        if self.use_legacy_attributes is not False:
            labels = self.classes_ if len(self.classes_) > 2 else self.classes_[1:]
            self.scores_ = dict.fromkeys(labels, np.moveaxis(self.scores_, 1, 2))
            self.n_iter_ = np.moveaxis(self.n_iter_, 1, 2)[None]
            self.C_, self.l1_ratio_ = np.full(len(labels), self.C_), np.zeros(len(labels))
        return self


sklearn.linear_model.LogisticRegression = LogisticRegression
sklearn.linear_model.LogisticRegressionCV = LogisticRegressionCV


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pluggy.Result[pytest.TestReport], None]:
    """Note how a test ended: passed, skipped, or the last line of what it raised."""
    report = (yield).get_result()
    if report.failed and call.excinfo is not None:
        lines = str(call.excinfo.value).strip().splitlines() or [""]
        OUTCOMES[item.name] = f"{call.excinfo.type.__name__}: {' '.join(lines)[:200]}"
    elif report.skipped:
        OUTCOMES[item.name] = "skipped"
    else:
        OUTCOMES.setdefault(item.name, "passed")


def pytest_sessionfinish() -> None:
    """Write the outcomes."""
    Path(os.environ["SKLEARN_OUTCOMES"]).write_text(json.dumps(OUTCOMES, indent=1))
