"""Rows as people have them, that nobody scaled, and C at which F hardly knows of W."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from train_factories import features, make_rows, plain_problem

from linprobe_train.estimator import LinearProbe
from linprobe_train.solver.fit import FitSettings, fit_rows
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.losses import logits_of_shares, loss_of_shares
from linprobe_train.solver.passes import Crew, evaluate
from linprobe_train.solver.path import PathSolver
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import Rows, rows_of_array

Float64 = NDArray[np.float64]
Labels = NDArray[np.int64]


def unscaled(kind: str) -> tuple[Float64, Labels]:
    if kind == "pixels":
        X, y = load_digits(n_class=5, return_X_y=True)
        return X[:300], y[:300]
    n, d, k = {"two classes": (300, 30, 2), "few rows": (40, 80, 3)}.get(kind, (300, 30, 4))
    X, y = features(n, d, k, noise=3.0)
    if kind == "offsets":
        return X.astype(np.float64) + 1e4, y
    axes = np.linalg.qr(np.random.default_rng(3).standard_normal((d, d)))[0]
    return X * 10.0 ** np.linspace(-4, 4, d) @ axes, y


def objective(X: Float64, y: Labels, model: LinearProbe | LogisticRegression, C: float) -> float:
    """Mean loss and ridge; of both estimators in float64."""
    losses = -model.predict_log_proba(X)[np.arange(len(y)), y]
    return float(losses.mean() + (model.coef_**2).sum() / (2 * C * len(y)))


@pytest.mark.parametrize("kind", ["pixels", "condition 1e8", "two classes", "few rows", "offsets"])
def test_unscaled_rows_end_soon_at_the_optimum(kind: str) -> None:
    """scikit-learn's Newton method finds it on centred rows, which changes the intercept alone."""
    (X, y), C = unscaled(kind), 1e-3
    ours = LinearProbe(C, n_jobs=1).fit(X, y)
    centred = X - X.mean(axis=0)
    newton = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-6).fit(centred, y)

    assert ours.report_.converged
    assert ours.report_.iterations <= 100
    assert objective(X, y, ours, C) == pytest.approx(objective(centred, y, newton, C), rel=1e-6)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
def test_fewer_rows_than_features_are_fitted_in_the_axes_of_their_span(
    k: int, arithmetic: str, crew: Crew
) -> None:
    rows = make_rows(60, 200, k)
    weights = np.ones(60)
    weights[::7] = 0
    problem = plain_problem(rows, weights=weights)
    path = PathSolver(problem, crew)
    report = path.fit(10.0, Tolerance())
    if arithmetic == "float64":
        report = path.refine(10.0, Tolerance(gap=1e-9), lambda *_: False)
    X = rows.blocks[0].read()
    model = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000)
    model.fit(X.astype(np.float64), rows.labels, sample_weight=weights)
    coef, intercept = path.solution(10.0)
    least = evaluate(problem, problem.into(model.coef_, model.intercept_), crew, "float64").loss
    least += float((model.coef_**2).sum()) / (20 * problem.total_weight)

    assert problem.dim == 60
    assert report.converged
    assert coef.shape == model.coef_.shape
    assert report.objective == pytest.approx(least, rel=1e-6)
    assert np.abs(X @ coef.T + intercept - model.decision_function(X).reshape(60, -1)).max() < 0.02


def uneven_rows() -> Rows:
    X, y = features(4000, 24, 12, noise=2.0)
    keep = np.random.default_rng(0).random(4000) < (1 + y) / 12
    return rows_of_array(X[keep], y[keep], 12)


@pytest.mark.parametrize("C", [1e-8, 1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("rows", [make_rows(1501, 24, 12, noise=2.0), uneven_rows()])
def test_at_tiny_C_the_classes_are_those_of_float64_fits(rows: Rows, C: float) -> None:
    """A small gap of F, which is the loss at W = 0, would say nothing of W, nor of b beside it."""
    probe, report = fit_rows(rows, C, FitSettings(), Tolerance())
    double = FitSettings(arithmetic="float64")
    exact, _ = fit_rows(rows, C, double, Tolerance(gap=0, decrement=0, max_iter=60))
    seen = rows_of_array(
        features(1000, 24, 12, seed=1, noise=2.0)[0].astype(float), rows.labels[:1000], 12
    )
    logits = centred_logits(exact, seen)
    first, second = np.sort(logits, axis=1)[:, :-3:-1].T
    apart = first - second > 1e-3 * np.abs(logits).max()

    assert report.converged
    assert (probe.logits(seen).argmax(axis=1) == logits.argmax(axis=1))[apart].all()
    assert np.linalg.norm(probe.coef - exact.coef) < 1e-3 * np.linalg.norm(exact.coef)


def centred_logits(probe: Probe, rows: Rows) -> Float64:
    logits = probe.logits(rows)
    centred: Float64 = logits - logits.mean(axis=1, keepdims=True)
    return centred


def test_a_cold_fit_starts_at_the_shares_of_the_classes(crew: Crew) -> None:
    """What is the whole fit at tiny C: from b = 0 it took seven times the passes."""
    problem = plain_problem(uneven_rows())
    logits = logits_of_shares(problem.shares, "softmax")
    least = evaluate(problem, np.column_stack([np.zeros((12, 24)), logits]), crew)

    assert least.loss == pytest.approx(loss_of_shares(problem.shares, "softmax"), rel=1e-6)
    assert np.abs(least.gradient[:, -1]).max() < 1e-7
    assert PathSolver(problem, crew).fit(1e-6, Tolerance()).passes <= 4


def test_shares_are_those_of_weights_and_of_every_column(crew: Crew) -> None:
    rows, weights = make_rows(90, 5, 3), np.arange(90.0)
    hot = Rows(rows.blocks, np.eye(3, dtype=np.uint8)[rows.labels], 3)
    for given in (rows, hot, make_rows(90, 5, 2)):
        problem = plain_problem(given, weights=weights)
        V = np.zeros((problem.m, 6))
        V[:, -1] = logits_of_shares(problem.shares, problem.loss)
        least = loss_of_shares(problem.shares, problem.loss)

        assert evaluate(problem, V, crew).loss == pytest.approx(least, rel=1e-6)
    weights[rows.labels == 0] = 0
    shares = plain_problem(rows, weights=weights).shares
    assert shares[0] == 0
    assert np.isfinite(logits_of_shares(shares, "softmax")).all()
