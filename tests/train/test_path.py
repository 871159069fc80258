"""The path over C: where fits start, what lines and pairs carry, how far-off C are reached."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from train_factories import features, make_rows, plain_problem

from linprobe_train.solver import problem as problem_module
from linprobe_train.solver.fit import FitSettings, fit_rows, make_trainer, plan_fit
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.losses import least_of_span
from linprobe_train.solver.memory import kept_bytes, plan_memory, working_bytes
from linprobe_train.solver.passes import Crew, Point, evaluate, with_ridge
from linprobe_train.solver.path import BASIS, KEPT_LOGITS, PathSolver
from linprobe_train.solver.problem import Sizes
from linprobe_train.solver.rows import Rows, rows_of_array
from linprobe_train.solver.surface import PairMemory, Surface

Float64 = NDArray[np.float64]


def hot_rows() -> Rows:
    """Multi-label rows."""
    X, y = features(200, 8, 4)
    labels = np.zeros((200, 4), np.uint8)
    labels[np.arange(200), y] = 1
    labels[::3, 0] = 1
    return rows_of_array(X, labels, 4)


def weights_with_zeros() -> Float64:
    weights = np.random.default_rng(1).random(240) * 3
    weights[:5] = 0
    return weights


PROBLEMS = {
    "softmax": lambda: plain_problem(make_rows(), weights=weights_with_zeros()),
    "two classes": lambda: plain_problem(make_rows(k=2)),
    "multi-label": lambda: plain_problem(hot_rows()),
    "streamed": lambda: plain_problem(make_rows(), resident=False),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_start_is_the_least_of_the_span_of_the_solutions_around(kind: str, crew: Crew) -> None:
    problem = PROBLEMS[kind]()
    surface, l2 = Surface(problem, crew), 1e-4
    path = PathSolver(problem, crew)
    basis: list[Point] = []
    for C in (1.0, 10.0, 30.0):
        path.fit(C, Tolerance())
        basis.append(surface.at(path._solved[math.log(C)].V))
    basis.reverse()

    def F(a: Float64) -> float:
        V = sum(share * point.V for share, point in zip(a, basis, strict=True))
        return with_ridge(evaluate(problem, V, crew, "float64"), l2).F

    best = minimize(F, [1.0, 0, 0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12})
    start = least_of_span(problem, crew, basis[0], basis[1:], l2)
    at = with_ridge(evaluate(problem, start, crew, "float64"), l2)

    assert best.fun * (1 - 1e-6) <= at.F <= best.fun * 1.01
    assert F(np.array([1.0, 0, 0])) > at.F


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_line_is_the_loss_along_it_and_ends_at_a_whole_place(kind: str, crew: Crew) -> None:
    problem = PROBLEMS[kind]()
    surface = Surface(problem, crew)
    rng = np.random.default_rng(0)
    V, D = rng.standard_normal((2, problem.m, problem.dim + 1)) / 4
    before = surface.passes
    line = surface.line(surface.at(V), D, "float32")
    for t in (0.3, 1.0):
        loss, derivative = line.at(t)
        exact = evaluate(problem, V - t * D, crew, "float64")

        assert loss == pytest.approx(exact.loss, rel=1e-5)
        assert derivative == pytest.approx(-float(np.vdot(exact.gradient, D)), rel=1e-4)
    end = line.point()
    assert np.allclose(end.V, V - D)
    assert np.allclose(end.gradient, exact.gradient, atol=1e-5)
    if end.logits is not None:
        assert np.allclose(end.logits, surface.logits(V - D), atol=1e-4)
    assert (end.logits is None) == (kind == "streamed")
    assert surface.passes - before <= 3


@pytest.mark.parametrize(("off", "first"), [(0.25, 0.25), (4.0, 1.0)])
def test_where_a_length_costs_a_pass_the_first_is_as_the_last_pair_corrects_the_metric(
    off: float, first: float, crew: Crew
) -> None:
    problem = PROBLEMS["streamed"]()
    surface = Surface(problem, crew)
    start = with_ridge(surface.at(np.zeros((problem.m, problem.dim + 1))), 1e-3)
    surface.ready(start)
    step = surface.direction(start)
    assert surface.line(start.point, step, "float32").first == 1.0

    surface.pairs.remember(off * step, start.g, 0.0)
    assert surface.line(start.point, step, "float32").first == pytest.approx(first, rel=1e-3)


def test_lengths_along_logits_read_no_rows(crew: Crew) -> None:
    surface = Surface(plain_problem(make_rows()), crew)
    V = np.zeros((4, 13))
    line = surface.line(surface.at(V), V + 1, "float32")
    before = surface.passes
    for t in (1.0, 0.5, 0.25):
        line.at(t)

    assert surface.passes == before


def test_pairs_of_one_ridge_serve_another(crew: Crew) -> None:
    surface = Surface(plain_problem(make_rows()), crew)
    rng = np.random.default_rng(0)
    places = [rng.standard_normal((4, 13)) / 4 for _ in range(4)]
    gradient = rng.standard_normal((4, 13))
    directions = []
    for first, last in ((0.5, 0.01), (0.01, 0.01)):
        pairs = PairMemory(4, 12)
        pairs.shift(first)
        ends = [with_ridge(surface.at(V), first) for V in places]
        for start, end in pairwise(ends):
            pairs.remember(end.point.V - start.point.V, end.g - start.g, 0.0)
        pairs.shift(last)
        directions.append(pairs.direction(gradient, lambda g: g))

    assert np.allclose(directions[0], directions[1], rtol=1e-3, atol=1e-4)


def test_long_jumps_up_are_bridged_every_decade_where_the_ridge_counts(crew: Crew) -> None:
    path = PathSolver(plain_problem(make_rows()), crew)
    path.fit(1e-6, Tolerance())

    assert path.bridge(math.log(1.0)) == []
    path.fit(1.0, Tolerance())
    assert path.bridge(math.log(10.0)) == []
    assert path.bridge(math.log(0.01)) == []
    assert np.allclose(np.exp(path.bridge(math.log(100.0))), [10.0])


def test_a_cold_fit_is_led_up_from_where_the_ridge_is_the_steepest_curvature(crew: Crew) -> None:
    problem = plain_problem(make_rows())
    path = PathSolver(problem, crew)
    X = np.concatenate([block.read() for block in problem.source.blocks])
    steepest = np.linalg.eigvalsh(np.cov(X.T, ddof=0))[-1]
    origin = 4 / (steepest * problem.n)
    steps = np.exp(path.bridge(math.log(1000 * origin)))

    assert np.allclose(steps, origin * 10.0 ** np.arange(0.5, 2.9, 0.5), rtol=1e-3)
    assert path.bridge(math.log(9 * origin)) == []


@pytest.mark.parametrize("C", [1e4, 1e6])
def test_a_cold_fit_at_large_C_takes_about_the_passes_of_the_path(C: float, crew: Crew) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    X = (rng.standard_normal((5, 30))[labels] + 2 * rng.standard_normal((400, 30))) / 10
    problem = plain_problem(rows_of_array(X.astype(np.float32), labels, 5))
    path = PathSolver(problem, crew)
    for x in np.arange(-1, math.log10(C) + 0.1):
        best = path.fit(10.0**x, Tolerance())
    cold = PathSolver(problem, crew).fit(C, Tolerance())

    assert cold.converged
    assert cold.objective == pytest.approx(best.objective, rel=1e-6)
    assert cold.passes < 1.5 * path.passes


def test_solutions_of_other_rows_make_a_better_start(crew: Crew) -> None:
    rows = make_rows(400, 12, 6)
    most = rows.select(np.arange(400) % 5 > 0)
    part, alone, led = (PathSolver(plain_problem(r), crew) for r in (most, rows, rows))
    for C in (3.0, 10.0, 30.0):
        part.fit(C, Tolerance())
        led.borrow(*part.problem.out_of(part._solved[math.log(C)].V), C)
    cold, warm = alone.fit(10.0, Tolerance()), led.fit(10.0, Tolerance())

    assert warm.objective == pytest.approx(cold.objective, rel=1e-6)
    assert warm.passes < cold.passes


def test_logits_are_kept_where_the_memory_plan_has_room_for_them(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problem_module, "PILOT_ROWS", 300)
    n, d, m = 3000, 10, 3
    rows = make_rows(n, d, m)
    sizes = Sizes(n, d, m, threads=1)
    fast = plan_memory(sizes, 10**12)
    fewer = plan_memory(sizes, fast.total_bytes - 1)
    least = working_bytes(sizes) + kept_bytes(sizes, resident=True, logits=BASIS + 1)
    slow = plan_memory(sizes, least - 1)
    streamed = plan_memory(sizes, slow.total_bytes - 1)

    assert (fast.resident, fast.logits) == (True, KEPT_LOGITS)
    assert fast.total_bytes - slow.total_bytes >= 8 * 4 * n * m
    assert (fewer.resident, fewer.logits) == (True, KEPT_LOGITS - 1)
    assert (slow.resident, slow.logits) == (True, 0)
    assert (streamed.resident, streamed.logits) == (False, 0)
    objectives = []
    for plan in (fast, fewer, slow, streamed):
        settings = FitSettings(normalize=False, memory_bytes=plan.total_bytes)
        assert plan_fit(rows, settings) == replace(plan, limit_bytes=plan.total_bytes)
        trainer = make_trainer(rows, settings, crew)
        assert isinstance(trainer.solver, PathSolver)
        objectives.append(trainer.fit(100.0, Tolerance()).objective)
        assert (trainer.solver._solved[math.log(100)].logits is None) == (not plan.logits)
    assert objectives == pytest.approx([objectives[0]] * 4, rel=1e-6)


def test_rows_that_are_badly_conditioned_end_within_their_iterations() -> None:
    X, y = features(300, 12, 4)
    scales = 10.0 ** np.linspace(-2, 3, 12)
    rows = rows_of_array((X * scales).astype(np.float32), y, 4)
    _, report = fit_rows(rows, 1.0, FitSettings(normalize=False), Tolerance())

    assert report.iterations <= 1000
    assert report.converged
