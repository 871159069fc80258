"""From rows to a fitted probe: hold rows out, choose C on them, fit all of them at that C."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError
from linprobe.terminal import Progress, Watch, ignore
from linprobe_store.format.spec import LabelArray
from linprobe_train.protocol.protocols import Grid, best_C
from linprobe_train.scores.metrics import metric_named, score_value
from linprobe_train.solver.fit import FitSettings, Trainer, make_trainer
from linprobe_train.solver.lbfgs import FitReport, Tolerance
from linprobe_train.solver.memory import available_bytes
from linprobe_train.solver.passes import Crew
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import Rows

SWEEP_TOLERANCE = Tolerance(gap=5e-4, decrement=1e-4)
"""Looser than the final fit: beyond it, val accuracy moves by less than one row in a thousand while
passes double."""
Trial = tuple[Trainer, Rows]
"""One cut of the data: a trainer on the rows to fit, and the held-out rows that it is scored on."""


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
    """What C was chosen by."""
    points: tuple[SweepPoint, ...]
    """Ascending in C."""
    C: float
    """Best score; of several, the smallest C."""

    def warnings(self) -> tuple[str, ...]:
        """What a reader of the chosen C must know, and can do."""
        lines = []
        if len(self.points) > 1 and self.C in (self.points[0].C, self.points[-1].C):
            lines.append(
                f"the best C, {self.C:g}, is at the edge of the grid: the optimum may lie beyond "
                "it; try further values with --grid"
            )
        best = next(point.score for point in self.points if point.C == self.C)
        ties = [point.C for point in self.points if point.score == best]
        if len(ties) > 1:
            lines.append(
                f"val {self.metric} is the same at {len(ties)} values of C from {ties[0]:g} to "
                f"{ties[-1]:g}; the smallest was taken; a larger val split would tell them apart"
            )
        bad = [p.C for p in self.points if not all(fit.converged for fit in p.fits)]
        if bad:
            lines.append(
                f"the fit did not converge at C = {', '.join(f'{C:g}' for C in bad)} of the "
                "sweep, so these scores may be off; try --standardize, or a --grid without them"
            )
        return tuple(lines)


def run_sweep(trials: Sequence[Trial], grid: Grid, metric: str, watch: Watch = ignore) -> Sweep:
    """Score values of C until the grid is done; ``watch`` sees every point as it is scored."""
    sign = metric_named(metric).sign
    points: dict[float, SweepPoint] = {}
    scores: dict[float, float] = {}
    while wanted := grid.next_values(scores):
        for C in wanted:
            fits, values = [], []
            for trainer, held_out in trials:
                fits.append(trainer.fit(C, SWEEP_TOLERANCE))
                p = trainer.probe(C).probabilities(held_out)
                values.append(score_value(metric, p, held_out.labels))
            score = float(np.mean(values))
            points[C], scores[C] = SweepPoint(C, score, tuple(fits)), sign * score
            passes = sum(fit.passes for fit in fits)
            line = f"  C = {C:<10.3g} val {score:.4f}  ({passes} passes)"
            watch(Progress(len(points), None, "values of C", line=line))
    return Sweep(metric, tuple(points[C] for C in sorted(points)), best_C(scores))


def stratified_tenth(labels: LabelArray, seed: int) -> NDArray[np.bool_]:
    """Mark a tenth of the rows, (n,), and of every class as near as whole rows allow (DINOv2).

    ``DataError``: a class has a single row, or there are fewer than two rows.
    """
    order = _spread_by_class(labels, seed)
    held = np.zeros(len(labels), bool)
    # Every tenth row of the class-sorted order, from the middle of the first ten.
    held[order[min(5, len(order) - 1) :: 10]] = True
    return held


def stratified_folds(labels: LabelArray, k: int, seed: int) -> NDArray[np.int64]:
    """Give every row a fold in 0..k-1, (n,); each class is spread evenly over the folds.

    ``DataError``: k is not in 2..n, or a class has a single row.
    """
    if not 2 <= k <= len(labels):
        what = f"{k} folds of {len(labels)} rows; expected 2 to {len(labels)}"
        raise DataError(what, hint="--cv 5")
    folds = np.empty(len(labels), np.int64)
    folds[_spread_by_class(labels, seed)] = np.arange(len(labels)) % k
    return folds


def _spread_by_class(labels: LabelArray, seed: int) -> NDArray[np.intp]:
    """Shuffled row numbers, sorted by class where rows have one, (n,)."""
    if len(labels) < 2:
        what = "a single training row cannot be split for validation"
        raise DataError(what, hint="fix C with --C")
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 2:
        return order
    single = np.flatnonzero(np.bincount(labels) == 1)
    if len(single):
        what = f"class {single[0]} has a single training row: none of it can be held out"
        hint = "extract a val split, fix C with --C, or give the class more rows"
        raise DataError(f"{what} for validation", hint=hint)
    return order[np.argsort(labels[order], kind="stable")]


@dataclass(frozen=True)
class SplitUse:
    """Which rows were used for something."""

    source: str
    """Such as ``train+val`` or ``a stratified tenth of train``."""
    n: int
    """How many; 0 for none."""


@dataclass(frozen=True)
class Search:
    """A chosen C and the probe fitted there."""

    probe: Probe
    """Fitted on train and val."""
    fit: FitReport
    """How that fit ended."""
    sweep: Sweep | None
    """The curve over C; None where C was given."""
    fitted_on: SplitUse
    """Rows of the final fit."""
    held_out: SplitUse
    """Rows C was chosen on."""


def search(
    train: Rows,
    val: Rows | None,
    grid: Grid,
    settings: FitSettings,
    crew: Crew,
    *,
    metric: str = "top1",
    folds: int = 0,
    seed: int = 0,
    watch: Watch = ignore,
) -> Search:
    """Choose C on val (cut from train where there is none), then fit on train and val.

    A grid of a single C takes no held-out rows; ``folds`` are over train and val together, 0 for
    one held-out set. ``DataError``: rows or labels that no probe can be fitted on.
    """
    everything = train if val is None else train.join(val)
    fitted_on = SplitUse("train" if val is None else "train+val", everything.n)
    sweep, start, held_out = None, None, SplitUse("none", 0)
    if len(grid.values) == 1:
        C = grid.values[0]
    else:
        cuts, held_out = _cuts(train, val, everything, folds, seed)
        share = (settings.memory_bytes or available_bytes()) // len(cuts)
        each = replace(settings, memory_bytes=share)
        trials = [(make_trainer(fit, each, crew), held) for fit, held in cuts]
        sweep = run_sweep(trials, grid, metric, watch=watch)
        C, start = sweep.C, trials[0][0].probe(sweep.C)
        del trials
    trainer = make_trainer(everything, settings, crew)
    if start is not None:
        trainer.start_from(start, C)
    report = trainer.fit(C, Tolerance())
    return Search(trainer.probe(C), report, sweep, fitted_on, held_out)


def _cuts(
    train: Rows, val: Rows | None, everything: Rows, folds: int, seed: int
) -> tuple[list[tuple[Rows, Rows]], SplitUse]:
    """Pairs of rows to fit and rows to score."""
    if folds:
        fold = stratified_folds(everything.labels, folds, seed)
        pairs = [(everything.select(fold != i), everything.select(fold == i)) for i in range(folds)]
        return pairs, SplitUse(f"{folds} stratified folds", everything.n)
    if val is not None:
        return [(train, val)], SplitUse("val", val.n)
    held = stratified_tenth(train.labels, seed)
    cut = train.select(held)
    return [(train.select(~held), cut)], SplitUse("a stratified tenth of train", cut.n)
