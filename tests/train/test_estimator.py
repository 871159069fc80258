"""The solver as a scikit-learn estimator."""

import pickle
import warnings
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator
from train_factories import features

from linprobe_train.estimator import ClassWeight, LinearProbe
from linprobe_train.estimator_cv import LinearProbeCV

# The one check that is skipped needs an environment variable set before scipy is imported.
_SKIPPED = pytest.mark.filterwarnings(
    "ignore:Skipping check check_array_api_input", "ignore::sklearn.exceptions.SkipTestWarning"
)


@_SKIPPED
def test_scikit_learn_accepts_the_estimator() -> None:
    check_estimator(LinearProbe())


@_SKIPPED
def test_scikit_learn_accepts_the_estimator_that_chooses_C() -> None:
    check_estimator(LinearProbeCV(Cs=3, n_jobs=1))


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("class_weight", [None, "balanced", {"ant": 1.0, "bee": 3.0}])
def test_the_estimator_is_logistic_regression(
    k: int, dtype: type[np.floating], class_weight: ClassWeight
) -> None:
    X, y = features(200, 8, k)
    names, weights = np.array(["ant", "bee", "cat", "dog"])[y], np.arange(200) % 3
    ours = LinearProbe(C=3.0, class_weight=class_weight, gap=1e-9).fit(
        X.astype(dtype), names, weights
    )
    theirs = LogisticRegression(C=3.0, class_weight=class_weight, tol=1e-9, max_iter=10_000)
    theirs.fit(X.astype(np.float64), names, weights)
    rows, exact = X.astype(dtype), X.astype(np.float64)

    assert ours.coef_.shape == theirs.coef_.shape
    assert ours.coef_.dtype == ours.intercept_.dtype == dtype
    assert ours.decision_function(rows).shape == theirs.decision_function(exact).shape
    for method in ("decision_function", "predict_proba", "predict_log_proba"):
        given, expected = getattr(ours, method)(rows), getattr(theirs, method)(exact)
        assert given.dtype == dtype
        assert np.allclose(given, expected, atol=2e-3)
    assert ours.score(rows, names, weights) == pytest.approx(
        theirs.score(exact, names, weights), abs=0.01
    )
    assert (ours.n_features_in_, ours.n_iter_.shape) == (8, (1,))
    assert np.array_equal(ours.classes_, theirs.classes_)


def test_a_fit_that_ends_early_is_told() -> None:
    X, y = features(200, 8, 4)
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 iterations"):
        model = LinearProbe(max_iter=2).fit(X, y)
    assert model.n_iter_ == [2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LinearProbe().fit(X, y)


@pytest.mark.parametrize(
    "wrong",
    [
        {"C": 0.0},
        {"C": float("inf")},
        {"C": float("nan")},
        {"gap": -1e-6},
        {"gap": float("nan")},
        {"max_iter": -1},
        {"n_jobs": 0},
        {"n_jobs": 1.5},
        {"class_weight": "even"},
        {"warm_start": "yes"},
    ],
)
def test_parameters_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"The '{name}' parameter of LinearProbe must be"):
        LinearProbe(**wrong).fit(*features(20, 3, 2))


def test_no_number_of_threads_changes_a_bit() -> None:
    X, y = features(3000, 8, 4)
    first, *others = (LinearProbe(n_jobs=n).fit(X, y).coef_ for n in (1, None, -1, 3))

    assert all(np.array_equal(first, other) for other in others)


def test_a_warm_start_goes_on_from_the_fit_before() -> None:
    X, y = features(300, 8, 4)
    model = LinearProbe(C=1000.0, gap=1e-9, warm_start=True).fit(X, y)
    coef, cold = model.coef_, model.report_
    model.fit(X, y)

    assert model.report_.passes < cold.passes / 4
    assert np.allclose(model.coef_, coef, rtol=1e-3, atol=1e-3)
    assert model.set_params(C=2000.0).fit(X, y).report_.passes < cold.passes
    cold_again = clone(model).set_params(warm_start=False, C=1000.0).fit(X, y)
    assert cold_again.report_.passes == cold.passes


def test_a_warm_start_on_other_classes_or_features_is_refused() -> None:
    X, y = features(60, 5, 3)
    model = LinearProbe(warm_start=True).fit(X, y)
    with pytest.raises(
        ValueError, match=r"warm_start: .*\(3, 5\) do not fit rows of 3 classes and 4"
    ):
        model.fit(X[:, :4], y)


@pytest.mark.parametrize("method", ["fit", "predict"])
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_a_value_that_is_no_number_is_refused_with_its_row(
    method: str, value: float, name: str
) -> None:
    X, y = features(40, 5, 3)
    model = LinearProbe().fit(X, y)
    X[17, 2] = value
    with pytest.raises(ValueError, match=rf"^Input X contains {name}.*row 17") as refused:
        model.fit(X, y) if method == "fit" else model.predict(X)
    assert refused.type is ValueError


@pytest.mark.parametrize("model", [LinearProbe(), LinearProbeCV()])
def test_sparse_rows_are_refused_in_scikit_learns_words(model: LinearProbe) -> None:
    X, y = features(40, 5, 3)
    assert not model.__sklearn_tags__().input_tags.sparse
    with pytest.raises(TypeError, match="dense data is required"):
        model.fit(cast("ArrayLike", csr_array(X)), y)


def test_weights_written_from_outside_are_those_that_predict() -> None:
    X, y = features(40, 5, 3)
    model = LinearProbe(normalize=True).fit(X, y)
    model.coef_[:], model.intercept_[:] = 0, [0, 0, 1]

    assert (model.predict(X) == 2).all()
    assert np.allclose(model.predict_proba(X), np.exp([0, 0, 1]) / np.exp([0, 0, 1]).sum())


def test_log_probabilities_do_not_underflow() -> None:
    X = np.array([[-1.0], [1.0], [-1.0], [1.0]])
    model = LinearProbe(C=1e6).fit(X, [0, 1, 0, 1])

    assert np.isfinite(model.predict_log_proba([[1e4], [-1e4]])).all()
    assert model.predict_log_proba([[1e4]])[0, 0] < -1e4


def test_it_is_cloned_searched_and_pickled_as_others_are() -> None:
    X, y = features(120, 5, 3)
    search = GridSearchCV(LinearProbe(n_jobs=1), {"C": [0.1, 10.0]}, cv=3).fit(X, y)
    again = pickle.loads(pickle.dumps(search.best_estimator_))

    assert np.array_equal(again.predict_proba(X), search.predict_proba(X))
    with pytest.raises(NotFittedError):
        clone(again).predict(X)
