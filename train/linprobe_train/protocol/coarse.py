"""A search that begins on a part of the rows: the part says where, all rows say which C.

1. The protocol's own search on the part, whose rows weigh 1: C is that of scikit-learn's objective
   on either number of rows.
2. It begins on all rows at the smallest C whose score is within a standard error of the part's best
   (Breiman et al. 1984, section 3.4.3). What the part has above is a plateau: with a few rows a
   class the classes can be told apart whatever C, and the best place of it is noise. Of 25,000
   remixed rows an eighth is best at C = 750 and within the error from 10 on; all are best at 10.
3. On all rows the neighbours of the peak are fitted until none is better, then those between, as
   the protocol halves its steps. The first step is as wide as what the part leaves in doubt, all
   that is within the error: at a peak a quarter of a decade does, on a plateau it would stay.

Every fit ends where what is undecided of its score is no wider than :data:`NOISE`: to know more of
these held-out rows than they can tell of others took half of the passes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from linprobe.errors import OptionError
from linprobe_train.protocol.cuts import stratified_part
from linprobe_train.protocol.evidence import INTERVALS, standard_error
from linprobe_train.protocol.protocols import Grid
from linprobe_train.protocol.scoring import SweepPoint, Trial
from linprobe_train.solver.fit import FitSettings, make_trainer
from linprobe_train.solver.passes import Crew
from linprobe_train.solver.path import LENT
from linprobe_train.solver.rows import Rows

NOISE = 2.0
"""Width of an interval in standard errors: one on either side."""

LEAST_STEP = 2
"""Eighths of a decade that neighbours are apart at least, before those between: less is noise."""


@dataclass(frozen=True)
class Coarse:
    """A part of the rows that was searched first."""

    rows: int
    """Rows of the part; of the smallest, where there are folds."""
    of: int
    """Rows that it stands for."""
    points: tuple[SweepPoint, ...] = ()
    """Values tried on it, ascending in C."""


@dataclass(frozen=True)
class Around:
    """Values of a grid around one of them."""

    grid: Grid
    """Whose."""
    start: float
    """Where to begin."""
    doubt: int
    """Places from there to the last that the part cannot tell from its best: the first step is as
    wide as can be, and no wider than these."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Places from the peak to the neighbours tried, descending."""
        all_steps, least = (self.grid.steps, LEAST_STEP) if self.grid.steps else ((8, 4, 2, 1), 1)
        steps = tuple(step for step in all_steps if step <= max(self.doubt, least))
        return steps or all_steps[-1:]

    def next_values(self, scores: Mapping[float, float]) -> tuple[float, ...]:
        """Neighbours of the peak to fit next, ascending; () when done.

        Never more values in all than the grid's own search: a peak that still moves then is at the
        edge of what was tried, which is warned of.
        """
        C_of, known = self.grid.places, set[int]()
        at = next(e for e, C in C_of.items() if self.start == C)
        for step in self.steps:
            before = None
            while at != before:
                known |= {at - step, at, at + step} & C_of.keys()
                if missing := [C_of[e] for e in sorted(known) if C_of[e] not in scores]:
                    return tuple(missing[: self.grid.count - len(scores)])
                before, at = at, min(known, key=lambda e: (-scores[C_of[e]], e))
        return ()


def around(grid: Grid, points: Sequence[SweepPoint], C: float, metric: str, n: int) -> Around:
    """Where all rows are searched, from points of a part and its choice, scored on n rows.

    Around the choice itself by metrics that are no share of the rows.
    """
    if metric not in INTERVALS:
        return Around(grid, C, 0)
    best = max(point.score for point in points)
    least = best - standard_error(best, n)
    inside = [C, *(point.C for point in points if point.score >= least)]
    place = {value: e for e, value in grid.places.items()}
    return Around(grid, min(inside), place[max(inside)] - place[min(inside)])


def nearest(points: Sequence[SweepPoint], C: float) -> list[float]:
    """Values around C whose solutions fits of more rows start from."""
    return sorted((p.C for p in points), key=lambda known: abs(math.log(known / C)))[:LENT]


def part_trials(
    cuts: Sequence[tuple[Rows, Rows]], count: int, settings: FitSettings, seed: int, crew: Crew
) -> list[Trial]:
    """Trainers on about ``count`` rows of every cut, with the same share of every class.

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
        trials.append((make_trainer(rows.select(part), settings, crew), held_out))
    return trials
