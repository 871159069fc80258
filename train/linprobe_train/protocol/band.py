"""The rule ``nll-band-1``: C by held-out likelihood, and in a narrow band by the headline metric.

Accuracy on few held-out rows is flat over ten decades of C, and one row moves it; the negative log
likelihood has one clear minimum. With thousands of rows accuracy knows more: so, of the values
whose loss is within 0.02 nats a row of the least, the best in the headline metric is taken.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import add

import numpy as np

from linprobe.terminal import Progress, Watch, ignore
from linprobe_store.format.spec import LabelArray
from linprobe_train.protocol.protocols import Values
from linprobe_train.protocol.scoring import Likelihood, SweepPoint, Trial
from linprobe_train.scores.metrics import metric_named, score_of
from linprobe_train.scores.predictions import Probabilities, join_predictions, predict
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.preparation import Float64, Preparation
from linprobe_train.solver.rows import Rows

BLIND_C = 1e4
"""C where no row can be held out: the middle of the prior."""
WIDTH = 0.02
"""Nats a row above the least loss that the headline metric may take."""
FINAL = Tolerance()
"""How far its fits go on."""
DECADES = 2.0
"""Standard deviation of the prior in decades of C times the mean squared norm of the rows."""


def run_band(
    trials: Sequence[Trial],
    grid: Values,
    metric: str,
    watch: Watch = ignore,
    tolerance: Tolerance = FINAL,
) -> tuple[float, tuple[SweepPoint, ...]]:
    """The chosen C and every point, ascending in C; every fit goes on to the tolerance."""
    n = sum(held_out.n for _, held_out in trials)
    square = mean_square(trials)
    points: dict[float, SweepPoint] = {}
    scores: dict[float, float] = {}
    while wanted := grid.next_values(scores):
        for C in wanted:
            point = points[C] = _score(trials, C, metric, square, tolerance)
            scores[C] = -_loss(point, n)
            passes = sum(fit.passes for fit in point.fits)
            nll = point.likelihood.nll if point.likelihood else math.nan
            line = f"  C = {C:<10.3g} held-out loss {nll:.4f}  ({passes} passes)"
            watch(Progress(len(points), None, "values of C", line=line))
    C, marked = chosen_C([points[C] for C in sorted(points)], n, metric_named(metric).merit)
    return C, tuple(marked)


def chosen_C(
    points: Sequence[SweepPoint], n: int, merit: Callable[[float], float]
) -> tuple[float, list[SweepPoint]]:
    """The best metric in the band; ties to the least loss, then the smaller C. Points are marked.

    ``merit`` makes the larger value of the metric the better one.
    """
    losses = [_loss(point, n) for point in points]
    least = min(losses)
    inside = [loss <= least + WIDTH * n for loss in losses]
    marked = [
        replace(point, likelihood=replace(point.likelihood, in_band=kept))
        for point, kept in zip(points, inside, strict=True)
        if point.likelihood is not None
    ]
    rivals = [
        (-merit(point.score), loss, point.C)
        for point, loss, kept in zip(points, losses, inside, strict=True)
        if kept
    ]
    return min(rivals)[2], marked


def row_losses(p: Probabilities, labels: LabelArray) -> Float64:
    """Loss of every row in nats, at most 36.04, (n,): from p of its label, (n,).

    Of rows with several labels the classes' mean, from p (n, k). A class without a row in the fit
    has p = 0, and would else decide alone.
    """
    own = p[:, None] if labels.ndim == 1 else np.where(labels == 1, p, 1 - p)
    losses: Float64 = -np.log(np.clip(own, np.finfo(np.float64).eps, 1)).mean(axis=1)
    return losses


def mean_square(trials: Sequence[Trial]) -> float:
    """Mean squared norm of the prepared held-out rows: what C is measured in."""
    each = (t.crew.total(held, SquareAt(t.preparation), add) for t, held in trials)
    return math.fsum(each) / sum(held_out.n for _, held_out in trials)


@dataclass(frozen=True)
class SquareAt:
    """Reads the sum of the squared norms of prepared rows."""

    preparation: Preparation
    """Of the rows."""

    def __call__(self, rows: Rows, first: int) -> float:
        """Of some rows."""
        prepared = (self.preparation.apply(block.read()) for block in rows.blocks)
        return sum(float(np.square(x, dtype=float).sum()) for x in prepared)


def _score(
    trials: Sequence[Trial], C: float, metric: str, square: float, tolerance: Tolerance
) -> SweepPoint:
    """Fit at C on every cut; the loss and the metric of all held-out rows together."""
    fits = tuple(trainer.fit(C, tolerance) for trainer, _ in trials)
    count = metric_named(metric).top
    said = [predict(t.probe(C), held, count=count, crew=t.crew) for t, held in trials]
    rows = join_predictions(said)
    penalty = (math.log10(C * square) - math.log10(BLIND_C)) ** 2 / (2 * DECADES**2)
    losses = row_losses(rows.label_probability, rows.labels)
    likelihood = Likelihood(float(losses.mean()), penalty, in_band=False)
    score = score_of(metric, rows, trials[0][1].n_classes)
    return SweepPoint(C, score, fits, likelihood=likelihood)


def _loss(point: SweepPoint, n: int) -> float:
    """Held-out loss of n rows and the prior, in nats."""
    assert point.likelihood is not None
    return n * point.likelihood.nll + point.likelihood.penalty
