"""The estimator that chooses C by cross-validation: the solver's path over C, fold by fold."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import get_scorer, get_scorer_names, log_loss, make_scorer
from sklearn.model_selection import check_cv
from sklearn.utils._param_validation import Interval, StrOptions

from linprobe_train.estimator import CONSTRAINTS, GAP, ClassWeight, LinearProbe, Problem
from linprobe_train.linear_classifier import weights_of
from linprobe_train.solver.fit import Trainer, make_trainer, within_memory
from linprobe_train.solver.lbfgs import FitReport
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import rows_of_array

Scorer = Callable[..., float]
"""``scorer(estimator, X, y, sample_weight=...)``, larger is better."""
LENT = 3
"""Probes of the first fold, those nearest to the chosen C, that the final fit starts from."""


@dataclass(frozen=True)
class Fold:
    """What one fold gave, at every C in the order of ``Cs_``."""

    scores: Float64
    """(number of C,) of the held-out rows."""
    losses: Float64
    """(number of C,) their log loss, which breaks ties."""
    fits: list[FitReport]
    """How the fits ended."""
    probes: list[Probe]
    """What they gave; empty where nothing is left to do with them."""


class LinearProbeCV(LinearProbe):
    """:class:`LinearProbe` at the C that does best in cross-validation.

    What ``LogisticRegressionCV`` is to ``LogisticRegression``, with its L2 parameters and meanings
    (and what it gives with ``use_legacy_attributes=False``, without the axis of ``l1_ratios``).
    Every fold is fitted to the same ``gap``, each C from those before it. Of several C with the
    same score it takes the one of the least held-out log loss, where scikit-learn takes the
    smallest: many score alike on easy rows, and the smallest has useless probabilities.

    Parameters
    ----------
    Cs : values of C > 0, or how many from 1e-4 to 1e4.
    cv : folds (stratified), a splitter, or pairs of row numbers; None for 5.
    scoring : scikit-learn's name of a score, or ``scorer(estimator, X, y)``; None for accuracy.
    refit : fit all rows at the chosen C; else average over the folds, each at its own best C.
    normalize, standardize, class_weight, gap, max_iter, n_jobs : as in :class:`LinearProbe`;
        ``standardize`` takes mean and deviation from the rows that are fitted.

    Attributes
    ----------
    C_ : the chosen C; without ``refit``, the mean of the folds' best.
    Cs_ : (number of C,) float64.
    scores_ : (folds, number of C) float64, held-out scores.
    n_iter_ : (folds, number of C) int, iterations.
    classes_, coef_, intercept_, n_features_in_, feature_names_in_ : as in :class:`LinearProbe`.
    report_ : the :class:`FitReport` of the fit on all rows; without ``refit`` there is none.

    Examples
    --------
    >>> import numpy as np
    >>> from linprobe import LinearProbeCV
    >>> y = np.arange(60) % 3
    >>> X = np.eye(3)[y] + 0.1 * np.random.default_rng(0).standard_normal((60, 3))
    >>> model = LinearProbeCV(Cs=[0.1, 1.0, 10.0], cv=3).fit(X, y)
    >>> model.scores_.shape, model.score(X, y)
    ((3, 3), 1.0)
    """

    _parameter_constraints: ClassVar[dict[str, list[object]]] = {
        **{name: kinds for name, kinds in CONSTRAINTS.items() if name not in ("C", "warm_start")},
        "Cs": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "refit": ["boolean"],
    }

    def __init__(
        self,
        Cs: int | ArrayLike = 10,
        *,
        cv: object = None,
        scoring: str | Scorer | None = None,
        refit: bool = True,
        normalize: bool = False,
        standardize: bool = False,
        class_weight: ClassWeight = None,
        gap: float | None = None,
        max_iter: int = 1000,
        n_jobs: int | None = None,
    ) -> None:
        self.Cs = Cs
        self.cv = cv
        self.scoring = scoring
        self.refit = refit
        self.normalize = normalize
        self.standardize = standardize
        self.class_weight = class_weight
        self.gap = gap
        self.max_iter = max_iter
        self.n_jobs = n_jobs

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Choose C and fit there; gives the estimator itself.

        Parameters
        ----------
        X, y, sample_weight : as :meth:`LinearProbe.fit`; the weights count in scores too.

        Raises
        ------
        ValueError : what scikit-learn refuses, and fewer than two classes.
        DataError : what :func:`linprobe.fit_probe` refuses, of all rows or of a fold's.

        Warns
        -----
        ConvergenceWarning : ``gap`` was not reached in some fit.
        """
        problem = self._problem(X, y, sample_weight)
        self.Cs_ = _values(self.Cs)
        labels = self.classes_[problem[1]]
        cuts = list(check_cv(self.cv, labels, classifier=True).split(problem[0], labels))
        params = {} if sample_weight is None else {"sample_weight": np.asarray(sample_weight)}
        with crew_of(self.n_jobs) as crew:
            folds: list[Fold] = []
            for train, test in cuts:
                fold = self._fold(problem, train, test, params, crew)
                needed = not folds or not self.refit
                folds.append(fold if needed else replace(fold, probes=[]))
            reports = [fit for fold in folds for fit in fold.fits]
            self.scores_ = np.array([fold.scores for fold in folds])
            self.n_iter_ = np.reshape([fit.iterations for fit in reports], self.scores_.shape)
            if self.refit:
                losses = np.mean([fold.losses for fold in folds], axis=0)
                self.C_ = float(self.Cs_[_best(self.scores_.mean(axis=0), losses)])
                V, self.report_ = self._final(problem, folds[0].probes, crew)
                reports.append(self.report_)
            else:
                best = [_best(fold.scores, fold.losses) for fold in folds]
                self.C_ = float(self.Cs_[best].mean())
                parts = [_whole(fold.probes[i]) for fold, i in zip(folds, best, strict=True)]
                V = np.mean(parts, axis=0)
        self.coef_, self.intercept_ = weights_of(V, problem[0])
        self._warn(reports)
        return self

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Score X, (n, d), with labels y, (n,), by ``scoring``; ``sample_weight`` is (n,)."""
        params = {} if sample_weight is None else {"sample_weight": sample_weight}
        return float(get_scorer(self.scoring or "accuracy")(self, X, y, **params))

    def _fold(
        self,
        problem: Problem,
        train: NDArray[np.intp],
        test: NDArray[np.intp],
        params: Mapping[str, NDArray[np.generic]],
        crew: Crew,
    ) -> Fold:
        """Fit every C, ascending, on some rows, and score it on the others."""
        rows, ids, _ = problem
        trainer = self._trainer(problem, train, crew)
        scorer, labels = _scorer(self.scoring, self.classes_), self.classes_[ids[test]]
        gap = GAP if self.gap is None else self.gap
        tolerance = replace(self._tolerance(rows), gap=gap, decrement=gap / 50)
        held = {name: value[test] for name, value in params.items()}
        model = LinearProbe(normalize=self.normalize, n_jobs=self.n_jobs)
        model.classes_, model.n_features_in_ = self.classes_, rows.shape[1]
        scores, losses = np.zeros((2, len(self.Cs_)))
        fits: dict[int, FitReport] = {}
        for i in np.argsort(self.Cs_).tolist():
            C = float(self.Cs_[i])
            fits[i] = trainer.fit(C, tolerance)
            model.coef_, model.intercept_ = weights_of(_whole(trainer.probe(C)), rows)
            scores[i] = scorer(model, rows[test], labels, **held)
            probabilities = model.predict_proba(rows[test])
            losses[i] = log_loss(labels, probabilities, labels=self.classes_, **held)
        each = range(len(self.Cs_))
        probes = [trainer.probe(float(C)) for C in self.Cs_]
        return Fold(scores, losses, [fits[i] for i in each], probes)

    def _trainer(self, problem: Problem, keep: NDArray[np.intp] | slice, crew: Crew) -> Trainer:
        rows, ids, weights = problem
        labelled = rows_of_array(rows[keep], ids[keep], len(self.classes_))
        weights = None if weights is None else weights[keep]
        settings = self._settings(rows)
        return make_trainer(labelled, settings, within_memory(crew, labelled, settings), weights)

    def _final(
        self, problem: Problem, probes: list[Probe], crew: Crew
    ) -> tuple[Float64, FitReport]:
        trainer = self._trainer(problem, slice(None), crew)
        far = [abs(math.log(C / self.C_)) for C in self.Cs_]
        for i in np.argsort(far)[:LENT]:
            trainer.borrow(probes[i], float(self.Cs_[i]))
        report = trainer.fit(self.C_, self._tolerance(problem[0]))
        return _whole(trainer.probe(self.C_)), report


def _best(scores: Float64, losses: Float64) -> int:
    """Where the score is highest; of several, where the loss is least."""
    return int(np.lexsort((losses, -scores))[0])


def _values(Cs: int | ArrayLike) -> Float64:
    if isinstance(Cs, int | np.integer):
        return np.logspace(-4, 4, int(Cs))
    values = np.asarray(Cs, np.float64)
    if values.ndim != 1 or not len(values) or not ((values > 0) & (values < np.inf)).all():
        raise ValueError(f"Cs must be positive and finite numbers in one dimension. Got {Cs!r}.")
    return values


def _whole(probe: Probe) -> Float64:
    """[W | b] of all classes, (k, d + 1) or (1, d + 1); those not fitted have probability 0."""
    V = np.column_stack([probe.coef, probe.intercept])
    if len(probe.fitted) == probe.n_classes:
        return V
    whole = np.zeros((probe.n_classes, V.shape[1]))
    whole[:, -1] = -np.inf
    whole[probe.fitted] = V if len(V) > 1 else np.concatenate([-V / 2, V / 2])
    return whole


def _scorer(scoring: str | Scorer | None, classes: NDArray[np.generic]) -> Scorer:
    """The scorer, told of all classes where it can be: held-out rows may lack some."""
    scorer: Scorer = get_scorer(scoring or "accuracy")
    # As LogisticRegressionCV does it: a scorer has no public way to be given an argument.
    parts = getattr(scorer, "__dict__", {})
    score = parts.get("_score_func")
    known = {} if score is None else inspect.signature(score).parameters
    if "labels" not in known:
        return scorer
    binary = {"pos_label": classes[-1]} if len(classes) == 2 and "pos_label" in known else {}
    arguments = {"labels": classes, **binary, **parts["_kwargs"]}
    response, positive = parts["_response_method"], parts["_sign"] == 1
    told: Scorer = make_scorer(
        score, response_method=response, greater_is_better=positive, **arguments
    )
    return told
