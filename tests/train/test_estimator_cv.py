"""Choosing C by cross-validation, beside scikit-learn's ``LogisticRegressionCV``."""

from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, StratifiedKFold
from train_factories import features

import linprobe
from linprobe_train.estimator import LinearProbe
from linprobe_train.estimator_cv import LinearProbeCV

EXACT = {"tol": 1e-9, "max_iter": 10_000, "l1_ratios": (0.0,), "use_legacy_attributes": False}


def test_linprobe_exports_it() -> None:
    assert linprobe.LinearProbeCV is LinearProbeCV


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "balanced_accuracy"])
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_those_of_logistic_regression_cv(k: int, scoring: str, weighted: bool) -> None:
    X, y = features(150, 6, k, noise=2.0)
    names, weights = np.array(list("abcd"))[y], np.arange(150) % 3 + 0.5 if weighted else None
    settings: dict[str, Any] = {
        "Cs": [0.01, 0.3, 10.0],
        "cv": 4,
        "scoring": scoring,
        "class_weight": "balanced",
    }
    ours = LinearProbeCV(**settings, gap=1e-10).fit(X.astype(np.float64), names, weights)
    theirs = LogisticRegressionCV(**settings, **EXACT)
    theirs.fit(X.astype(np.float64), names, sample_weight=weights)

    assert np.allclose(ours.scores_, theirs.scores_[:, 0], atol=1e-4)
    assert np.array_equal(ours.Cs_, theirs.Cs_)
    assert ours.C_ == theirs.C_
    assert np.allclose(ours.coef_, theirs.coef_, atol=1e-3)
    assert ours.n_iter_.shape == (4, 3)
    assert ours.score(X, names) == pytest.approx(theirs.score(X, names), abs=1e-4)


def test_the_grid_and_the_folds_are_scikit_learns_by_default() -> None:
    X, y = features(120, 6, 3)
    model = LinearProbeCV().fit(X, y)

    assert np.allclose(model.Cs_, np.logspace(-4, 4, 10))
    assert model.scores_.shape == (5, 10)
    assert isinstance(model.C_, float)
    assert model.coef_.dtype == np.float32
    assert (model.n_features_in_, model.report_.C) == (6, model.C_)
    refitted = LinearProbe(C=model.C_).fit(X, y)
    assert np.allclose(model.coef_, refitted.coef_, atol=2e-3)


def test_ties_go_to_the_least_held_out_log_loss() -> None:
    X, y = features(90, 6, 3, noise=0.01)
    folds = list(StratifiedKFold(3).split(X, y))
    model = LinearProbeCV([1e-2, 1e3, 1.0], cv=folds).fit(X, y)
    losses = [
        np.mean(
            [log_loss(y[b], LinearProbe(C).fit(X[a], y[a]).predict_proba(X[b])) for a, b in folds]
        )
        for C in model.Cs_
    ]

    assert (model.scores_ == 1).all()
    assert model.C_ == model.Cs_[np.argmin(losses)] == 1e3


def test_without_a_refit_the_folds_are_averaged() -> None:
    X, y = features(90, 6, 3, noise=2.0)
    folds = list(KFold(2).split(X))
    model = LinearProbeCV([0.1, 10.0], cv=folds, refit=False, scoring="neg_log_loss", gap=1e-9)
    model.fit(X.astype(np.float64), y)
    best = model.Cs_[model.scores_.argmax(axis=1)]
    each = [
        LinearProbe(C, gap=1e-9).fit(X[a].astype(np.float64), y[a]).coef_
        for C, (a, _) in zip(best, folds, strict=True)
    ]

    assert best.mean() == model.C_
    assert np.allclose(model.coef_, np.mean(each, axis=0), atol=1e-3)


def test_a_class_that_a_fold_lacks_has_probability_0_there() -> None:
    y = np.repeat(["a", "b", "c"], 4)
    X = np.repeat(np.eye(3), 4, axis=0) + np.linspace(0, 0.1, 36).reshape(12, 3)
    model = LinearProbeCV([0.1, 1.0], cv=KFold(3), scoring="accuracy").fit(X, y)

    assert (model.scores_ == 0).all()
    assert np.array_equal(model.classes_, ["a", "b", "c"])
    assert model.coef_.shape == (3, 3)
    assert np.isfinite(
        LinearProbeCV(3, cv=KFold(3), scoring="neg_log_loss").fit(X, y).scores_
    ).all()


def test_folds_that_end_early_are_told_once() -> None:
    X, y = features(90, 6, 3)
    with pytest.warns(ConvergenceWarning, match="LinearProbeCV did not converge") as told:
        LinearProbeCV([1.0, 10.0], cv=2, max_iter=1).fit(X, y)
    assert len(told) == 1


@pytest.mark.parametrize(
    "wrong", [{"Cs": 0}, {"scoring": "good"}, {"cv": "five"}, {"n_jobs": 0}, {"refit": "no"}]
)
def test_parameters_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"The '{name}' parameter of LinearProbeCV must be"):
        LinearProbeCV(**wrong).fit(*features(20, 3, 2))


@pytest.mark.parametrize("Cs", [[], [-1.0], [1.0, np.inf], [[1.0]]])
def test_values_of_C_that_are_none_are_refused(Cs: list[float]) -> None:
    with pytest.raises(ValueError, match="Cs"):
        LinearProbeCV(Cs).fit(*features(20, 3, 2))
