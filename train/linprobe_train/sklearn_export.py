"""Probes as plain scikit-learn estimators; the adapter of scikit-learn's classifiers."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import LabelBinarizer, Normalizer

from linprobe_train.preparation import Float64
from linprobe_train.probe import Probe


class SklearnClassifier(Protocol):
    """What is used of a fitted scikit-learn classifier, which brings no types."""

    @property
    def classes_(self) -> NDArray[np.generic]:
        """Labels in the order of the columns."""

    def predict(self, X: ArrayLike) -> NDArray[np.generic]:
        """Labels of rows (n, d)."""

    def predict_proba(self, X: ArrayLike) -> Float64:
        """Probabilities (n, k)."""


def sklearn_classifier(probe: Probe, classes: tuple[str, ...]) -> SklearnClassifier:
    """Copy a probe into a fitted ``Pipeline``.

    Parameters
    ----------
    classes : names by class id; labels are the names of the classes fitted on. A multi-label probe
        gives scikit-learn's indicator matrix, with a column for each fitted class.
    """
    names = np.array([classes[i] for i in probe.fitted])
    last = _one_vs_rest(probe) if probe.multi_label else _logistic(probe.coef, probe, names)
    steps: list[tuple[str, Any]] = [("probe", last)]
    if probe.normalize:
        # scikit-learn checks that a pipeline was fitted by its last step alone.
        steps.insert(0, ("unit", Normalizer()))
    pipeline: SklearnClassifier = Pipeline(steps)
    return pipeline


def _logistic(coef: Float64, probe: Probe, labels: NDArray[np.generic]) -> LogisticRegression:
    model = LogisticRegression()
    model.coef_, model.intercept_ = coef.copy(), probe.intercept.copy()
    model.classes_, model.n_features_in_ = labels, coef.shape[1]
    model.n_iter_ = np.zeros(1, np.int32)
    return model


def _one_vs_rest(probe: Probe) -> OneVsRestClassifier:
    model = OneVsRestClassifier(LogisticRegression())
    model.estimators_ = []
    for row, intercept in zip(probe.coef, probe.intercept, strict=True):
        one = _logistic(row[None], probe, np.array([0, 1]))
        one.intercept_ = np.array([intercept])
        model.estimators_.append(one)
    model.label_binarizer_ = LabelBinarizer(sparse_output=True)
    model.label_binarizer_.fit(np.eye(len(probe.fitted), dtype=np.int64))
    model.n_features_in_ = probe.coef.shape[1]
    return model
