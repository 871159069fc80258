"""Scores of values of C on held-out rows, each known as far as the choice of C needs."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from linprobe_train.protocol.evidence import FLOOR, FLOOR_64, Judge, can_judge
from linprobe_train.scores.metrics import metric_named, score_of
from linprobe_train.scores.predictions import predict
from linprobe_train.solver.fit import Trainer
from linprobe_train.solver.lbfgs import FitReport, Tolerance
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import Rows

Trial = tuple[Trainer, Rows]
"""One cut of the data: a trainer on the rows to fit, and the held-out rows that it is scored on."""


@dataclass(frozen=True)
class Likelihood:
    """What the rule ``nll-band-1`` knows of a value of C."""

    nll: float
    """Mean loss of the held-out rows in nats; of a row at most 36.04."""
    penalty: float
    """(log10(C q) - 4)^2 / 8 nats in all, q the mean squared norm of the prepared rows."""
    in_band: bool
    """Whether the loss is within 0.02 nats a row of the least."""


@dataclass(frozen=True)
class SweepPoint:
    """One value of C."""

    C: float
    """Inverse L2 strength."""
    score: float
    """Held-out score, averaged over the trials, of the fits as far as they went."""
    fits: tuple[FitReport, ...]
    """One for each trial."""
    low: float | None = None
    """Least that fitting on could make of the score; None for metrics without such an interval,
    whose fits are fits to the end."""
    high: float | None = None
    """Most."""
    undecided: int = 0
    """Held-out rows that fitting on could move to another class."""
    likelihood: Likelihood | None = None
    """None where C is chosen by the score."""


def unfinished(point: SweepPoint) -> bool:
    """Whether neither the score is known nor its fits converged."""
    known = point.low is not None and point.low == point.high
    ends = [fit.stop for fit in point.fits if fit.bound > Tolerance().gap]
    return not known and any(stop in ("max_iter", "stalled") for stop in ends)


def contenders(points: Iterable[SweepPoint]) -> list[SweepPoint]:
    """Points with undecided rows that the choice hangs on, ascending in C; none where it is clear.

    It is clear where one point is not below another's most, nor a smaller C's equal to it.
    """
    known = sorted((p for p in points if p.low is not None), key=lambda p: p.C)
    if not known:
        return []
    best = max(known, key=lambda p: (p.low, -p.C))
    rivals = [p for p in known if p is not best and (p.high, best.C) > (best.low, p.C)]
    return [p for p in (best, *rivals) if p.low != p.high] if rivals else []


def lead_of(points: Iterable[SweepPoint]) -> float:
    """Score that some point has for certain."""
    return max((point.low for point in points if point.low is not None), default=-math.inf)


ENOUGH = Tolerance(gap=1e-4, decrement=2e-6)
"""Of fits whose scores need not be known better than held-out rows tell them."""


class Scorer:
    """Scores values of C on trials; ``noise`` is a :class:`.Judge`'s."""

    def __init__(self, trials: Sequence[Trial], metric: str, noise: float = 0.0) -> None:
        self._trials, self._metric, self._noise = trials, metric, noise
        self._judges: dict[float, list[Judge]] = {}

    def score(self, C: float, lead: float) -> SweepPoint:
        """Fit at C until the score is known, or known to stay below ``lead``."""
        fits, values = [], []
        judges = self._judges[C] = []
        for trainer, held_out in self._trials:
            if not can_judge(trainer, self._metric):
                fits.append(trainer.fit(C, ENOUGH if self._noise else Tolerance()))
                count = metric_named(self._metric).top
                rows = predict(trainer.probe(C), held_out, count=count, crew=trainer.crew)
                values.append(score_of(self._metric, rows, held_out.n_classes))
                continue
            to_beat = self._to_beat(lead, judges)
            judge = Judge(trainer, held_out, self._metric, to_beat, self._noise)
            fits.append(trainer.fit(C, FLOOR, judge))
            judges.append(judge)
        if not judges:
            return SweepPoint(C, float(np.mean(values)), tuple(fits))
        return self._point(C, fits)

    def refine(self, point: SweepPoint, lead: float) -> SweepPoint:
        """Go on in float64 where rows are undecided."""
        fits, judges = list(point.fits), self._judges[point.C]
        for i, judge in enumerate(judges):
            if judge.evidence.undecided:
                judge.in_float64(self._to_beat(lead, [*judges[:i], *judges[i + 1 :]]))
                fit = self._trials[i][0].refine(point.C, FLOOR_64, judge)
                fits[i] = replace(fit, passes=fit.passes + fits[i].passes)
        return self._point(point.C, fits)

    def _point(self, C: float, fits: list[FitReport]) -> SweepPoint:
        parts = [judge.evidence for judge in self._judges[C]]
        value, low, high = np.mean([(part.value, part.low, part.high) for part in parts], axis=0)
        undecided = sum(part.undecided for part in parts)
        return SweepPoint(C, float(value), tuple(fits), float(low), float(high), undecided)

    def _to_beat(self, lead: float, others: list[Judge]) -> float:
        """Score of a trial below which the mean stays below the lead, if those to come are 1."""
        seen = sum(judge.evidence.high for judge in others)
        return len(self._trials) * lead - seen - (len(self._trials) - 1 - len(others)) - 1e-9


def out_of_fold(trials: Sequence[Trial], C: float) -> list[tuple[Probe, Rows]]:
    """Probes at C, fitted to the end (a race may have stopped them), with their held-out rows."""
    for trainer, _ in trials:
        trainer.fit(C, Tolerance())
    return [(trainer.probe(C), held) for trainer, held in trials]
