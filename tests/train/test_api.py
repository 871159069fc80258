"""The solver and the search on plain arrays and stored splits."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from result_factories import signed_again
from sklearn.linear_model import LogisticRegression
from train_factories import SplitData, features, stored_dataset

from linprobe.errors import DataError, OptionError, ResultError
from linprobe_train.api import fit_probe, sweep
from linprobe_train.protocol.protocols import best_C
from linprobe_train.protocol.scoring import SweepPoint
from linprobe_train.protocol.search import Sweep
from linprobe_train.results.probe_file import ProbeCard, save_probe
from linprobe_train.results.saved_probe import load_probe
from linprobe_train.solver.fit import FitSettings
from linprobe_train.solver.lbfgs import FitReport, StopReason, Tolerance
from linprobe_train.solver.rows import rows_of_array

PLAIN = FitSettings(normalize=False)


def test_standardising_is_scikit_learns_scaler_folded_into_the_weights() -> None:
    X, y = features(200, 8, 3)
    X *= np.arange(1, 9, dtype=np.float32) ** 2
    scaled = (X - X.mean(0)) / X.std(0)
    probe, _ = fit_probe(X, y, C=1.0, settings=FitSettings(normalize=False, standardize=True))
    theirs = LogisticRegression(C=1.0, tol=1e-9, max_iter=10_000).fit(scaled, y)

    assert np.allclose(
        probe.probabilities(rows_of_array(X, y, 3)), theirs.predict_proba(scaled), atol=2e-3
    )


def test_balanced_weights_are_scikit_learns() -> None:
    X, y = features(300, 8, 3)
    keep = (y != 0) | (np.arange(300) % 5 == 0)
    probe, _ = fit_probe(X[keep], y[keep], C=1.0, settings=FitSettings(False, balanced=True))
    theirs = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-9, max_iter=10_000)
    theirs.fit(X[keep].astype(np.float64), y[keep])

    assert np.allclose(probe.coef, theirs.coef_, atol=3e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scaling_rows_changes_nothing_where_rows_are_normalised(dtype: type[np.floating]) -> None:
    X, y = features(120, 8, 3)
    lengths = np.random.default_rng(0).choice([0.5, 1, 2, 4], (120, 1))
    plain, _ = fit_probe(X.astype(dtype), y, C=1.0)
    scaled, _ = fit_probe((X.astype(dtype) * lengths).astype(dtype), y, C=1.0)

    assert np.allclose(plain.coef, scaled.coef, atol=2e-3)


def test_the_oracle_solver_gives_the_same_probe_and_an_honest_report() -> None:
    X, y = features(200, 8, 4)
    ours, report = fit_probe(X, y, C=10.0, settings=PLAIN)
    theirs, oracle = fit_probe(X, y, C=10.0, settings=FitSettings(False, solver="sklearn"))

    assert np.allclose(ours.coef, theirs.coef, atol=5e-3)
    assert report.objective == pytest.approx(oracle.objective, rel=2e-6)
    assert oracle.estimate is None
    assert oracle.converged


def test_sweep_uses_val_and_fits_everything() -> None:
    X, y = features(300, 8, 3, noise=2)
    chosen = sweep(X[:200], y[:200], val=X[200:], val_labels=y[200:])

    assert chosen.sweep is not None
    assert (chosen.held_out.source, chosen.held_out.n) == ("val", 100)
    assert (chosen.fitted_on.source, chosen.fitted_on.n) == ("train+val", 300)
    assert all(len(point.fits) == 1 for point in chosen.sweep.points)
    expected, _ = fit_probe(X, y, C=chosen.sweep.C)
    assert np.allclose(chosen.probe.coef, expected.coef, atol=0.01 * np.abs(expected.coef).max())


def test_cross_validation_scores_every_row_once() -> None:
    X, y = features(90, 8, 3, noise=2)
    chosen = sweep(X, y, folds=3)

    assert chosen.held_out.n == 90
    assert chosen.sweep is not None
    assert all(len(point.fits) == 3 for point in chosen.sweep.points)


def curve(*scores: float, converged: bool = True) -> Sweep:
    """A finished sweep over C = 1, 10, 100, ..."""
    stop: StopReason = "bound" if converged else "max_iter"
    points = tuple(
        SweepPoint(10.0**i, score, (FitReport(10.0**i, 1.0, 0.9, 1e-5, 1e-8, stop, 5, 6),))
        for i, score in enumerate(scores)
    )
    return Sweep("top1", points, best_C({point.C: point.score for point in points}))


def test_a_sweep_tells_of_edges_plateaus_and_unfinished_fits_and_of_nothing_else() -> None:
    assert curve(0.1, 0.9, 0.3).warnings() == ()
    (edge,) = curve(0.1, 0.2, 0.3).warnings()
    assert "100, is at the edge of the grid" in edge
    (plateau,) = curve(0.1, 0.9, 0.9, 0.2).warnings()
    assert "same at 2 values of C from 10 to 100; the smallest was taken" in plateau
    (unfinished,) = curve(0.1, 0.9, 0.3, converged=False).warnings()
    assert "did not converge at C = 1, 10, 100" in unfinished


def test_stored_splits_and_arrays_give_the_same_probe(tmp_path: Path) -> None:
    X, y = features(150, 8, 3)
    encoder = stored_dataset(tmp_path, {"train": SplitData(X, y)}, classes=("a", "b", "c"))
    stored, _ = fit_probe(encoder.dataset().split("train"), C=2.0)
    plain, _ = fit_probe(X.astype(np.float16), y, C=2.0)

    assert np.array_equal(stored.coef, plain.coef)


def test_splits_of_two_encoders_are_refused(tmp_path: Path) -> None:
    X, y = features(60, 8, 3)
    splits = {"train": SplitData(X, y), "val": SplitData(X, y)}
    first = stored_dataset(tmp_path, splits, classes=("a", "b", "c"), model="A")
    second = stored_dataset(tmp_path, splits, classes=("a", "b", "c"), model="B")
    with pytest.raises(DataError, match="of encoder"):
        sweep(first.dataset().split("train"), val=second.dataset().split("val"))


def test_features_of_another_dimension_are_refused_by_a_probe() -> None:
    X, y = features(60, 8, 3)
    probe, _ = fit_probe(X, y)
    with pytest.raises(DataError, match="7 features; the probe was trained on 8"):
        probe.logits(rows_of_array(X[:, :7], y, 3))


def test_multi_label_columns_without_both_answers_are_left_out() -> None:
    X, y = features(80, 8, 3)
    labels = np.zeros((80, 4), np.uint8)
    labels[np.arange(80), y] = 1
    probe, _ = fit_probe(X, labels, C=1.0)
    p = probe.probabilities(rows_of_array(X, labels, 4))

    assert probe.fitted.tolist() == [0, 1, 2]
    assert p.shape == (80, 4)
    assert (p[:, 3] == 0).all()


def test_a_probe_survives_its_files(tmp_path: Path) -> None:
    X, y = features(60, 8, 3)
    probe = replace(fit_probe(X, y)[0], temperature=1.7)
    card = ProbeCard("", "", "", "embedding", True, probe.loss, False, ("a", "b", "ç"), 1.0, 1.7)
    save_probe(tmp_path, probe, card)
    saved = load_probe(tmp_path)
    again = saved.probe

    assert saved.card == card
    rows = rows_of_array(X, y, 3)
    assert np.array_equal(again.probabilities(rows), probe.probabilities(rows))


@pytest.mark.parametrize("harm", ["missing", "cut", "other", "nan"])
def test_a_damaged_probe_is_refused(tmp_path: Path, harm: str) -> None:
    X, y = features(60, 8, 3)
    probe, _ = fit_probe(X, y)
    if harm == "nan":
        probe.coef[0, 0] = np.nan
    card = ProbeCard("", "", "", "embedding", True, probe.loss, False, ("a", "b", "c"), 1.0, 1.0)
    save_probe(tmp_path, probe, card)
    arrays, text = tmp_path / "probe.safetensors", tmp_path / "probe.json"
    if harm == "missing":
        arrays.unlink()
    elif harm == "cut":
        arrays.write_bytes(arrays.read_bytes()[:-8])
    elif harm == "other":
        text.write_bytes(signed_again(json.loads(text.read_text()) | {"loss": "hinge"}))
    with pytest.raises(ResultError, match="does not hold a probe"):
        load_probe(tmp_path)


def bad(**change: object) -> dict[str, object]:
    """Arguments of fit_probe with one thing wrong."""
    X, y = features(40, 6, 3)
    return {"features": X, "labels": y, **change}


def with_nan(value: float) -> np.ndarray:
    X, _ = features(40, 6, 3)
    X[17, 3] = value
    return X


@pytest.mark.parametrize(
    ("arguments", "refusal", "words"),
    [
        (bad(C=0.0), OptionError, "C = 0"),
        (bad(C=-2.0), OptionError, "C = -2"),
        (bad(labels=None), DataError, "needs labels"),
        (bad(labels=np.arange(39) % 3), DataError, "40 rows of features and 39 labels"),
        (bad(labels=np.full(40, -1)), DataError, "label -1"),
        (bad(labels=np.zeros(40, int)), DataError, "at least two classes"),
        (bad(labels=np.full((40, 3), 2)), DataError, "of 0 and 1"),
        (bad(labels=np.array(["a"] * 40)), DataError, "class ids"),
        (bad(features=with_nan(np.nan)), DataError, "row 17 .* NaN"),
        (bad(features=with_nan(np.inf)), DataError, "row 17 .* infinite"),
        (bad(features=np.ones((40, 6), np.float32)), DataError, "all 40 rows .* equal"),
        (bad(features=np.zeros((40, 6), np.float32)), DataError, "row 0 .* all zeros"),
        (bad(features=np.zeros(40)), DataError, r"expected numbers \(n, d\)"),
        (bad(features=np.zeros((0, 6)), labels=np.zeros(0, int)), DataError, "no rows"),
        (bad(sample_weight=np.ones(3)), DataError, r"expected \(40,\)"),
        (bad(sample_weight=-np.ones(40)), DataError, ">= 0"),
        (bad(settings=FitSettings(memory_bytes=1000)), OptionError, "allowed are 1 kB"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    arguments: dict[str, object], refusal: type[Exception], words: str
) -> None:
    with pytest.raises(refusal, match=words):
        fit_probe(**arguments)  # type: ignore[arg-type] # wrong types are the point


def test_a_fit_that_does_not_converge_says_so() -> None:
    X, y = features(200, 8, 4)
    _, report = fit_probe(X, y, C=1e4, settings=PLAIN, tolerance=Tolerance(max_iter=3))

    assert not report.converged
