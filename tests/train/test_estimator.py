"""The solver as a scikit-learn estimator."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator
from train_factories import features

from linprobe_train.estimator import LinearProbe


# The one check that is skipped needs an environment variable set before scipy is imported.
@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_accepts_the_estimator() -> None:
    # One check compares two fits to seven digits of their probabilities.
    check_estimator(LinearProbe(gap=1e-18))


@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_at_its_default_gap_the_estimator_fails_only_what_logistic_regression_fails() -> None:
    expected = {
        "check_sample_weight_equivalence_on_dense_data": "equal to the gap, not to seven digits"
    }
    done = check_estimator(LinearProbe(), expected_failed_checks=expected, on_fail=None)

    assert {check["status"] for check in done} <= {"passed", "skipped", "xfail"}


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_estimator_is_logistic_regression(k: int, dtype: type[np.floating]) -> None:
    X, y = features(200, 8, k)
    names = np.array(["ant", "bee", "cat", "dog"])[y]
    ours = LinearProbe(C=3.0, class_weight="balanced", gap=1e-9).fit(X.astype(dtype), names)
    theirs = LogisticRegression(C=3.0, class_weight="balanced", tol=1e-9, max_iter=10_000)
    theirs.fit(X.astype(np.float64), names)

    assert ours.coef_.shape == theirs.coef_.shape
    assert np.allclose(ours.coef_, theirs.coef_, atol=1e-3)
    assert np.allclose(
        ours.predict_proba(X.astype(dtype)), theirs.predict_proba(X.astype(np.float64)), atol=1e-3
    )
    assert ours.score(X, names) == pytest.approx(
        theirs.score(X.astype(np.float64), names), abs=0.01
    )
