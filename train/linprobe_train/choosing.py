"""Choosing C: fit on training rows, score on held-out rows, never on test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from linprobe_train.descent import FitReport, Tolerance
from linprobe_train.grids import Grid, best_C, next_values
from linprobe_train.metrics import score_value
from linprobe_train.rows import Rows
from linprobe_train.training import Trainer

SWEEP_TOLERANCE = Tolerance(gap=5e-4, decrement=1e-4)
"""Looser than the final fit: beyond it, val accuracy moves by less than one row in a thousand while
passes double."""


@dataclass(frozen=True)
class Trial:
    """One cut of the data: what is fitted and what it is scored on."""

    trainer: Trainer
    """On the training rows of the cut."""
    held_out: Rows
    """The rows scored."""


@dataclass(frozen=True)
class SweepPoint:
    """One value of C."""

    C: float
    """Inverse L2 strength."""
    score: float
    """Held-out score, averaged over the trials."""
    fits: tuple[FitReport, ...]
    """One for each trial."""


@dataclass(frozen=True)
class Sweep:
    """A finished search."""

    metric: str
    """What was maximised."""
    points: tuple[SweepPoint, ...]
    """Ascending in C."""
    C: float
    """Highest score; of several, the smallest C."""

    def warnings(self) -> tuple[str, ...]:
        """What a reader of the chosen C must know."""
        return tuple(_edge(self) + _plateau(self) + _unconverged(self))


def run_sweep(
    trials: Sequence[Trial],
    grid: Grid,
    metric: str,
    tolerance: Tolerance = SWEEP_TOLERANCE,
    told: Callable[[SweepPoint], None] = lambda point: None,
) -> Sweep:
    """Score values of C until the grid is done; every point is told as it is found."""
    points: dict[float, SweepPoint] = {}
    while wanted := next_values(grid, {C: point.score for C, point in points.items()}):
        for C in wanted:
            points[C] = _score(trials, C, metric, tolerance)
            told(points[C])
    chosen = best_C({C: point.score for C, point in points.items()})
    return Sweep(metric, tuple(points[C] for C in sorted(points)), chosen)


def _score(trials: Sequence[Trial], C: float, metric: str, tolerance: Tolerance) -> SweepPoint:
    reports, scores = [], []
    for trial in trials:
        reports.append(trial.trainer.fit(C, tolerance))
        p = trial.trainer.probe(C).probabilities(trial.held_out)
        scores.append(score_value(metric, p, trial.held_out.labels))
    return SweepPoint(C, float(np.mean(scores)), tuple(reports))


def _edge(sweep: Sweep) -> list[str]:
    if len(sweep.points) < 2 or sweep.C not in (sweep.points[0].C, sweep.points[-1].C):
        return []
    return [f"the best C, {sweep.C:g}, is at the edge of the grid: the optimum may lie beyond it"]


def _plateau(sweep: Sweep) -> list[str]:
    best = max(point.score for point in sweep.points)
    ties = [point.C for point in sweep.points if point.score == best]
    if len(ties) < 2:
        return []
    line = (
        f"val {sweep.metric} is the same at {len(ties)} values of C from {ties[0]:g} to "
        f"{ties[-1]:g}; the smallest was taken"
    )
    return [line]


def _unconverged(sweep: Sweep) -> list[str]:
    bad = [p.C for p in sweep.points if not all(fit.converged for fit in p.fits)]
    if not bad:
        return []
    return [f"the fit did not converge at C = {', '.join(f'{C:g}' for C in bad)} of the sweep"]
