"""Probes as Python programs fit them, on any labels."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from train_factories import SplitData, features, stored_dataset

from linprobe import FeatureStore, fit_probe, load_probe, sweep
from linprobe.errors import DataError
from linprobe_store.format.layout import ENCODER_FILE
from linprobe_train.solver.fit import FitSettings

X, IDS = features(200, 8, 3)
NAMES = np.array(["cat", "dog", "eel"])[IDS]


@pytest.mark.parametrize(
    "labels",
    [NAMES, NAMES.tolist(), NAMES.astype(object), 10 * IDS - 7, IDS == 1],
    ids=["texts", "list", "objects", "integers", "booleans"],
)
def test_labels_of_any_kind_are_predicted_as_they_were_given(labels: np.ndarray) -> None:
    probe = fit_probe(X, labels, settings=FitSettings(normalize=False))
    theirs = LogisticRegression(tol=1e-8, max_iter=1000).fit(X, np.asarray(labels).tolist())

    np.testing.assert_array_equal(probe.predict(X), theirs.predict(X))
    np.testing.assert_allclose(probe.predict_proba(X), theirs.predict_proba(X), atol=1e-3)
    assert probe.score(X, labels) == pytest.approx(theirs.score(X, np.asarray(labels).tolist()))
    assert probe.fit.converged


def test_a_sweep_takes_names_and_val_may_have_classes_that_train_lacks() -> None:
    few = NAMES[:120] != "eel"
    probe = sweep(X[:120][few], NAMES[:120][few], val=X[120:], val_labels=NAMES[120:])
    assert probe.classes == ("cat", "dog", "eel")
    assert probe.search is not None
    assert probe.search.fitted_on.n == few.sum() + 80
    assert probe.fit is probe.search.fit


def test_a_multi_hot_matrix_is_scored_by_average_precision() -> None:
    hot = (IDS[:, None] == np.arange(3)).astype(np.uint8)
    probe = fit_probe(X, hot)
    assert probe.predict_proba(X).shape == (200, 3)
    assert 0.5 < probe.score(X, hot) <= 1


def test_what_is_saved_is_what_was_fitted(tmp_path: Path) -> None:
    probe = sweep(X, NAMES)
    loaded = load_probe(probe.save(tmp_path / "deep" / "probe"))
    np.testing.assert_array_equal(loaded.predict(X), probe.predict(X))
    np.testing.assert_array_equal(loaded.predict_proba(X), probe.predict_proba(X))
    assert loaded.score(X, NAMES) == probe.score(X, NAMES)
    again = load_probe(loaded.save(tmp_path / "again"))
    np.testing.assert_array_equal(again.predict(X), loaded.predict(X))


def test_a_probe_of_a_split_is_saved_with_its_encoder_and_scores_splits(tmp_path: Path) -> None:
    data = {"train": SplitData(X[:150], IDS[:150]), "test": SplitData(X[150:], IDS[150:])}
    stored_dataset(tmp_path / "features", data, classes=("cat", "dog", "eel"))
    store = FeatureStore(tmp_path / "features")
    probe = fit_probe(store.split("train"))
    folder = probe.save(tmp_path / "probe")

    assert (folder / ENCODER_FILE).is_file()
    test = store.split("test")
    assert load_probe(folder).score(test) == probe.score(test.array("embedding"), NAMES[150:])


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (IDS + 0.5, "type float64; expected classes"),
        ([None] * 200, "type object; expected classes"),
        (NAMES[:, None], "labels of shape \\(200, 1\\) and type <U3"),
        (NAMES[:9], "200 rows of features and 9 labels"),
        (None, "needs labels"),
    ],
)
def test_labels_of_no_use_are_refused(labels: object, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        fit_probe(X, labels)  # type: ignore[arg-type]


def test_train_and_val_must_have_labels_of_one_kind() -> None:
    with pytest.raises(DataError, match="of another kind than those of val"):
        sweep(X, NAMES, val=X, val_labels=IDS)


def test_a_score_needs_one_label_for_every_row() -> None:
    probe = fit_probe(X, NAMES)
    with pytest.raises(DataError, match="200 rows of features and labels of shape"):
        probe.score(X, NAMES[:5])
