"""A search on a part of the rows first, then on all: recorded, and only where it was asked."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_factories import make_rows

from linprobe.errors import OptionError
from linprobe_train.api import sweep
from linprobe_train.protocol.coarse import Around, around, part_trials
from linprobe_train.protocol.cuts import stratified_part, stratified_tenth
from linprobe_train.protocol.evidence import standard_error
from linprobe_train.protocol.protocols import (
    BAND_GRID,
    DEFAULT,
    HALVING,
    PROTOCOLS,
    Grid,
    best_C,
    list_grid,
)
from linprobe_train.protocol.scoring import SweepPoint
from linprobe_train.protocol.search import run_sweep, search
from linprobe_train.protocol.temperature import fit_temperature
from linprobe_train.solver.fit import FitSettings, fit_rows, make_trainer
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.rows import Rows, rows_of_array

PLAIN = FitSettings(normalize=False)


def cut(seed: int, n: int = 1500, k: int = 5) -> tuple[Rows, Rows]:
    rows = make_rows(n, 12, k, seed=seed, noise=2.0)
    held = stratified_tenth(rows.labels, 0) | stratified_tenth(rows.labels, 1)
    return rows.select(~held), rows.select(held)


def on_part(grid: Grid, rows: int) -> Grid:
    return msgspec.structs.replace(grid, coarse_rows=rows)


@given(st.lists(st.integers(1, 60), min_size=2, max_size=8), st.integers(0, 3), st.data())
@settings(max_examples=40, deadline=None)
def test_a_part_has_the_same_share_of_every_class_and_a_row_at_least(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = data.draw(st.integers(len(sizes), len(labels)))
    part = stratified_part(labels, count, seed)
    for label, size in enumerate(sizes):
        share = size * count / len(labels)
        assert max(1, math.floor(share)) <= part[labels == label].sum() <= math.ceil(share)
    assert np.array_equal(part, stratified_part(labels, count, seed))


def test_C_means_the_same_per_row_of_a_part_as_of_all(crew: Crew) -> None:
    train, held = cut(0)
    for each in (PLAIN, replace(PLAIN, balanced=True)):
        (trainer, _), *_ = part_trials([(train, held)], 240, each, 0, crew)
        assert abs(trainer.rows.n - 240) <= 2
        assert trainer.problem.total_weight == pytest.approx(trainer.rows.n)


@given(
    st.integers(-48, 48),
    st.integers(-48, 48),
    st.integers(0, 30),
    st.sampled_from([HALVING, BAND_GRID]),
)
@settings(max_examples=60, deadline=None)
def test_all_rows_are_searched_from_the_start_up_to_a_peak(
    start: int, peak: int, doubt: int, grid: Grid
) -> None:
    values, scores = Around(grid, grid.places[start], doubt), dict[float, float]()
    while wanted := values.next_values(scores):
        assert not set(wanted) & scores.keys()
        scores |= {C: -abs(8 * math.log10(C) - peak) for C in wanted}

    assert set(scores) <= set(grid.places.values())
    assert len(scores) <= grid.count
    finest = grid.steps[-1]
    found = 8 * math.log10(best_C(scores))
    if len(scores) < grid.count:
        assert abs(found - peak) < finest or abs(found) > 48 - finest
    else:
        assert best_C(scores) in (min(scores), max(scores)) or abs(found - peak) <= 8


def test_a_list_is_searched_place_by_place() -> None:
    near = Around(list_grid(0.1, 1, 10, 100, 1000), 10.0, 0)
    assert near.next_values({}) == (1.0, 10.0, 100.0)
    assert near.next_values({1.0: 0.5, 10.0: 0.6, 100.0: 0.7}) == (1000.0,)
    assert near.next_values({1.0: 0.7, 10.0: 0.7, 100.0: 0.6}) == (0.1,)
    assert near.next_values({1.0: 0.6, 10.0: 0.7, 100.0: 0.7}) == ()


def test_all_rows_start_at_the_smallest_C_within_a_standard_error_of_the_parts_best() -> None:
    curve = {0.1: 0.60, 1.0: 0.775, 10.0: 0.785, 100.0: 0.80, 1000.0: 0.79}
    points, grid = [SweepPoint(C, score, ()) for C, score in curve.items()], list_grid(*curve)

    for n, start, doubt in ((400, 10.0, 2), (100, 1.0, 3), (10**6, 100.0, 0)):
        assert around(grid, points, 100.0, "top1", n) == Around(grid, start, doubt)
    assert around(grid, points, 100.0, "nll", 400) == Around(grid, 100.0, 0)


def test_steps_on_all_rows_are_as_wide_as_what_the_part_leaves_in_doubt() -> None:
    steps = {doubt: Around(HALVING, 1.0, doubt).steps for doubt in (0, 2, 5, 30)}
    assert steps == {0: (2, 1), 2: (2, 1), 5: (4, 2, 1), 30: (8, 4, 2, 1)}
    assert [Around(BAND_GRID, 1.0, doubt).steps for doubt in (0, 5, 8)] == [(4,), (4,), (8, 4)]
    assert [Around(list_grid(1, 2, 3), 1.0, doubt).steps for doubt in (0, 2)] == [(1,), (2, 1)]


@pytest.mark.parametrize("seed", range(4))
def test_no_neighbour_of_the_chosen_C_is_better_on_all_rows(seed: int, crew: Crew) -> None:
    train, held = cut(seed)
    chosen = search(train, held, on_part(HALVING, 600), PLAIN, crew)
    sweep = chosen.sweep
    assert sweep is not None
    assert sweep.coarse is not None
    place, scores = {C: e for e, C in HALVING.places.items()}, {p.C: p.score for p in sweep.points}
    e = place[sweep.C]

    assert {HALVING.places[e - 1], HALVING.places[e + 1]} <= scores.keys()
    assert len(sweep.coarse.points) >= 11
    assert best_C(scores) == sweep.C
    assert chosen.fit.C == sweep.C
    assert chosen.fitted_on.n == train.n + held.n
    alone = fit_rows(train.join(held), sweep.C, PLAIN, Tolerance())[1]
    assert chosen.fit.objective == pytest.approx(alone.objective, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_all_rows_are_known_to_a_standard_error(seed: int, crew: Crew) -> None:
    train, held = cut(seed)
    sweep = search(train, held, on_part(HALVING, 600), PLAIN, crew).sweep
    assert sweep is not None
    values = list_grid(*(point.C for point in sweep.points))
    exact = run_sweep([(make_trainer(train, PLAIN, crew), held)], values, "top1", noise=1e-9)

    best = max(point.score for point in exact.points)
    for point, true in zip(sweep.points, exact.points, strict=True):
        assert point.low is not None
        assert point.high is not None
        known = point.high - point.low <= 2 * standard_error(point.score, held.n)
        assert known or point.high < best
        assert point.low <= true.score <= point.high


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_scores_as_that_of_a_search_on_all_rows(seed: int, crew: Crew) -> None:
    train, held = cut(seed)
    chosen, whole = (search(train, held, on_part(HALVING, n), PLAIN, crew) for n in (600, 0))
    assert whole.sweep is not None
    trial = make_trainer(train, PLAIN, crew), held
    at_chosen = run_sweep([trial], list_grid(chosen.fit.C), "top1").points[0].score

    assert at_chosen >= max(point.score for point in whole.sweep.points) - 2.5 / held.n


@pytest.mark.parametrize("seed", range(4))
def test_the_plateau_of_a_part_that_tells_all_its_rows_apart_is_not_followed(
    seed: int, crew: Crew
) -> None:
    # 24 rows a class of 60 features: what val says of them from C = 0.1 on is noise, while 200 rows
    # a class lose by large C.
    rows = make_rows(2500, 60, 5, seed=seed, noise=3.0)
    first = np.arange(rows.n) < 1000
    train, held = rows.select(first), rows.select(~first)
    chosen, whole = (search(train, held, on_part(HALVING, n), PLAIN, crew) for n in (120, 0))
    assert whole.sweep is not None
    trial = make_trainer(train, PLAIN, crew), held
    at_chosen = run_sweep([trial], list_grid(chosen.fit.C), "top1").points[0].score

    best = max(point.score for point in whole.sweep.points)
    assert at_chosen >= best - 0.25 * standard_error(best, held.n)


def test_default_chooses_on_a_part_and_takes_the_temperature_from_all_rows(crew: Crew) -> None:
    train, held = cut(1)
    chosen = search(train, held, on_part(DEFAULT.grid, 300), PLAIN, crew, rule=DEFAULT.rule)
    assert chosen.sweep is not None
    assert chosen.sweep.coarse is not None
    assert all(point.likelihood is not None for point in chosen.sweep.points)
    assert all(point.likelihood is not None for point in chosen.sweep.coarse.points)
    probe = fit_rows(train, chosen.fit.C, PLAIN, Tolerance())[0]
    alone = fit_temperature([(probe, held)], "val")

    assert chosen.temperature is not None
    assert pytest.approx(alone.T, rel=1e-3) == chosen.temperature.T


def test_every_fold_has_its_part(crew: Crew) -> None:
    train, _ = cut(1)
    found = search(train, None, on_part(HALVING, 300), PLAIN, crew, folds=3).sweep
    assert found is not None
    assert found.coarse is not None

    assert abs(found.coarse.rows - 300) <= 2
    for point in (*found.points, *found.coarse.points):
        assert len(point.fits) == 3


def test_a_search_on_a_part_does_not_depend_on_the_number_of_threads() -> None:
    train, held = cut(3, n=4000)
    sweeps = []
    for threads in (1, 3):
        with crew_of(threads) as crew:
            settings = replace(PLAIN, threads=threads)
            sweeps.append(search(train, held, on_part(HALVING, 500), settings, crew))

    assert sweeps[0].sweep == sweeps[1].sweep
    assert np.array_equal(sweeps[0].probe.coef, sweeps[1].probe.coef)


def test_streamed_rows_are_searched_on_a_part_too(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, held = cut(2)
    kept = search(train, held, on_part(HALVING, 300), PLAIN, crew)
    from linprobe_train.solver import fit
    from linprobe_train.solver.memory import MemoryPlan

    monkeypatch.setattr(fit, "plan_fit", lambda *_: MemoryPlan(False, 0, 0, 0))
    streamed = search(train, held, on_part(HALVING, 300), PLAIN, crew)

    monkeypatch.undo()
    values = list_grid(*sorted({streamed.fit.C, kept.fit.C}))
    exact = run_sweep([(make_trainer(train, PLAIN, crew), held)], values, "top1")
    scores = [point.score for point in exact.points]
    assert max(scores) - min(scores) <= 0.5 * standard_error(max(scores), held.n)
    alone = fit_rows(train.join(held), streamed.fit.C, PLAIN, Tolerance())[1]
    assert streamed.fit.objective == pytest.approx(alone.objective, rel=1e-6)


def test_without_the_option_nothing_is_searched_on_a_part(crew: Crew) -> None:
    train, held = cut(0)
    for grid in (HALVING, on_part(HALVING, train.n), on_part(HALVING, 10**7)):
        found = search(train, held, grid, PLAIN, crew).sweep
        assert found is not None
        assert found.coarse is None
        assert len(found.points) >= 11
    assert all(protocol.grid.coarse_rows == 0 for protocol in PROTOCOLS.values())
    assert b"coarse" not in msgspec.json.encode(HALVING)


def test_what_no_part_can_be_made_of_is_refused(crew: Crew) -> None:
    train, held = cut(0)
    with pytest.raises(OptionError, match="single C"):
        PROTOCOLS["clip-readme"].changed(coarse_rows=100)
    with pytest.raises(OptionError, match="0 or more"):
        DEFAULT.changed(coarse_rows=-1)
    with pytest.raises(OptionError, match="3 of 5 classes"):
        search(train, held, on_part(HALVING, 3), PLAIN, crew)
    labels = np.eye(5, dtype=np.uint8)[train.labels]
    hot = rows_of_array(np.concatenate([b.read() for b in train.blocks]), labels, 5)
    with pytest.raises(OptionError, match="several classes"):
        search(hot, None, on_part(HALVING, 100), PLAIN, crew, metric="map")


def test_programs_ask_for_it_by_name() -> None:
    rows = make_rows(900, 12, 4, noise=2.0)
    X = np.concatenate([block.read() for block in rows.blocks])
    found = sweep(X, rows.labels, protocol=PROTOCOLS["clip-paper"], coarse_rows=200).sweep

    assert found is not None
    assert found.coarse is not None
    part = found.coarse
    assert abs(part.rows - 200) <= 2
    assert found.stages == (
        f"{len(found.points)} values on all {part.of} rows, after {len(part.points)} on "
        f"{part.rows} of them"
    )


def test_a_fit_at_a_C_already_fitted_goes_on_from_there(crew: Crew) -> None:
    trainer = make_trainer(cut(0)[0], PLAIN, crew)
    trainer.fit(1e-3, Tolerance())
    trainer.fit(100.0, Tolerance(gap=1e-3, decrement=1e-4))

    assert trainer.solver.bridge(math.log(100.0)) == []  # type: ignore[union-attr]
