"""The solver finds the optimum of scikit-learn's objective, on every path to it."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from train_factories import features, make_rows, plain_problem

from linprobe_train.solver import problem as problem_module
from linprobe_train.solver.lbfgs import FitReport, Tolerance
from linprobe_train.solver.passes import Crew, crew_of, evaluate
from linprobe_train.solver.path import PathSolver
from linprobe_train.solver.problem import Problem
from linprobe_train.solver.rows import Rows, rows_of_array

Float64 = NDArray[np.float64]


def oracle(rows: Rows, C: float, weights: Float64 | None = None) -> tuple[Float64, Float64]:
    """Coef and intercept by scikit-learn, far past its default tolerance."""
    X = np.concatenate([block.read() for block in rows.blocks]).astype(np.float64)
    model = LogisticRegression(C=C, tol=1e-10, max_iter=100_000)
    model.fit(X, rows.labels, sample_weight=weights)
    return model.coef_, model.intercept_


def objective(problem: Problem, coef: Float64, intercept: Float64, C: float, crew: Crew) -> float:
    """F in float64."""
    V = problem.into(coef, intercept)
    ridge = 0.5 * float((coef**2).sum()) / (C * problem.total_weight)
    return evaluate(problem, V, crew, "float64").loss + ridge


def gap(problem: Problem, path: PathSolver, C: float, reference: float, crew: Crew) -> float:
    """Relative objective gap of a fit against the oracle's F."""
    return objective(problem, *path.solution(C), C, crew) / reference - 1


@pytest.mark.parametrize("k", [2, 3, 7])
def test_the_optimum_is_scikit_learns_at_every_C(k: int, crew: Crew) -> None:
    rows = make_rows(300, 12, k)
    problem = plain_problem(rows)
    path = PathSolver(problem, crew)
    for C in (1e-4, 1e-2, 1.0, 1e2, 1e4):
        report = path.fit(C, Tolerance())
        reference = oracle(rows, C)
        coef, intercept = path.solution(C)
        best = objective(problem, *reference, C, crew)

        assert report.converged
        assert abs(gap(problem, path, C, best, crew)) < 1e-6
        assert report.objective == pytest.approx(best, rel=1e-6)
        assert np.allclose(coef, reference[0], atol=5e-3 * max(1, np.abs(reference[0]).max()))
        assert np.allclose(intercept, reference[1], atol=2e-2 * max(1, np.abs(reference[1]).max()))


def test_row_weights_are_scikit_learns_sample_weights(crew: Crew) -> None:
    rows = make_rows(200, 8, 3)
    weights = np.random.default_rng(1).random(200) * 3
    weights[:5] = 0
    problem = plain_problem(rows, weights=weights)
    path = PathSolver(problem, crew)
    path.fit(10.0, Tolerance())
    best = objective(problem, *oracle(rows, 10.0, weights), 10.0, crew)

    assert abs(gap(problem, path, 10.0, best, crew)) < 1e-6


def test_a_weight_of_two_is_the_row_twice(crew: Crew) -> None:
    X, y = features(90, 6, 3)
    twice = rows_of_array(np.concatenate([X, X[:30]]), np.concatenate([y, y[:30]]), 3)
    weights = np.ones(90)
    weights[:30] = 2
    a = PathSolver(plain_problem(rows_of_array(X, y, 3), weights=weights), crew)
    b = PathSolver(plain_problem(twice), crew)

    assert a.fit(1.0, Tolerance()).objective == pytest.approx(
        b.fit(1.0, Tolerance()).objective, rel=1e-6
    )


def test_multi_label_columns_are_independent_binary_fits(crew: Crew) -> None:
    X, y = features(200, 8, 4)
    labels = np.zeros((200, 4), np.uint8)
    labels[np.arange(200), y] = 1
    labels[::3, 0] = 1
    problem = plain_problem(rows_of_array(X, labels, 4))
    path = PathSolver(problem, crew)
    path.fit(3.0, Tolerance())
    coef, intercept = path.solution(3.0)
    for j in range(4):
        reference = oracle(rows_of_array(X, labels[:, j].astype(np.int64), 2), 3.0)

        assert np.allclose(coef[j], reference[0][0], atol=2e-2)
        assert intercept[j] == pytest.approx(reference[1][0], abs=5e-2)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("resident", [True, False])
def test_the_gradient_is_the_derivative_of_the_loss(k: int, resident: bool, crew: Crew) -> None:
    problem = plain_problem(make_rows(70, 5, k), resident=resident)
    rng = np.random.default_rng(0)
    V = rng.standard_normal((problem.m, 6))
    gradient = evaluate(problem, V, crew, "float64").gradient
    step = 1e-6
    for index in np.ndindex(V.shape):
        e = np.zeros_like(V)
        e[index] = step
        ahead = evaluate(problem, V + e, crew, "float64").loss
        behind = evaluate(problem, V - e, crew, "float64").loss

        assert gradient[index] == pytest.approx((ahead - behind) / (2 * step), abs=2e-8)


def test_streamed_and_resident_rows_have_the_same_loss_and_gradient(crew: Crew) -> None:
    rows = make_rows(2500, 10, 3)
    V = np.random.default_rng(0).standard_normal((3, 11))
    a = evaluate(plain_problem(rows, resident=True), V, crew, "float64")
    b = evaluate(plain_problem(rows, resident=False), V, crew, "float64")

    assert a.loss == pytest.approx(b.loss, rel=1e-6)
    assert np.allclose(a.gradient, b.gradient, atol=1e-6)


def test_a_pilot_smaller_than_the_rows_steers_to_the_same_optimum(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(3000, 10, 5)
    full = PathSolver(plain_problem(rows), crew)
    monkeypatch.setattr(problem_module, "PILOT_ROWS", 300)
    problem = plain_problem(rows, resident=False)
    sampled = PathSolver(problem, crew)

    assert problem.pilot is not None
    assert len(problem.pilot) == 300
    for C in (0.1, 100.0):
        expected = full.fit(C, Tolerance()).objective
        assert sampled.fit(C, Tolerance()).objective == pytest.approx(expected, rel=1e-6)
    # Without logits every length that is tried is a pass.
    assert sampled.passes < 1.6 * full.passes


@pytest.mark.parametrize("resident", [True, False])
def test_the_result_does_not_depend_on_the_number_of_threads(resident: bool) -> None:
    rows = make_rows(5000, 8, 3)
    fits: list[tuple[FitReport, Float64]] = []
    for threads in (1, 3):
        with crew_of(threads) as crew:
            path = PathSolver(plain_problem(rows, resident=resident), crew)
            fits.append((path.fit(10.0, Tolerance()), path.solution(10.0)[0]))

    assert fits[0][0] == fits[1][0]
    assert np.array_equal(fits[0][1], fits[1][1])


def test_warm_and_cold_starts_agree(crew: Crew) -> None:
    rows = make_rows(400, 12, 6)
    warm = PathSolver(plain_problem(rows), crew)
    for C in (1e-2, 1.0, 10.0, 1e2):
        report = warm.fit(C, Tolerance())
    cold = PathSolver(plain_problem(rows), crew).fit(1e2, Tolerance())

    assert report.objective == pytest.approx(cold.objective, rel=1e-6)
    assert report.passes < cold.passes


def test_separable_rows_and_a_huge_C_finish(crew: Crew) -> None:
    rows = make_rows(120, 12, 4, noise=0.05)
    path = PathSolver(plain_problem(rows), crew)
    for C in (1.0, 1e3, 1e6):
        report = path.fit(C, Tolerance())
    best = objective(path.problem, *oracle(rows, 1e6), 1e6, crew)

    assert report.converged
    assert gap(path.problem, path, 1e6, best, crew) < 1e-5


def test_too_few_iterations_are_admitted(crew: Crew) -> None:
    path = PathSolver(plain_problem(make_rows()), crew)
    report = path.fit(100.0, Tolerance(max_iter=2))

    assert report.stop == "max_iter"
    assert not report.converged
    assert report.iterations == 2


def test_the_rigorous_bound_is_above_the_true_gap(crew: Crew) -> None:
    rows = make_rows(300, 12, 5)
    problem = plain_problem(rows)
    for C in (0.1, 10.0, 1000.0):
        best = objective(problem, *oracle(rows, C), C, crew)
        for decrement in (1e-2, 1e-4):
            path = PathSolver(problem, crew)
            report = path.fit(C, Tolerance(gap=0.1, decrement=decrement))
            # The intercept's gradient, which the bound leaves out, is worth a tenth of it here.
            assert gap(problem, path, C, best, crew) <= 1.1 * report.bound + 1e-9


def test_a_gap_that_no_arithmetic_reaches_ends_and_is_not_called_converged(crew: Crew) -> None:
    path = PathSolver(plain_problem(make_rows(100, 6, 3)), crew)
    report = path.fit(1.0, Tolerance(gap=0, decrement=0))
    rows = make_rows(100, 6, 3)
    best = objective(path.problem, *oracle(rows, 1.0), 1.0, crew)

    assert report.stop in ("stalled", "max_iter")
    assert not report.converged
    assert gap(path.problem, path, 1.0, best, crew) < 1e-9


def test_at_tiny_C_the_direction_of_W_is_right_though_F_hardly_moves(crew: Crew) -> None:
    rows = make_rows(300, 12, 5)
    path = PathSolver(plain_problem(rows), crew)
    path.fit(1e-6, Tolerance(gap=5e-4, decrement=1e-4))
    coef, expected = path.solution(1e-6)[0], oracle(rows, 1e-6)[0]

    cosine = (coef * expected).sum() / np.linalg.norm(coef) / np.linalg.norm(expected)
    assert cosine > 0.999
    assert np.linalg.norm(coef) == pytest.approx(np.linalg.norm(expected), rel=0.03)
