"""Probes as Python programs fit them, on any labels."""

from pathlib import Path
from typing import Literal, cast

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from train_factories import SplitData, features, stored_dataset

from linprobe import FeatureStore, fit_probe, load_probe, sweep
from linprobe.errors import DataError, ResultError
from linprobe.records import plain
from linprobe_store.format.layout import ENCODER_FILE
from linprobe_train.results.probe_file import ARRAYS_FILE, CARD_FILE
from linprobe_train.results.signed import sign
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


@pytest.mark.parametrize(
    "labels",
    [10 * IDS - 7, IDS == 1, (IDS + 250).astype(np.uint64), IDS.astype(object), IDS.astype(str)],
    ids=["integers", "booleans", "unsigned", "objects", "digits"],
)
def test_labels_are_predicted_in_their_own_kind_after_loading_too(
    labels: np.ndarray, tmp_path: Path
) -> None:
    fitted = fit_probe(X, labels)
    loaded = load_probe(fitted.save(tmp_path / "probe"))
    again = load_probe(loaded.save(tmp_path / "again"))
    for probe in (loaded, again):
        assert probe.predict(X).tolist() == fitted.predict(X).tolist()
        assert (probe.predict(X) == labels).mean() == probe.score(X, labels) > 0.5
        assert probe.to_sklearn().predict(X).tolist() == fitted.predict(X).tolist()
    assert loaded.card == fitted.card


def test_a_multi_hot_probe_predicts_numbers_of_columns_after_loading_too(tmp_path: Path) -> None:
    fitted = fit_probe(X, (IDS[:, None] == np.arange(3)).astype(np.uint8))
    loaded = load_probe(fitted.save(tmp_path))
    assert loaded.predict(X).tolist() == fitted.predict(X).tolist()


def test_a_card_of_texts_does_not_name_their_kind(tmp_path: Path) -> None:
    fit_probe(X, NAMES).save(tmp_path)
    assert "label_kind" not in (tmp_path / CARD_FILE).read_text()


@pytest.mark.parametrize(
    ("kind", "classes"),
    [("int", ("0", "cat")), ("int", ("0", "01")), ("int", ("0", "9" * 30)), ("bool", ("0", "1"))],
)
def test_a_card_whose_classes_are_not_of_their_kind_is_refused(
    kind: Literal["int", "bool"], classes: tuple[str, ...], tmp_path: Path
) -> None:
    fitted = fit_probe(X, IDS == 1)
    fitted.save(tmp_path)
    files = {ARRAYS_FILE: (tmp_path / ARRAYS_FILE).read_bytes()}
    fields = {**cast("dict[str, object]", plain(fitted.card)), "classes": classes}
    (tmp_path / CARD_FILE).write_bytes(sign({**fields, "label_kind": kind}, files))
    with pytest.raises(ResultError, match=f"classes that are no labels of the kind {kind}"):
        load_probe(tmp_path)


MIXED = [1, "a"] * 100


@pytest.mark.parametrize(
    "labels",
    [MIXED, tuple(MIXED), np.array(MIXED, dtype=object), [True, 2] * 100, [np.True_, "a"] * 100],
    ids=["list", "tuple", "objects", "booleans", "numpy"],
)
def test_labels_of_several_kinds_are_refused(labels: object) -> None:
    with pytest.raises(DataError, match="labels of several kinds: "):
        fit_probe(X, labels)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="labels of several kinds: "):
        fit_probe(X, NAMES).score(X, labels)  # type: ignore[arg-type]


def test_train_and_val_are_not_numbers_and_booleans() -> None:
    with pytest.raises(DataError, match="of another kind than those of val"):
        sweep(X, IDS == 1, val=X, val_labels=IDS)


@pytest.mark.parametrize(
    ("fitted_on", "scored_by"),
    [
        (IDS == 1, (IDS == 1).astype(int)),
        ((IDS == 1).astype(int), IDS == 1),
        (IDS, IDS.astype(str)),
        (IDS.astype(str), IDS),
        (IDS == 1, (IDS == 1).astype(str)),
    ],
    ids=["numbers", "booleans", "digits", "texts", "truths"],
)
def test_a_score_takes_labels_of_another_kind_that_mean_classes(
    fitted_on: np.ndarray, scored_by: np.ndarray
) -> None:
    probe = fit_probe(X, fitted_on)
    assert probe.score(X, scored_by) == probe.score(X, fitted_on) > 0.5


@pytest.mark.parametrize(
    ("fitted_on", "scored_by", "problem"),
    [
        (NAMES, IDS, "the label 0 .int. is no class of a probe of text labels"),
        (IDS == 1, IDS, "the label 2 .int. is no class of a probe of bool labels"),
        (IDS, NAMES, "the label cat .text. is no class of a probe of int labels"),
        (IDS, IDS.astype(float), "type float64; expected classes"),
        (IDS, np.int64(3), "200 rows of features and labels of shape"),
    ],
    ids=["names", "booleans", "numbers", "floats", "scalar"],
)
def test_a_score_refuses_labels_of_another_kind(
    fitted_on: np.ndarray, scored_by: np.ndarray, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        fit_probe(X, fitted_on).score(X, scored_by)


def test_a_class_of_the_same_kind_that_the_probe_lacks_is_wrong_and_no_error() -> None:
    probe = fit_probe(X, IDS)
    assert probe.score(X, np.where(IDS == 0, 7, IDS)) < probe.score(X, IDS)
