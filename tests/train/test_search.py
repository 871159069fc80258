"""C is chosen on scores that are known, or said not to be."""

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from train_factories import make_rows

from linprobe_train.protocol import scoring
from linprobe_train.protocol.cuts import stratified_tenth
from linprobe_train.protocol.evidence import FLOOR, Evidence, Judge
from linprobe_train.protocol.protocols import HALVING, Grid, best_C, list_grid
from linprobe_train.protocol.scoring import SweepPoint, contenders
from linprobe_train.protocol.search import Sweep, run_sweep, search
from linprobe_train.scores.metrics import score_value
from linprobe_train.solver.fit import FitSettings, Trainer, make_trainer
from linprobe_train.solver.lbfgs import FitReport, Tolerance
from linprobe_train.solver.memory import MemoryPlan
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.rows import Rows

PLAIN = FitSettings(normalize=False)
Float64 = NDArray[np.float64]


def cut(seed: int, n: int = 400, k: int = 5) -> tuple[Rows, Rows]:
    """Rows that are hard to tell apart, and a fifth of them held out."""
    rows = make_rows(n, 12, k, seed=seed, noise=2.0)
    held = stratified_tenth(rows.labels, 0) | stratified_tenth(rows.labels, 1)
    return rows.select(~held), rows.select(held)


def exact_scores(
    train: Rows, held: Rows, grid: Grid, metric: str, crew: Crew
) -> dict[float, float]:
    """The search on float64 fits at a rigorous 1e-11."""
    trainer = make_trainer(train, replace(PLAIN, arithmetic="float64"), crew)
    scores: dict[float, float] = {}
    while wanted := grid.next_values(scores):
        for C in wanted:
            trainer.fit(C, Tolerance(gap=1e-11, decrement=0, max_iter=5000))
            p = trainer.probe(C).probabilities(held)
            scores[C] = score_value(metric, p, held.labels)
    return scores


@pytest.mark.parametrize(
    ("metric", "k", "seeds"), [("top1", 5, 10), ("top1", 2, 3), ("mean_per_class", 5, 3)]
)
def test_the_chosen_C_is_that_of_tight_float64_fits(
    metric: str, k: int, seeds: int, crew: Crew
) -> None:
    for seed in range(seeds):
        train, held = cut(seed, k=k)
        sweep = run_sweep([(make_trainer(train, PLAIN, crew), held)], HALVING, metric)
        exact = exact_scores(train, held, HALVING, metric, crew)

        assert best_C(exact) == sweep.C
        assert [point.C for point in sweep.points] == sorted(exact)
        for point in sweep.points:
            assert point.low is not None
            assert point.high is not None
            assert point.low - 1e-12 <= exact[point.C] <= point.high + 1e-12
            assert point.low <= point.score <= point.high


class Listener(Judge):
    """Keeps what every look gave, and lets the fit go on."""

    def __init__(self, trainer: Trainer, held_out: Rows) -> None:
        super().__init__(trainer, held_out, "top1", -math.inf)
        self.looks: list[Evidence] = []

    def __call__(self, V: Float64, step: Float64) -> bool:
        super().__call__(V, step)
        self.looks.append(self.evidence)
        return False


def test_intervals_hold_the_end_of_the_fit_whenever_they_are_asked_for(crew: Crew) -> None:
    for seed in range(5):
        train, held = cut(seed)
        trainer = make_trainer(train, PLAIN, crew)
        for C in (0.1, 10.0, 1000.0):
            listener = Listener(trainer, held)
            trainer.fit(C, FLOOR, listener)
            first, last = listener.looks[0], listener.looks[-1]

            assert all(look.low <= last.value <= look.high for look in listener.looks)
            assert last.high - last.low <= first.high - first.low


def test_a_row_alone_at_the_boundary_is_open_while_the_others_move(crew: Crew) -> None:
    """Its own change in a step may vanish by chance: how far the fit moves, all rows tell."""
    train, held = cut(0)
    trainer = make_trainer(train, PLAIN, crew)
    trainer.fit(1.0, Tolerance())
    problem, probe = trainer.problem, trainer.probe(1.0)
    V = problem.into(probe.coef, probe.intercept)
    x = np.concatenate([block.read() for _, block in held.pairs()]) - problem.mean
    z = np.sort(probe.logits(held), axis=1)
    margin = z[:, -1] - z[:, -2]
    closest = int(margin.argmin())
    aside = np.random.default_rng(0).standard_normal(V.shape)
    row = np.append(x[closest] @ problem.rotation, 1.0)
    aside -= np.outer(aside @ row, row) / (row @ row)
    changes = np.column_stack([x @ problem.rotation, np.ones(held.n)]) @ aside.T
    aside *= margin[closest] / np.abs(np.ptp(changes, axis=1)).mean()

    judge = Judge(trainer, held, "top1", -math.inf)
    judge(V, 1e-3 * aside)  # from here on few rows are near
    assert judge.evidence.undecided == 0
    judge(V, aside)
    assert judge.evidence.undecided >= 1


def test_a_row_of_a_class_that_training_lacks_is_wrong_for_certain(crew: Crew) -> None:
    train, held = cut(0)
    part = train.select(train.labels != 3)
    trainer = make_trainer(part, PLAIN, crew)
    (point,) = run_sweep([(trainer, held)], list_grid(1.0), "top1").points
    p = trainer.probe(1.0).probabilities(held)

    assert point.low == point.high == point.score == score_value("top1", p, held.labels)


def test_points_that_cannot_win_stop_early(crew: Crew) -> None:
    train, held = cut(1)
    grid = list_grid(1.0, 1e5)
    race = run_sweep([(make_trainer(train, PLAIN, crew), held)], grid, "top1")
    alone = run_sweep([(make_trainer(train, PLAIN, crew), held)], list_grid(1e5), "top1")
    last = race.points[-1]

    assert last.high is not None
    assert alone.points[0].high is not None
    if last.high < race.points[0].score:
        assert last.fits[0].stop == "decided"
        assert sum(fit.passes for fit in last.fits) <= sum(f.passes for f in alone.points[0].fits)


def test_folds_race_on_what_the_folds_to_come_can_still_make_of_the_mean(crew: Crew) -> None:
    rows = make_rows(300, 12, 4, noise=2.0)
    chosen = search(rows, None, HALVING, PLAIN, crew, folds=3)
    assert chosen.sweep is not None
    for point in chosen.sweep.points:
        assert len(point.fits) == 3
        assert point.low is not None
    exact = search(rows, None, HALVING, replace(PLAIN, arithmetic="float64"), crew, folds=3)
    assert exact.sweep is not None
    assert chosen.sweep.C == exact.sweep.C


def test_other_metrics_are_scored_on_fits_to_the_end(crew: Crew) -> None:
    train, held = cut(0)
    trainer = make_trainer(train, PLAIN, crew)
    sweep = run_sweep([(trainer, held)], list_grid(1.0, 100.0), "nll")

    assert all(point.low is None and point.high is None for point in sweep.points)
    assert all(fit.converged for point in sweep.points for fit in point.fits)


def test_scikit_learn_scores_have_no_interval(crew: Crew) -> None:
    train, held = cut(0)
    trainer = make_trainer(train, replace(PLAIN, solver="sklearn"), crew)
    (point,) = run_sweep([(trainer, held)], list_grid(0.01), "top1").points

    assert point.low is None


def point_of(C: float, low: float, high: float, undecided: int = 0) -> SweepPoint:
    fit = FitReport(C, 1.0, 0.9, 1e-9, 1e-12, "bound", 5, 6)
    return SweepPoint(C, low, (fit,), low, high, undecided)


def test_the_choice_hangs_on_intervals_that_reach_the_best_and_on_no_other() -> None:
    best, below, tie, above = (
        point_of(10, 0.8, 0.8),
        point_of(1, 0.6, 0.7, 1),
        point_of(1, 0.7, 0.8, 1),
        point_of(100, 0.7, 0.8, 1),
    )
    assert contenders([best, below]) == []
    assert contenders([best, tie]) == [tie]  # the smaller C of two equal ones is taken
    assert contenders([best, above]) == []
    assert contenders([best, point_of(100, 0.7, 0.9, 2)]) == [point_of(100, 0.7, 0.9, 2)]
    assert contenders([point_of(10, 0.8, 0.9, 1), below]) == []
    wide = point_of(10, 0.8, 0.9, 1)
    assert contenders([wide, point_of(1, 0.75, 0.85, 1)]) == [wide, point_of(1, 0.75, 0.85, 1)]


class Scripted:
    """Trainers whose scores are scripted, to see what a sweep asks for."""

    def __init__(self, first: dict[float, SweepPoint], refined: dict[float, SweepPoint]) -> None:
        self.first, self.refined = first, refined
        self.asked: list[float] = []

    def score(self, C: float, lead: float) -> SweepPoint:
        return self.first[C]

    def refine(self, point: SweepPoint, lead: float) -> SweepPoint:
        self.asked.append(point.C)
        return self.refined[point.C]


def scripted_sweep(scripted: Scripted, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr("linprobe_train.protocol.search.Scorer", lambda *_: scripted)
    return run_sweep([], grid, "top1")


def test_a_choice_that_hangs_on_a_row_goes_on_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    first = {1.0: point_of(1, 0.7, 0.8, 1), 10.0: point_of(10, 0.75, 0.75)}
    scripted = Scripted(first, {1.0: point_of(1, 0.8, 0.8)})
    sweep = scripted_sweep(scripted, list_grid(1, 10), monkeypatch)

    assert scripted.asked == [1.0]
    assert sweep.C == 1.0
    assert not any("boundary" in line for line in sweep.warnings())


def test_the_peak_of_a_halving_is_a_choice_too(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Grid(first=(0, 8, 16), steps=(2,))
    e = {k: float(10 ** (k / 8)) for k in range(17)}
    first = {C: point_of(C, 0.5, 0.5) for C in e.values()}
    first[e[0]], first[e[8]] = point_of(e[0], 0.6, 0.7, 1), point_of(e[8], 0.65, 0.65)
    scripted = Scripted(first, {e[0]: point_of(e[0], 0.7, 0.7)})
    sweep = scripted_sweep(scripted, grid, monkeypatch)

    assert scripted.asked == [e[0]]
    assert [point.C for point in sweep.points] == [e[0], e[2], e[8], e[16]]


def test_rows_that_float64_leaves_undecided_are_counted_in_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = {
        1.0: point_of(1, 0.7, 0.8, 3),
        10.0: point_of(10, 0.75, 0.75),
        100.0: point_of(100, 0.1, 0.1),
    }
    scripted = Scripted(first, {1.0: point_of(1, 0.7, 0.8, 2)})
    sweep = scripted_sweep(scripted, list_grid(1, 10, 100), monkeypatch)

    assert scripted.asked == [1.0]
    assert sweep.C == 10.0
    (line,) = sweep.warnings()
    assert line.startswith("2 val rows lie on the boundary")
    assert "at C = 1," in line
    assert "C = 10 hangs on them" in line


@pytest.mark.parametrize("resident", [True, False])
def test_float64_decides_rows_that_float32_leaves_open(
    resident: bool, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, held = cut(2, n=2000, k=8)
    if not resident:
        plan = MemoryPlan(False, 0, 0, 0)
        monkeypatch.setattr("linprobe_train.solver.fit.plan_fit", lambda *_: plan)
    trainer = make_trainer(train, PLAIN, crew)
    monkeypatch.setattr(scoring, "FLOOR", Tolerance(gap=0.1, decrement=0))
    scorer = scoring.Scorer([(trainer, held)], "top1")
    rough = scorer.score(10.0, -math.inf)
    assert rough.undecided > 0
    fine = scorer.refine(rough, -math.inf)
    (exact,) = exact_scores(train, held, list_grid(10.0), "top1", crew).values()

    assert fine.low == fine.high == exact
    assert fine.fits[0].passes > rough.fits[0].passes
    again = trainer.fit(10.0, Tolerance())
    assert again.converged
    assert again.passes <= 2


def test_a_final_fit_takes_fewer_passes_from_the_sweep_around_it(crew: Crew) -> None:
    rows = make_rows(600, 24, 8, noise=1.5)
    held = stratified_tenth(rows.labels, 0)
    chosen = search(rows.select(~held), rows.select(held), HALVING, PLAIN, crew)
    trainer: Trainer = make_trainer(rows, PLAIN, crew)
    cold = trainer.fit(chosen.fit.C, Tolerance())

    assert chosen.fit.objective == pytest.approx(cold.objective, rel=1e-6)
    assert chosen.fit.passes < cold.passes


def test_a_search_does_not_depend_on_the_number_of_threads() -> None:
    train, held = cut(3, n=5000)
    sweeps = []
    for threads in (1, 3):
        with crew_of(threads) as crew:
            settings = replace(PLAIN, threads=threads)
            sweeps.append(search(train, held, HALVING, settings, crew))

    assert sweeps[0].sweep == sweeps[1].sweep
    assert sweeps[0].fit == sweeps[1].fit
    assert np.array_equal(sweeps[0].probe.coef, sweeps[1].probe.coef)
