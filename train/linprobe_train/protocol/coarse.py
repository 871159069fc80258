"""A search in two stages: where the best C lies from a part of the rows, which it is from all.

A part of the rows at the same l2 is the same problem with more noise, and its solutions are near
those of all rows: each of its rows weighs as much as the rows of its class that it stands for, so
that C means the same l2 as for all rows. With more noise it wants more ridge: the best C of all
rows was between the part's (the same l2) and that times the rows that one of it stands for (the C
of rows that weigh 1). All rows begin in the middle and go on until the best has both neighbours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from linprobe.errors import OptionError
from linprobe_train.protocol.cuts import stratified_part
from linprobe_train.protocol.protocols import Grid
from linprobe_train.protocol.scoring import SweepPoint, Trial
from linprobe_train.solver.fit import FitSettings, make_trainer
from linprobe_train.solver.passes import Crew
from linprobe_train.solver.path import LENT
from linprobe_train.solver.rows import Rows

HALF, QUARTER = 4, 2
"""Eighths of a decade: how finely a part is asked, and how far around its best all rows are."""


@dataclass(frozen=True)
class Coarse:
    """What a part of the rows said."""

    rows: int
    """Rows of the part; of the smallest, where there are folds."""
    of: int
    """Rows that it stands for."""
    C: float
    """Best on it, by the rule of the search."""
    start: float
    """Where all rows began: the value nearest to C times the root of ``of`` / ``rows``."""
    points: tuple[SweepPoint, ...]
    """Its curve, ascending in C."""


@dataclass(frozen=True)
class Around:
    """Values of a grid around one, on until the best has both its neighbours, then the halvings."""

    grid: Grid
    """Whose values."""
    C: float
    """One of them, where to begin."""

    def next_values(self, scores: Mapping[float, float]) -> tuple[float, ...]:
        """Values to fit next, the most promising first; see :meth:`.Grid.next_values`."""
        C_of, known = self.grid.places, set[int]()
        peak = next(e for e, C in C_of.items() if C == self.C)
        first = max(QUARTER, min(self.grid.steps, default=QUARTER))
        for step in (first, *(step for step in self.grid.steps if step < first)):
            while not known.issuperset(beside := self._beside(peak, step)):
                known.update(beside)
                missing = tuple(C_of[e] for e in beside if C_of[e] not in scores)
                if missing:
                    return missing
                peak = min(known, key=lambda e: (-scores[C_of[e]], e))
                if step < first:
                    break
        return ()

    def _beside(self, peak: int, step: int) -> list[int]:
        """Places around the best, nearest first."""
        C_of = self.grid.places
        near = {peak - step, peak, peak + step}
        if self.grid.values:
            ratios = {e: abs(math.log10(C / C_of[peak])) for e, C in C_of.items()}
            near = {peak - 1, peak, peak + 1} | {e for e in C_of if ratios[e] < QUARTER / 8 + 0.01}
        return sorted(near & C_of.keys(), key=lambda e: (abs(e - peak), e))


def coarse_grid(grid: Grid) -> Grid:
    """What a part is asked: a list, or a search down to half a decade."""
    return Grid(grid.values, grid.first, tuple(step for step in grid.steps if step >= HALF))


def start_of(grid: Grid, C: float, rows: int, of: int) -> float:
    """The value of a grid, of a search to half a decade, that all rows begin with."""
    first = grid.first[0] if grid.first else 0
    values = (v for e, v in grid.places.items() if grid.values or (e - first) % HALF == 0)
    return min(values, key=lambda value: abs(math.log(value / C / math.sqrt(of / rows))))


def nearest(points: Sequence[SweepPoint], C: float) -> list[float]:
    """Values around C whose solutions fits of more rows start from."""
    return sorted((p.C for p in points), key=lambda known: abs(math.log(known / C)))[:LENT]


def part_trials(
    cuts: Sequence[tuple[Rows, Rows]], count: int, settings: FitSettings, seed: int, crew: Crew
) -> list[Trial]:
    """Trainers on about ``count`` rows of every cut, which weigh as all of its rows do.

    ``OptionError``: rows of several classes, or fewer than one for each class.
    """
    trials = []
    for rows, held_out in cuts:
        if rows.multi_label:
            what = f"--coarse-rows {count} of rows with several classes; expected one class a row"
            raise OptionError(what, hint="leave --coarse-rows out")
        classes = len(np.unique(rows.labels))
        if count < classes:
            what = f"--coarse-rows {count} of {classes} classes; expected at least one row of each"
            raise OptionError(what, hint=f"--coarse-rows {100 * classes}")
        part = stratified_part(rows.labels.astype(np.int64, copy=False), count, seed)
        chosen = rows.select(part)
        sizes, taken = (np.bincount(r.labels, minlength=rows.n_classes) for r in (rows, chosen))
        weights = (sizes / np.maximum(taken, 1))[chosen.labels]
        trials.append((make_trainer(chosen, settings, crew, weights), held_out))
    return trials
