"""The solver and the search on plain arrays and on stored splits, for Python programs."""

from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linprobe.errors import DataError, OptionError
from linprobe.names import short_id
from linprobe_store.format.spec import LabelArray
from linprobe_store.handles.split import Split
from linprobe_train.protocol.protocols import DEFAULT, Protocol
from linprobe_train.protocol.search import Search, SearchSettings, search
from linprobe_train.solver.fit import FitSettings, make_trainer
from linprobe_train.solver.lbfgs import FitReport, Tolerance
from linprobe_train.solver.passes import crew_of
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import BLOCK_ROWS, AnyFeatures, Rows, rows_of_array, rows_of_views

Features = Split | ArrayLike
"""A stored split, or an array (n, d)."""


def fit_probe(
    features: Features,
    labels: ArrayLike | None = None,
    *,
    C: float = 1.0,
    tap: str = "embedding",
    settings: FitSettings | None = None,
    tolerance: Tolerance | None = None,
    sample_weight: ArrayLike | None = None,
) -> tuple[Probe, FitReport]:
    """Fit one probe: the minimum of ``C sum_i w_i loss_i + ||W||^2 / 2``, intercept free.

    Parameters
    ----------
    features : a stored split, or an array (n, d); float64 is used as such only where
        ``settings.arithmetic`` is float64.
    labels : (n,) class ids from 0, or (n, k) multi-hot; a stored split brings its own.
    C : inverse L2 strength, > 0, scikit-learn's meaning.
    tap : which features of a stored split.
    settings : preparation, class weights, solver, threads, memory; default :class:`FitSettings`,
        which L2-normalises rows.
    tolerance : when to stop; default a rigorous relative gap of 1e-6.
    sample_weight : (n,) weights >= 0, not all 0.

    Returns
    -------
    The probe, which takes raw features, and a report whose ``converged`` is False rather than an
    exception.

    Raises
    ------
    DataError : shapes, labels or values that no probe can be fitted on.
    OptionError : C or the memory limit is out of range.
    """
    if not 0 < C < float("inf"):
        raise OptionError(f"C = {C:g}; expected a positive number", hint="for example C=1.0")
    settings = settings or FitSettings()
    rows = as_rows(features, labels, tap=tap)
    weights = None if sample_weight is None else _weights(sample_weight, rows.n)
    with crew_of(settings.threads) as crew:
        trainer = make_trainer(rows, settings, crew, weights)
        report = trainer.fit(C, tolerance or Tolerance())
        return trainer.probe(C), report


def sweep(
    features: Features,
    labels: ArrayLike | None = None,
    *,
    val: Features | None = None,
    val_labels: ArrayLike | None = None,
    protocol: Protocol = DEFAULT,
    metric: str = "top1",
    folds: int = 0,
    seed: int = 0,
    settings: FitSettings | None = None,
) -> Search:
    """Choose C by a protocol on val, or on a stratified tenth, or by folds; fit on everything.

    Parameters
    ----------
    features, labels : as in :func:`fit_probe`.
    val, val_labels : the rows C is chosen on; None cuts them from ``features``.
    protocol : values of C and preparation; its tap is used for stored splits.
    metric : held-out score to maximise, a name of :mod:`linprobe_train.scores.metrics`.
    folds : folds of cross-validation over all rows; 0 for one held-out set.
    seed : of the cut or the folds.
    settings : class weights, solver, threads, memory; its preparation is the protocol's.

    Returns
    -------
    The probe fitted on all rows at the chosen C, the report of that fit, and the curve over C.

    Raises
    ------
    DataError : as in :func:`fit_probe`; also val of another encoder or dimension.
    """
    settings = replace(
        settings or FitSettings(),
        normalize=protocol.normalize,
        standardize=protocol.standardize,
    )
    check_same_encoder(features, val)
    train = as_rows(features, labels, tap=protocol.tap)
    held = None
    if val is not None:
        held = as_rows(val, val_labels, tap=protocol.tap, n_classes=train.n_classes)
    with crew_of(settings.threads) as crew:
        how = SearchSettings(protocol.grid, metric, folds, seed)
        return search(train, held, how, settings, crew)


def as_rows(
    features: Features, labels: ArrayLike | None, *, tap: str, n_classes: int | None = None
) -> Rows:
    """View features as rows, without a copy where they are float16 or float32.

    Raises
    ------
    DataError : no labels for an array, other labels for a split, or wrong shapes.
    """
    if isinstance(features, Split):
        if labels is not None:
            raise DataError("a stored split brings its own labels", hint="leave labels out")
        views = list(features.blocks(tap, rows=BLOCK_ROWS))
        return rows_of_views(views, features.labels, len(features.classes))
    if labels is None:
        raise DataError("an array of features needs labels", hint="pass labels of shape (n,)")
    ids = _labels(labels)
    k = ids.shape[1] if ids.ndim == 2 else int(ids.max(initial=0)) + 1
    return rows_of_array(as_matrix(features), ids, max(k, n_classes or 0))


def check_same_encoder(features: Features, other: Features | None) -> None:
    """Refuse two stored splits of different encoders.

    Raises
    ------
    DataError : their encoder ids differ.
    """
    if not (isinstance(features, Split) and isinstance(other, Split)):
        return
    ids = short_id(features.encoder_id), short_id(other.encoder_id)
    if features.encoder_id != other.encoder_id:
        raise DataError(
            f"{features.name} is of encoder {ids[0]} and {other.name} of encoder {ids[1]}",
            hint="use splits of one encoder",
        )


def as_matrix(features: ArrayLike) -> AnyFeatures:
    """View an array of features as (n, d) of a float type; other numbers become float64.

    Raises
    ------
    DataError : it is not a matrix of numbers.
    """
    found = np.asarray(features)
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise DataError(
            f"features of shape {found.shape} and type {found.dtype}; expected numbers (n, d)",
            hint="give one row of features for every sample",
        )
    kind = found.dtype if found.dtype in (np.float16, np.float32) else np.dtype(np.float64)
    return cast("AnyFeatures", found.astype(kind, copy=False))


def _labels(labels: ArrayLike) -> LabelArray:
    found = np.asarray(labels)
    if found.dtype.kind not in "iub" or found.ndim not in (1, 2):
        raise DataError(
            f"labels of shape {found.shape} and type {found.dtype}; expected class ids (n,) or a "
            "multi-hot matrix (n, k)",
            hint="number the classes from 0",
        )
    return found.astype(np.int64) if found.ndim == 1 else found.astype(np.uint8)


def _weights(weights: ArrayLike, n: int) -> NDArray[np.float64]:
    found = np.asarray(weights, np.float64)
    if found.shape != (n,) or not np.isfinite(found).all() or (found < 0).any() or not found.any():
        raise DataError(
            f"row weights of shape {found.shape}; expected ({n},), all >= 0 and not all 0",
            hint="give one weight for every row",
        )
    return found
