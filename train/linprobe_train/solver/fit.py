"""Fitting probes on rows: preparation, class weights, missing classes, the choice of solver."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linprobe.errors import DataError, OptionError
from linprobe.machine import thread_count
from linprobe_train.solver.lbfgs import FitReport, Judge, Tolerance
from linprobe_train.solver.losses import Loss
from linprobe_train.solver.memory import MemoryPlan, available_bytes, plan_memory
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.path import PathSolver
from linprobe_train.solver.preparation import (
    Arithmetic,
    Float64,
    Preparation,
)
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.problem import Problem, Sizes, make_problem
from linprobe_train.solver.reads.features import check_features, column_moments
from linprobe_train.solver.rows import Rows

if TYPE_CHECKING:
    from linprobe_train.solver.sklearn import SklearnSolver

SolverName = Literal["linprobe", "sklearn"]


@dataclass(frozen=True)
class FitSettings:
    """How to fit, whatever C.

    Parameters
    ----------
    normalize : divide every row by its L2 norm.
    standardize : then give every feature mean 0 and deviation 1 over the training rows.
    balanced : weigh rows by n / (k rows of their class), as scikit-learn's ``balanced`` does.
    solver : ``linprobe``, or ``sklearn`` for its ``LogisticRegression``, to compare with.
    arithmetic : type of the prepared rows and of the products with them. float64 takes twice the
        time and the memory, and matters below a relative gap of about 1e-8 only.
    threads : threads over lanes of rows, None and -1 for all cores that the process may use, fewer
        where memory is short; their number changes no bit of the result.
    memory_bytes : most anonymous memory to use, less than what streaming needs is refused; None for
        half of what the process may use. Rows that do not fit are streamed from disk. The solver
        ``sklearn`` holds all rows in float64 beside it.
    streamed : read the rows from where they are stored at every pass, whatever the memory: the last
        bits are those of a fit over workers, and of one whose rows do not fit.
    workers : address of a Dask scheduler, or how many processes to start here, that read the rows
        of stored splits in the place of this process; they are streamed there. Refused where this
        process is as fast. Needs the extra ``cluster``.
    even_if_slower : do not refuse that.

    Examples
    --------
    >>> FitSettings(standardize=True, threads=4).solver
    'linprobe'
    """

    normalize: bool = True
    standardize: bool = False
    balanced: bool = False
    solver: SolverName = "linprobe"
    arithmetic: Arithmetic = "float32"
    threads: int | None = 1
    memory_bytes: int | None = None
    streamed: bool = False
    workers: str | int | None = None
    even_if_slower: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.solver == "sklearn":
            what = "scikit-learn fits in one process"
            raise OptionError(f"{what}, not over workers", hint="leave --workers or --solver out")

    @property
    def reads_at_every_pass(self) -> bool:
        """Whether rows are streamed, whatever the memory."""
        return self.streamed or self.workers is not None


@dataclass(frozen=True)
class Trainer:
    """Fits one set of rows at many C."""

    solver: "PathSolver | SklearnSolver"
    """Minimises the objective on prepared rows of the fitted classes."""
    preparation: Preparation
    """From a row to a prepared one."""
    fitted: NDArray[np.int64]
    """Class ids with rows, ascending."""
    rows: Rows
    """As given, with the labels of the dataset."""
    crew: Crew
    """Reads rows."""

    @property
    def problem(self) -> Problem:
        """What the solver sees of the rows."""
        return self.solver.problem

    def fit(self, C: float, tolerance: Tolerance, judge: Judge | None = None) -> FitReport:
        """Fit at C, until ``judge``, where there is one, has seen enough."""
        return self.solver.fit(C, tolerance, judge)

    def refine(self, C: float, tolerance: Tolerance, judge: Judge) -> FitReport:
        """Go on at a C already fitted, in float64."""
        return self.solver.refine(C, tolerance, judge)

    def probe(self, C: float) -> Probe:
        """Give the probe of a C already fitted: shift and scale go into its weights."""
        coef, intercept = self.solver.solution(C)
        if self.preparation.scale is not None:
            coef = coef / self.preparation.scale
        if self.preparation.shift is not None:
            intercept = intercept - coef @ self.preparation.shift
        k, multi_label = self.rows.n_classes, self.rows.multi_label
        loss: Loss = "softmax" if len(self.fitted) > 2 and not multi_label else "sigmoid"
        normalize = self.preparation.normalize
        return Probe(coef, intercept, loss, normalize, self.fitted, k, multi_label)

    def borrow(self, probe: Probe, C: float, *, resume: bool = False) -> None:
        """Start from what other rows gave at C too; not from a probe of other classes.

        ``resume`` says that those were such rows as these: fits go on from there.
        """
        if not np.array_equal(probe.fitted, self.fitted):
            return
        coef, intercept = probe.coef, probe.intercept
        if self.preparation.shift is not None:
            intercept = intercept + coef @ self.preparation.shift
        if self.preparation.scale is not None:
            coef = coef * self.preparation.scale
        self.solver.borrow(coef, intercept, C, resume=resume)


def fit_rows(
    rows: Rows,
    C: float,
    settings: FitSettings,
    tolerance: Tolerance,
    *,
    sample_weight: ArrayLike | None = None,
    start: tuple[Probe, float] | None = None,
    crew: Crew | None = None,
) -> tuple[Probe, FitReport]:
    """Fit one probe; ``sample_weight`` is (n,), >= 0 and not all 0. Refusals: ``fit_probe``'s.

    ``start`` is a probe and the C that it was fitted at, on rows such as these; ``crew`` reads
    them, None for threads.
    """
    if not 0 < C < float("inf"):
        raise OptionError(f"C = {C:g}; expected a positive number", hint="for example C=1.0")
    for name in ("gap", "decrement", "max_iter"):
        if not getattr(tolerance, name) >= 0:
            what = f"a tolerance with {name} = {getattr(tolerance, name):g}; expected at least 0"
            raise OptionError(what, hint="for example Tolerance(gap=1e-6)")
    weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
    if weights is not None:
        valid = weights.shape == (rows.n,) and np.isfinite(weights).all() and (weights >= 0).all()
        if not valid or not weights.any():
            what = f"row weights of shape {weights.shape}; expected ({rows.n},), >= 0 and not all 0"
            raise DataError(what, hint="give one weight for every row")
    with crew_of(settings.threads) if crew is None else nullcontext(crew) as crew:
        columns = sizes_of(rows, settings).m
        crew.weigh(rows, columns, normalize=settings.normalize)
        trainer = make_trainer(rows, settings, within_memory(crew, rows, settings), weights)
        if start is not None:
            trainer.borrow(*start, resume=True)
        report = trainer.fit(C, tolerance)
        return trainer.probe(C), report


def make_trainer(
    rows: Rows,
    settings: FitSettings,
    crew: Crew,
    sample_weight: Float64 | None = None,
) -> Trainer:
    """Check rows and ready them for fitting.

    ``DataError``: fewer than two classes, bad features, or class weights for multi-label rows;
    ``OptionError``: ``memory_bytes`` is too small.
    """
    fitted = fitted_classes(rows)
    weights = _weights(rows, settings, sample_weight)
    compact = replace(rows.numbered(fitted), weights=weights)
    check_features(compact, crew, normalize=settings.normalize, standardize=settings.standardize)
    shift, scale = None, None
    if settings.standardize:
        shift, scale = column_moments(compact, crew, normalize=settings.normalize)
    preparation = Preparation(settings.normalize, shift, scale, settings.arithmetic)
    plan = plan_fit(rows, settings)
    problem = make_problem(compact, preparation, weights=weights, resident=plan.resident, crew=crew)
    if settings.solver == "sklearn":
        from linprobe_train.solver.sklearn import SklearnSolver

        return Trainer(SklearnSolver(problem, crew), preparation, fitted, rows, crew)
    solver = PathSolver(problem, crew, kept_logits=plan.logits)
    return Trainer(solver, preparation, fitted, rows, crew)


def within_memory(crew: Crew, rows: Rows, settings: FitSettings) -> Crew:
    """As many of its threads as one fit of these rows has memory for."""
    return crew.at_most(plan_fit(rows, settings).threads)


def plan_fit(rows: Rows, settings: FitSettings) -> MemoryPlan:
    """Plan the memory of one fit; OptionError where too little is allowed."""
    limit = settings.memory_bytes or available_bytes()
    return plan_memory(sizes_of(rows, settings), limit, streamed=settings.reads_at_every_pass)


def sizes_of(rows: Rows, settings: FitSettings) -> Sizes:
    """What the memory of a fit of these rows depends on."""
    classes = len(fitted_classes(rows))
    columns = 1 if classes == 2 and not rows.multi_label else classes
    value = np.dtype(settings.arithmetic).itemsize
    threads, label = thread_count(settings.threads), rows.labels.itemsize * rows.labels[0].size
    fetched = settings.workers is not None
    return Sizes(rows.n, rows.dim, columns, threads, value, label, fetched)


def fitted_classes(rows: Rows) -> NDArray[np.int64]:
    """Class ids a probe of these rows can know, ascending; DataError where they are too few.

    Of multi-label rows, those that some rows have and some have not; one is enough.
    """
    if rows.multi_label:
        positives = rows.labels.sum(axis=0, dtype=np.int64)
        fitted = np.flatnonzero((positives > 0) & (positives < rows.n))
    else:
        fitted = np.unique(rows.labels)
    if len(fitted) < (1 if rows.multi_label else 2):
        what = f"the {rows.n} training rows are of {len(fitted)} class"
        hint = "check the labels of the training split"
        raise DataError(f"{what}; expected at least two classes", hint=hint)
    return fitted.astype(np.int64)


def _weights(rows: Rows, settings: FitSettings, sample: Float64 | None) -> Float64 | None:
    """Row weights, (n,), those of the caller times those of the classes; None for ones."""
    if not settings.balanced:
        return sample
    if rows.multi_label:
        what = "balanced class weights are not defined for multi-label rows"
        raise DataError(what, hint="drop --balanced")
    mass = np.ones(rows.n) if sample is None else sample
    per_class = np.bincount(rows.labels, mass, rows.n_classes)
    present = np.count_nonzero(per_class)
    factor = np.divide(mass.sum() / present, per_class, where=per_class > 0, out=per_class.copy())
    weights: Float64 = mass * factor[rows.labels]
    return weights
