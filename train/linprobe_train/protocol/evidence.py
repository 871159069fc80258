"""What a fit on its way says of the held-out rows: a score is an interval until they are decided.

Let z be the logits of a row and delta their change over the step L-BFGS is about to take, p the
class predicted and c another one. A gap of the objective does not say which rows can still change
sides: the rest of the way can. It is longer than the step, and its size is alike in all rows:

    undecided where z_p - z_c <= CERTAIN * hypot(delta_p - delta_c, rms)

for any c of a row that is right, for c = its label of a row that is wrong; rms is that of
delta_p - delta_c over the rows, with c the second class or the label. The score of the rows that
are right and decided is the lower end, with all that could come right the upper.
"""

import math
from dataclasses import dataclass, replace
from operator import add
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from linprobe_store.format.spec import LabelArray
from linprobe_train.scores.metrics import metric_named
from linprobe_train.scores.predictions import Predictions
from linprobe_train.solver.fit import Trainer
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.path import PathSolver
from linprobe_train.solver.preparation import Arithmetic, Float64, Preparation, Real
from linprobe_train.solver.problem import READ_BYTES, Sizes
from linprobe_train.solver.rows import Rows, spans_of

CERTAIN = 10.0
"""Steps that the rest of the way is taken for. Over 160 fits on five sets of CLIP features with
3,114 checks none of 10 was wrong; 5 was in 27."""

NEAR = 4.0
"""Bands around the boundary whose rows later checks of the same fit read again."""

SAMPLED = 256
"""Rows that every check reads, wherever they lie: too few tell nothing of how far a step goes."""

NOISE = 2.0
"""Rounding errors of a logit, in units of the arithmetic's, times the sizes of row and weights."""

LOOK_VALUES = 2**18
"""Logits and changes of them that are looked at at once."""

INTERVALS = ("top1", "mean_per_class")
"""Metrics that only ask which rows are right, and grow with each."""

FLOOR = Tolerance(gap=1e-8, decrement=1e-10)
"""Where float32 has nothing left to say of rows that are undecided."""

FLOOR_64 = Tolerance(gap=1e-11, decrement=0)
"""The same of float64."""


Verdicts: TypeAlias = tuple[NDArray[np.int64], Float64, Float64]
"""Of rows: predicted columns (b,), rests (2, b), squared changes (b,); see :func:`_verdicts`."""


@dataclass(frozen=True)
class Evidence:
    """A score, and what it can still become."""

    value: float
    """With every row where it is now."""
    low: float
    """With every undecided row wrong."""
    high: float
    """With every undecided row right."""
    undecided: int
    """How many those are."""


def standard_error(score: float, n: int) -> float:
    """Of a share of n rows that are right."""
    return math.sqrt(score * (1 - score) / n)


def can_judge(trainer: Trainer, metric: str) -> bool:
    """Whether a score by this metric has an interval while the trainer fits."""
    return metric in INTERVALS and isinstance(trainer.solver, PathSolver)


def look_bytes(sizes: Sizes) -> int:
    """Of a :class:`Judge` that looks: both places turned, a block of rows, margins of some."""
    values = min(LOOK_VALUES, 2 * sizes.logits)
    return 56 * sizes.place + READ_BYTES * sizes.block + 80 * values


class Judge:
    """Reads the held-out rows as one fit goes on, until their score is known, or cannot win.

    Known is, with ``noise``, what is undecided by no more than so many of its standard errors.
    """

    def __init__(
        self, trainer: Trainer, held_out: Rows, metric: str, to_beat: float, noise: float = 0.0
    ) -> None:
        self.evidence = Evidence(0.0, 0.0, 1.0, held_out.n)
        """What the last look gave."""
        self._problem, self._fitted, self._held_out = trainer.problem, trainer.fitted, held_out
        self._crew = trainer.crew
        self._metric, self._to_beat, self._noise = metric_named(metric), to_beat, noise
        self._arithmetic: Arithmetic = trainer.problem.preparation.arithmetic
        place = np.searchsorted(self._fitted, held_out.labels).clip(max=len(self._fitted) - 1)
        self._own = np.where(self._fitted[place] == held_out.labels, place, -1)
        self._predicted = np.zeros(held_out.n, np.int64)
        self._near = np.ones(held_out.n, bool)
        self._sample = np.arange(0, held_out.n, max(1, held_out.n // SAMPLED))

    def in_float64(self, to_beat: float) -> None:
        """Look in float64 from now on, at every row again."""
        self._arithmetic, self._to_beat = "float64", to_beat
        self._near[:] = True

    def __call__(self, V: Float64, step: Float64) -> bool:
        """Whether a fit at V, (m, d + 1), about to move by -step, has said enough."""
        undecided = np.zeros(len(self._near), bool)
        if self._near.any():
            near = np.flatnonzero(self._near)
            self._predicted[near], rests, moved = self._look(V, step)
            square = float(np.mean(moved[np.isfinite(moved)], dtype=np.float64)) * CERTAIN**2
            undecided[near] = rests[0] <= square
            self._near[near] = rests[1] <= NEAR**2 * square
            self._near[self._sample] = True
        self.evidence = self._score(undecided)
        low, high = self.evidence.low, self.evidence.high
        open_share = self._noise * standard_error(self.evidence.value, self._held_out.n)
        return high - low <= open_share or high < self._to_beat

    def _look(self, V: Float64, step: Float64) -> Verdicts:
        problem = self._problem
        preparation = replace(problem.preparation, arithmetic=self._arithmetic)
        both = np.concatenate([V, step])
        columns = (problem.rotation @ both[:, :-1].T).astype(self._arithmetic)
        offset, mean = (a.astype(self._arithmetic) for a in (both[:, -1], problem.mean))
        size = float(np.sqrt(np.square(V).sum(axis=1).max()))
        read = LookAt(preparation, mean, columns, offset, size, self._near, self._own)
        parts = self._crew.total(self._held_out, read, add)
        predicted, rests, moved = zip(*parts, strict=True)
        return np.concatenate(predicted), np.concatenate(rests, axis=1), np.concatenate(moved)

    def _score(self, undecided: NDArray[np.bool_]) -> Evidence:
        labels, top = self._held_out.labels, self._fitted[self._predicted]
        right = top == labels
        worst = np.where(undecided & right, -1, top)
        best = np.where(undecided & ~right, labels, top)
        value, low, high = (self._value(labels, classes) for classes in (top, worst, best))
        return Evidence(value, low, high, int(undecided.sum()))

    def _value(self, labels: LabelArray, top: NDArray[np.int64]) -> float:
        none = np.zeros((len(top), 0))
        rows = Predictions(np.array([], np.str_), labels, top[:, None], none, none)
        return self._metric.statistic(rows)(np.ones(len(top)))


@dataclass(frozen=True)
class LookAt:
    """Reads logits and their changes of some held-out rows."""

    preparation: Preparation
    """Of the rows."""
    mean: Real
    """(d,) subtracted from them."""
    columns: Real
    """(d, 2m) W' of the place and of the step."""
    offset: Real
    """(2m,) b of both."""
    size: float
    """Norm of the longest column of the place."""
    near: NDArray[np.bool_]
    """(n,) the rows that are looked at."""
    own: NDArray[np.int64]
    """(n,) columns of their labels, or -1."""

    def __call__(self, rows: Rows, first: int) -> tuple[Verdicts, ...]:
        """Verdicts on some rows, the first of them being row ``first``."""
        parts, eps = [], np.finfo(self.columns.dtype).eps
        for start, block in rows.pairs():
            place = first + start + np.flatnonzero(self.near[first + start :][: block.n])
            if not len(place):
                continue
            x = self.preparation.apply(block.at(place - first - start).read())
            x -= self.mean
            noise = NOISE * eps * self.size * np.sqrt(1 + np.square(x).sum(1))
            for part in spans_of(len(x), max(1, LOOK_VALUES // len(self.offset))):
                z = x[part] @ self.columns + self.offset
                parts.append(_verdicts(z, self.own[place[part]], noise[part]))
        return tuple(parts)


def _verdicts(both: Real, own: NDArray[np.int64], noise: Real) -> Verdicts:
    """Read rows with logits and their changes side by side, (b, 2m), and label columns (b,) or -1.

    Predicted columns (b,); least margin^2 - (f CERTAIN change)^2 for f = 1 and NEAR, (2, b); the
    squared change against the second class or the label, (b,), NaN where there is no such column.
    """
    z, change = np.split(both.astype(np.float64), 2, axis=1)
    if z.shape[1] == 1:
        z, change = (np.concatenate([np.zeros_like(a), a], axis=1) for a in (z, change))
    rows, predicted = np.arange(len(z)), z.argmax(axis=1)
    margin = np.maximum(z[rows, predicted][:, None] - z - noise[:, None], 0)
    moved = np.square(change[rows, predicted][:, None] - change)
    margin[rows, predicted] = np.inf
    right = predicted == own
    rival = np.where(right, margin.argmin(axis=1), own)
    rests = np.empty((2, len(z)))
    for rest, bands in zip(rests, (CERTAIN, CERTAIN * NEAR), strict=True):
        left = np.square(margin) - bands**2 * moved
        rest[:] = np.where(right, left.min(axis=1), left[rows, rival])
    rests[:, own < 0] = np.inf
    return predicted, rests, np.where(own < 0, np.nan, moved[rows, rival])
