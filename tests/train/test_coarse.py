"""A search on a part of the rows first: the same choice, recorded, and only where it was asked."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from train_factories import make_rows

from linprobe import LinprobeError, sweep
from linprobe.errors import OptionError
from linprobe.records import plain
from linprobe_train.protocol.coarse import Around, coarse_grid, part_trials
from linprobe_train.protocol.cuts import stratified_part, stratified_tenth
from linprobe_train.protocol.protocols import (
    BAND_GRID,
    HALVING,
    PROTOCOLS,
    Grid,
    best_C,
    list_grid,
    protocol_named,
)
from linprobe_train.protocol.search import Search, search
from linprobe_train.scores.metrics import score_value
from linprobe_train.solver.fit import FitSettings, make_trainer
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.rows import Rows

PLAIN = FitSettings(normalize=False)


def cut(seed: int, n: int = 1500, k: int = 5) -> tuple[Rows, Rows]:
    rows = make_rows(n, 12, k, seed=seed, noise=2.0)
    held = stratified_tenth(rows.labels, 0) | stratified_tenth(rows.labels, 1)
    return rows.select(~held), rows.select(held)


def on_part(grid: Grid, rows: int) -> Grid:
    return msgspec.structs.replace(grid, coarse_rows=rows)


def searched(grid: Grid, seed: int, crew: Crew, **options: object) -> Search:
    return search(*cut(seed), grid, PLAIN, crew, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_a_peak_of_all_rows_with_both_its_neighbours(seed: int, crew: Crew) -> None:
    chosen = searched(on_part(HALVING, 300), seed, crew)
    whole = searched(HALVING, seed, crew)
    assert chosen.sweep is not None
    assert whole.sweep is not None
    assert chosen.sweep.coarse is not None
    trainer = make_trainer(cut(seed)[0], PLAIN, crew)
    scores = {}
    for point in chosen.sweep.points:
        trainer.fit(point.C, Tolerance(gap=1e-9, decrement=0, max_iter=5000))
        p = trainer.probe(point.C).probabilities(cut(seed)[1])
        scores[point.C] = score_value("top1", p, cut(seed)[1].labels)

    assert chosen.sweep.C == best_C(scores)
    at = round(8 * math.log10(chosen.sweep.C))
    tried = {round(8 * math.log10(C)) for C in scores}
    assert {at - 1, at + 1} <= tried
    assert max(scores.values()) >= max(point.score for point in whole.sweep.points) - 0.005
    assert len(chosen.sweep.points) < len(whole.sweep.points)


def test_most_passes_are_over_the_part(crew: Crew) -> None:
    chosen, whole = searched(on_part(HALVING, 300), 0, crew), searched(HALVING, 0, crew)
    assert chosen.sweep is not None
    assert whole.sweep is not None
    passes = [sum(f.passes for p in s.sweep.points for f in p.fits) for s in (chosen, whole)]  # type: ignore[union-attr]


