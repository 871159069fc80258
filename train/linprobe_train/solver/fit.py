"""Fitting probes on rows: preparation, class weights, missing classes, the choice of solver."""

from dataclasses import dataclass
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linprobe.errors import DataError, OptionError
from linprobe_store.format.spec import LabelArray
from linprobe_train.solver.lbfgs import FitReport, Tolerance
from linprobe_train.solver.memory import MemoryPlan, available_bytes, plan_memory
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.path import PathSolver
from linprobe_train.solver.preparation import (
    Arithmetic,
    Float64,
    Preparation,
    check_features,
    column_moments,
)
from linprobe_train.solver.probe import Outline, Probe
from linprobe_train.solver.problem import make_problem
from linprobe_train.solver.rows import Rows

SolverName = Literal["linprobe", "sklearn"]


@dataclass(frozen=True)
class FitSettings:
    """How to fit, whatever C.

    Parameters
    ----------
    normalize : divide every row by its L2 norm.
    standardize : then give every feature mean 0 and deviation 1 over the training rows.
    balanced : weigh rows by n / (k rows of their class), scikit-learn's
        ``class_weight="balanced"``.
    solver : ``linprobe``, or ``sklearn`` for its ``LogisticRegression``, to compare with.
    arithmetic : type of the prepared rows and of the products with them. float64 takes twice the
        time and the memory, and matters below a relative gap of about 1e-8 only.
    threads : threads over blocks of rows; their number changes no bit of the result.
    memory_bytes : most anonymous memory to use; None for half of what the process may use. Rows
        that do not fit are streamed from disk.

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
    threads: int = 1
    memory_bytes: int | None = None


class Solver(Protocol):
    """Minimises the objective of one problem at many C."""

    def fit(self, C: float, tolerance: Tolerance) -> FitReport:
        """Fit at C."""

    def solution(self, C: float) -> tuple[Float64, Float64]:
        """Coef (m, d) and intercept (m,) on prepared rows of a C already fitted."""

    def start_from(self, coef: Float64, intercept: Float64, C: float) -> None:
        """Start the next fit from weights that solve C on other rows."""


class Trainer:
    """Fits one set of rows at many C."""

    def __init__(self, solver: Solver, outline: Outline) -> None:
        self._solver = solver
        self._outline = outline

    def fit(self, C: float, tolerance: Tolerance) -> FitReport:
        """Fit at C."""
        return self._solver.fit(C, tolerance)

    def probe(self, C: float) -> Probe:
        """Give the probe of a C already fitted."""
        return self._outline.probe(*self._solver.solution(C))

    def start_from(self, probe: Probe, C: float) -> None:
        """Start from the weights of a probe fitted on other rows; of other classes, not at all."""
        weights = self._outline.weights(probe)
        if weights is not None:
            self._solver.start_from(*weights, C)


def fit_rows(
    rows: Rows,
    C: float,
    settings: FitSettings,
    tolerance: Tolerance,
    *,
    sample_weight: ArrayLike | None = None,
) -> tuple[Probe, FitReport]:
    """Fit one probe; ``sample_weight`` is (n,), >= 0 and not all 0.

    Raises
    ------
    DataError : the weights, or what :func:`make_trainer` refuses.
    OptionError : C or ``memory_bytes`` is out of range.
    """
    if not 0 < C < float("inf"):
        raise OptionError(f"C = {C:g}; expected a positive number", hint="for example C=1.0")
    weights = None if sample_weight is None else _checked(sample_weight, rows.n)
    with crew_of(settings.threads) as crew:
        trainer = make_trainer(rows, settings, crew, weights)
        report = trainer.fit(C, tolerance)
        return trainer.probe(C), report


def make_trainer(
    rows: Rows, settings: FitSettings, crew: Crew, sample_weight: Float64 | None = None
) -> Trainer:
    """Check rows and ready them for fitting.

    Raises
    ------
    DataError : fewer than two classes have rows, features are NaN or constant, or class weights are
        asked of multi-label rows.
    OptionError : ``memory_bytes`` is too small.
    """
    fitted = fitted_classes(rows)
    weights = _weights(rows, settings, sample_weight)
    compact = Rows(rows.blocks, _compact(rows.labels, fitted), len(fitted))
    check_features(rows, normalize=settings.normalize)
    preparation = _preparation(rows, settings)
    outline = Outline(fitted, rows.n_classes, rows.multi_label, preparation)
    plan = plan_fit(rows, settings)
    problem = make_problem(compact, preparation, weights=weights, resident=plan.resident)
    if settings.solver == "sklearn":
        from linprobe_train.solver.sklearn import SklearnSolver

        return Trainer(SklearnSolver(problem, crew), outline)
    return Trainer(PathSolver(problem, crew), outline)


def plan_fit(rows: Rows, settings: FitSettings) -> MemoryPlan:
    """Estimate the memory of one fit before it starts.

    Raises
    ------
    DataError : fewer than two classes have rows.
    OptionError : ``memory_bytes`` is too small.
    """
    classes = len(fitted_classes(rows))
    return plan_memory(
        rows.n,
        rows.dim,
        1 if classes == 2 and not rows.multi_label else classes,
        threads=settings.threads,
        limit_bytes=settings.memory_bytes or available_bytes(),
        value_bytes=np.dtype(settings.arithmetic).itemsize,
    )


def fitted_classes(rows: Rows) -> NDArray[np.int64]:
    """Class ids a probe of these rows can know, ascending.

    For multi-label rows, those that some rows have and some have not.

    Raises
    ------
    DataError : fewer than two classes (one, for multi-label rows).
    """
    if rows.multi_label:
        positives = rows.labels.sum(axis=0, dtype=np.int64)
        fitted = np.flatnonzero((positives > 0) & (positives < rows.n))
    else:
        fitted = np.unique(rows.labels)
    if len(fitted) < (1 if rows.multi_label else 2):
        raise DataError(
            f"the {rows.n} training rows are of {len(fitted)} class; expected at least two classes",
            hint="check the labels of the training split",
        )
    return fitted.astype(np.int64)


def _compact(labels: LabelArray, fitted: NDArray[np.int64]) -> LabelArray:
    """Labels numbered by their place among the fitted classes."""
    if labels.ndim == 2:
        return cast("LabelArray", np.ascontiguousarray(labels[:, fitted]))
    return np.searchsorted(fitted, labels).astype(np.int64)


def _weights(rows: Rows, settings: FitSettings, sample: Float64 | None) -> Float64 | None:
    """Row weights, (n,), those of the caller times those of the classes; None for ones."""
    if not settings.balanced:
        return sample
    if rows.multi_label:
        raise DataError(
            "balanced class weights are not defined for multi-label rows", hint="drop --balanced"
        )
    mass = np.ones(rows.n) if sample is None else sample
    per_class = np.bincount(rows.labels, mass, rows.n_classes)
    present = np.count_nonzero(per_class)
    factor = np.divide(mass.sum() / present, per_class, where=per_class > 0, out=per_class.copy())
    weights: Float64 = mass * factor[rows.labels]
    return weights


def _preparation(rows: Rows, settings: FitSettings) -> Preparation:
    shift, scale = None, None
    if settings.standardize:
        shift, scale = column_moments(rows, normalize=settings.normalize)
    return Preparation(settings.normalize, shift, scale, settings.arithmetic)


def _checked(weights: ArrayLike, n: int) -> Float64:
    array = np.asarray(weights, np.float64)
    if array.shape != (n,) or not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise DataError(
            f"row weights of shape {array.shape}; expected ({n},), all >= 0 and not all 0",
            hint="give one weight for every row",
        )
    return array
