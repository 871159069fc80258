"""A search on a part of the rows first: the same choice, recorded, and only where it was asked."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_factories import make_rows

from linprobe import sweep
from linprobe.errors import OptionError
from linprobe_train.protocol.coarse import Around, coarse_grid, part_trials, start_of
from linprobe_train.protocol.cuts import stratified_part, stratified_tenth
from linprobe_train.protocol.protocols import (
    BAND_GRID,
    DEFAULT,
    HALVING,
    PROTOCOLS,
    Grid,
    list_grid,
)
from linprobe_train.protocol.search import search
from linprobe_train.solver.fit import FitSettings, make_trainer
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


@given(st.dictionaries(st.integers(-48, 48), st.integers(0, 9)), st.integers(-12, 12))
@settings(max_examples=40, deadline=None)
def test_all_rows_are_tried_until_the_best_has_both_neighbours(
    landscape: dict[int, int], start: int
) -> None:
    places = HALVING.places
    around, scores = Around(HALVING, places[4 * start]), dict[float, float]()
    order = list[float]()
    while wanted := around.next_values(scores):
        for C in wanted:
            assert C not in scores
            scores[C] = landscape.get(round(8 * math.log10(C)), 0)
            order.append(C)
    best = min(scores, key=lambda C: (-scores[C], C))
    at = round(8 * math.log10(best))

    assert order[0] == places[4 * start]
    beside = {at - 1, at + 1} & places.keys()
    last = {round(8 * math.log10(C)) for C in order[-2:]}
    assert beside <= {round(8 * math.log10(C)) for C in scores} or at in last


def test_lists_and_half_decades_are_climbed_by_their_own_steps() -> None:
    values = PROTOCOLS["dino"].grid.values
    assert Around(PROTOCOLS["dino"].grid, values[20]).next_values({}) == (
        values[20],
        values[19],
        values[21],
    )
    assert Around(BAND_GRID, 1.0).next_values({}) == (1.0, 10**-0.5, 10**0.5)
    assert Around(HALVING, 1e6).next_values({}) == (1e6, 10**5.75)
    assert coarse_grid(HALVING).steps == (8, 4)
    assert coarse_grid(on_part(HALVING, 9)) == coarse_grid(HALVING)


def test_a_part_stands_for_all_rows_at_the_same_l2(crew: Crew) -> None:
    train, held = cut(0)
    (trainer, _), *_ = part_trials([(train, held)], 240, PLAIN, 0, crew)
    whole = make_trainer(train, PLAIN, crew)

    assert abs(trainer.rows.n - 240) <= 2
    assert trainer.problem.total_weight == pytest.approx(whole.problem.total_weight)
    masses = np.bincount(trainer.rows.labels, trainer.problem.weights)
    assert np.allclose(masses, np.bincount(train.labels))
    balanced = replace(PLAIN, balanced=True)
    (trainer, _), *_ = part_trials([(train, held)], 240, balanced, 0, crew)
    assert trainer.problem.total_weight == pytest.approx(train.n)


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_that_of_all_rows_from_the_start(seed: int, crew: Crew) -> None:
    train, held = cut(seed)
    chosen = search(train, held, on_part(HALVING, 600), PLAIN, crew)
    whole = search(train, held, HALVING, PLAIN, crew)
    assert chosen.sweep is not None
    assert whole.sweep is not None
    scores = {point.C: point.score for point in whole.sweep.points}

    for point in chosen.sweep.points:
        assert scores.get(point.C, point.score) == pytest.approx(point.score, abs=0.004)
        assert sum(fit.passes for fit in point.fits) > 0
    best = max(point.score for point in chosen.sweep.points)
    assert best >= max(scores.values()) - 0.004
    assert len(chosen.sweep.points) < len(whole.sweep.points)
    if chosen.sweep.C == whole.sweep.C:
        assert chosen.fit.objective == pytest.approx(whole.fit.objective, rel=1e-6)


def test_default_searches_on_a_part_by_likelihood(crew: Crew) -> None:
    train, held = cut(1)
    chosen = search(train, held, on_part(DEFAULT.grid, 300), PLAIN, crew, rule=DEFAULT.rule)
    whole = search(train, held, DEFAULT.grid, PLAIN, crew, rule=DEFAULT.rule)
    assert chosen.sweep is not None
    assert chosen.sweep.coarse is not None
    assert whole.sweep is not None
    losses = [
        min(point.likelihood.nll for point in found.sweep.points if point.likelihood)
        for found in (chosen, whole)
        if found.sweep
    ]

    assert losses[0] == pytest.approx(losses[1], abs=0.002)
    assert {point.C for point in chosen.sweep.points} <= {p.C for p in whole.sweep.points} | set(
        BAND_GRID.places.values()
    )
    assert chosen.temperature is not None


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

    assert streamed.fit.C == kept.fit.C
    assert streamed.fit.objective == pytest.approx(kept.fit.objective, rel=1e-6)


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
    rows_of_part = found.coarse.rows
    assert abs(rows_of_part - 200) <= 2
    first = f"11 values on {rows_of_part} of {found.coarse.of} rows"
    assert found.stages == f"{first}, then {len(found.points)} on all,"


def test_a_fit_at_a_C_already_fitted_goes_on_from_there(crew: Crew) -> None:
    trainer = make_trainer(cut(0)[0], PLAIN, crew)
    trainer.fit(1e-3, Tolerance())
    trainer.fit(100.0, Tolerance(gap=1e-3, decrement=1e-4))

    assert trainer.solver.bridge(math.log(100.0)) == []  # type: ignore[union-attr]


def test_all_rows_begin_between_the_same_l2_and_the_same_C() -> None:
    assert start_of(HALVING, 1.0, 1000, 8000) == 10**0.5
    assert start_of(HALVING, 1e6, 1000, 8000) == 1e6
    assert start_of(list_grid(1, 10, 100), 1.0, 1000, 2000) == 1.0
