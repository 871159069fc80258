"""From rows to a fitted probe: hold rows out, choose C on them, fit all of them at that C."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from linprobe.terminal import Progress, Watch, ignore
from linprobe_train.protocol.band import BLIND_C, WIDTH, run_band
from linprobe_train.protocol.budget import plan_search
from linprobe_train.protocol.coarse import NOISE, Coarse, around, nearest, part_trials
from linprobe_train.protocol.held_out import HeldOut, cut_rows
from linprobe_train.protocol.protocols import BAND, Grid, Rule, Values, best_C
from linprobe_train.protocol.scoring import (
    ENOUGH,
    Scorer,
    SweepPoint,
    Trial,
    contenders,
    lead_of,
    out_of_fold,
    unfinished,
)
from linprobe_train.protocol.temperature import Temperature, fit_temperature
from linprobe_train.scores.metrics import metric_named
from linprobe_train.solver.fit import FitSettings, make_trainer, sizes_of
from linprobe_train.solver.lbfgs import FitReport, Tolerance
from linprobe_train.solver.passes import Crew
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import Rows


@dataclass(frozen=True)
class Sweep:
    """A finished search."""

    metric: str
    """What C was chosen by."""
    points: tuple[SweepPoint, ...]
    """Ascending in C."""
    C: float
    """Best by the rule."""
    rule: Rule = "score"
    """``score``: the best score; of several, the smallest C. ``nll-band-1``: see :mod:`.band`."""
    coarse: Coarse | None = None
    """The part of the rows searched first, if any; points are of all, as wide as held-out noise."""

    @property
    def stages(self) -> str:
        """For a person, how many values were tried on how many rows."""
        part, values = self.coarse, f"{len(self.points)} values"
        if part is None:
            return values
        return f"{values} on all {part.of} rows, after {len(part.points)} on {part.rows} of them"

    def warnings(self) -> tuple[str, ...]:
        """What a reader of the chosen C must know, and can do."""
        return (*self._of_choice(), *self._of_fits())

    def _of_choice(self) -> list[str]:
        if self.rule == BAND:
            *_, before, last = (point.likelihood for point in self.points)
            falling = before and last and before.nll - last.nll > WIDTH
            if self.C < self.points[-1].C or not falling:
                return []
            line = (
                f"the best C, {self.C:g}, is the largest, and the held-out loss still falls there"
            )
            return [f"{line}: the optimum may lie beyond it; try further values with --grid"]
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
        return lines

    def _of_fits(self) -> list[str]:
        lines = []
        if open_points := contenders(self.points) if self.coarse is None else ():
            rows = max(point.undecided for point in open_points)
            lines.append(
                f"{rows} val rows lie on the boundary of two classes, to float64's precision, at "
                f"C = {', '.join(f'{point.C:g}' for point in open_points)}, and the choice of C = "
                f"{self.C:g} hangs on them; a larger val split would settle it"
            )
        bad = [point.C for point in self.points if unfinished(point)]
        if bad:
            lines.append(
                f"the fit did not converge at C = {', '.join(f'{C:g}' for C in bad)} of the "
                "sweep, so these scores may be off; try --standardize, or a --grid without them"
            )
        return lines


def run_sweep(
    trials: Sequence[Trial],
    grid: Values,
    metric: str,
    watch: Watch = ignore,
    noise: float = 0.0,
) -> Sweep:
    """Score values of C until the grid is done; ``watch`` sees every point as it is scored.

    Every choice, of a peak or of the end, is made on scores that are known as far as it needs; with
    ``noise``, on scores known to so many standard errors of the held-out rows.
    """
    merit, scorer = metric_named(metric).merit, Scorer(trials, metric, noise)
    points: dict[float, SweepPoint] = {}
    scores: dict[float, float] = {}
    refined: set[float] = set()
    while wanted := grid.next_values(scores):
        for C in wanted:
            point = points[C] = scorer.score(C, lead_of(points.values()))
            passes = sum(fit.passes for fit in point.fits)
            line = f"  C = {C:<10.3g} val {point.score:.4f}  ({passes} passes)"
            watch(Progress(len(points), None, "values of C", line=line))
        while not noise and (
            rest := [p for p in contenders(points.values()) if p.C not in refined]
        ):
            refined.add(rest[0].C)
            points[rest[0].C] = scorer.refine(rest[0], lead_of(points.values()))
        scores = {C: merit(point.score) for C, point in points.items()}
    return Sweep(metric, tuple(points[C] for C in sorted(points)), best_C(scores))


@dataclass(frozen=True)
class SplitUse:
    """Which rows were used for something."""

    source: str
    """Such as ``train+val`` or ``a stratified tenth of train``."""
    n: int
    """How many; 0 for none."""


@dataclass(frozen=True)
class Search:
    """A chosen C and the probe fitted there.

    >>> sweep(FeatureStore("features").split("train")).search.probe.coef.shape    # (k, d)
    (4, 12)
    """

    probe: Probe
    """Fitted on train and val."""
    fit: FitReport
    """How that fit ended."""
    sweep: Sweep | None
    """The curve over C; None where C was given."""
    fitted_on: SplitUse
    """Rows of the final fit."""
    held_out: HeldOut
    """Rows C was chosen on."""
    temperature: Temperature | None
    """Fitted on held-out logits by the rule ``nll-band-1`` and over folds; else None."""

    def warnings(self) -> tuple[str, ...]:
        """What a reader of the choice of C must know, and can do."""
        held, lines = self.held_out, []
        if held.never and not held.n:
            lines.append(
                f"no class has two training rows, so none was held out: C = {self.fit.C:g} was not "
                "chosen on this data; give classes more rows, or fix C with --C"
            )
        elif held.never:
            rows = "row is the only one of its" if held.never == 1 else "rows are alone in their"
            lines.append(
                f"{held.never} training {rows} class: in every fit, and never among the rows that "
                "C was chosen on"
            )
        if held.absent:
            lines.append(
                f"{held.absent} of the {held.n} rows of val are of classes without a row in train: "
                "they are wrong at every C on the way, and the final fit has them"
            )
        return (*lines, *(() if self.sweep is None else self.sweep.warnings()))


@dataclass(frozen=True)
class Choice:
    """The choice of C on cuts of the rows."""

    cuts: Sequence[tuple[Rows, Rows]]
    """Rows to fit, and rows to score."""
    settings: FitSettings
    """Of each cut."""
    crew: Crew
    """Shares the work."""
    metric: str
    """What values are scored by."""
    rule: Rule
    """How one is chosen."""
    watch: Watch
    """Sees every point."""

    def run(self, grid: Grid, seed: int) -> tuple[list[Trial], Sweep]:
        """Choose among the grid's values; the trainers that did, of all rows, and the curve."""
        of = min(rows.n for rows, _ in self.cuts)
        if not 0 < grid.coarse_rows < of:
            trials = self._on_all_rows()
            return trials, self._sweep(trials, grid)
        part = part_trials(self.cuts, grid.coarse_rows, self.settings, seed, self.crew)
        coarse = Coarse(min(trainer.rows.n for trainer, _ in part), of)
        self._say(f"on {coarse.rows} of {of} rows:")
        first = self._sweep(part, grid, NOISE)
        n = sum(held.n for _, held in self.cuts)
        values = around(grid, first.points, first.C, self.metric, n)
        near = nearest(first.points, values.start)
        lent = [[(trainer.probe(C), C) for C in near] for trainer, _ in part]
        del part  # makes room
        trials = self._on_all_rows()
        for (trainer, _), probes in zip(trials, lent, strict=True):
            for probe, C in probes:
                trainer.borrow(probe, C)
        self._say(f"on all rows, around C = {values.start:.3g}:")
        sweep = self._sweep(trials, values, NOISE)
        return trials, replace(sweep, coarse=replace(coarse, points=first.points))

    def _sweep(self, trials: list[Trial], values: Values, noise: float = 0.0) -> Sweep:
        if self.rule == BAND:
            tolerance = ENOUGH if noise else Tolerance()
            C, points = run_band(trials, values, self.metric, self.watch, tolerance)
            return Sweep(self.metric, points, C, self.rule)
        return run_sweep(trials, values, self.metric, self.watch, noise)

    def _say(self, line: str) -> None:
        self.watch(Progress(0, None, "values of C", line=line))

    def _on_all_rows(self) -> list[Trial]:
        return [(make_trainer(rows, self.settings, self.crew), held) for rows, held in self.cuts]


def search(
    train: Rows,
    val: Rows | None,
    grid: Grid,
    settings: FitSettings,
    crew: Crew,
    *,
    metric: str = "top1",
    rule: Rule = "score",
    folds: int = 0,
    seed: int = 0,
    after_bytes: int = 0,
    watch: Watch = ignore,
) -> Search:
    """Choose C on held-out rows (see :func:`.cut_rows`), then fit on train and val.

    A grid of a single C takes none; ``folds`` are over train and val together, 0 for what the rule
    does. ``after_bytes`` of memory are the caller's afterwards. ``DataError``: rows or labels that
    no probe can be fitted on; ``OptionError``: C cannot be chosen by the metric, or too little
    memory.
    """
    everything = train if val is None else train.join(val)
    fitted_on = SplitUse("train" if val is None else "train+val", everything.n)
    sweep, temperature, lent, held_out = None, None, [], HeldOut("none", 0)
    C = grid.values[0] if len(grid.values) == 1 else BLIND_C
    cuts: list[tuple[Rows, Rows]] = []
    if len(grid.values) != 1:
        metric_named(metric).check_choice()
        cuts, held_out = cut_rows(train, val, everything, rule, folds=folds, seed=seed)
    plan = plan_search(cuts, everything, grid, settings, after_bytes)
    crew = crew.at_most(plan.threads)
    if cost := crew.weigh(
        everything, sizes_of(everything, settings).m, normalize=settings.normalize
    ):
        watch(Progress(0, None, "values of C", line=cost))
    watch(Progress(0, None, "values of C", line=plan.text()))
    if cuts:
        each = replace(settings, memory_bytes=plan.cut_bytes)
        choice = Choice(cuts, each, crew, metric, rule, watch)
        trials, sweep = choice.run(grid, seed)
        C = sweep.C
        lent = [(trials[0][0].probe(c), c) for c in nearest(sweep.points, C)]
        scored = out_of_fold(trials, C) if rule == BAND or held_out.folds else []
        del trials, choice
        temperature = fit_temperature(scored, held_out.source, crew) if scored else None
    trainer = make_trainer(everything, replace(settings, memory_bytes=plan.final_bytes), crew)
    for probe, c in lent:
        trainer.borrow(probe, c)
    report = trainer.fit(C, Tolerance())
    T = 1.0 if temperature is None else temperature.used
    probe = replace(trainer.probe(C), temperature=T)
    return Search(probe, report, sweep, fitted_on, held_out, temperature)
