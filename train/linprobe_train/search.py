"""From rows to a fitted probe: hold rows out, choose C on them, fit all of them at that C.

Knows nothing of test rows, stores or files.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from linprobe_train.choosing import Sweep, SweepPoint, Trial, run_sweep
from linprobe_train.descent import FitReport, Tolerance
from linprobe_train.folds import stratified_folds, stratified_tenth
from linprobe_train.grids import Grid, ListGrid
from linprobe_train.memory import available_bytes
from linprobe_train.passes import Crew
from linprobe_train.probe import Probe
from linprobe_train.rows import Rows
from linprobe_train.training import FitSettings, make_trainer


@dataclass(frozen=True)
class SearchSettings:
    """How C is chosen."""

    grid: Grid
    """Values to try; a single value is taken without held-out rows."""
    metric: str
    """Held-out score to maximise."""
    folds: int = 0
    """Folds of cross-validation over train and val together; 0 for one held-out set."""
    seed: int = 0
    """Of the cut or the folds."""


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
    how: SearchSettings,
    settings: FitSettings,
    crew: Crew,
    told: Callable[[SweepPoint], None] = lambda point: None,
) -> Search:
    """Choose C on val (cut from train where there is none), then fit on train and val.

    Raises
    ------
    DataError : rows or labels that no probe can be fitted on.
    """
    everything = train if val is None else train.join(val)
    fitted_on = SplitUse("train" if val is None else "train+val", everything.n)
    sweep, start, held_out = None, None, SplitUse("none", 0)
    if isinstance(how.grid, ListGrid) and len(how.grid.values) == 1:
        C = how.grid.values[0]
    else:
        cuts, held_out = _cuts(train, val, how)
        share = (settings.memory_bytes or available_bytes()) // len(cuts)
        each = replace(settings, memory_bytes=share)
        trials = [Trial(make_trainer(fit, each, crew), held) for fit, held in cuts]
        sweep = run_sweep(trials, how.grid, how.metric, told=told)
        C, start = sweep.C, trials[0].trainer.probe(sweep.C)
        del trials
    trainer = make_trainer(everything, settings, crew)
    if start is not None:
        trainer.start_from(start, C)
    report = trainer.fit(C, Tolerance())
    return Search(trainer.probe(C), report, sweep, fitted_on, held_out)


def _cuts(
    train: Rows, val: Rows | None, how: SearchSettings
) -> tuple[list[tuple[Rows, Rows]], SplitUse]:
    """Pairs of rows to fit and rows to score."""
    if how.folds:
        everything = train if val is None else train.join(val)
        folds = stratified_folds(everything.labels, how.folds, how.seed)
        pairs = [
            (everything.select(folds != i), everything.select(folds == i)) for i in range(how.folds)
        ]
        return pairs, SplitUse(f"{how.folds} stratified folds", everything.n)
    if val is not None:
        return [(train, val)], SplitUse("val", val.n)
    held = stratified_tenth(train.labels, how.seed)
    cut = train.select(held)
    return [(train.select(~held), cut)], SplitUse("a stratified tenth of train", cut.n)
