"""The solver and the search on plain arrays (n, d) and on stored splits, for Python programs."""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from linprobe.errors import DataError
from linprobe.names import short_id
from linprobe_store.format.spec import LabelArray
from linprobe_store.handles.split import Split
from linprobe_train.protocol.protocols import DEFAULT, Protocol
from linprobe_train.protocol.search import Search, search
from linprobe_train.readers.choose import readers
from linprobe_train.scores.metrics import score_names
from linprobe_train.solver.fit import FitSettings, fit_rows
from linprobe_train.solver.lbfgs import FitReport, Tolerance
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import (
    Features,
    Rows,
    as_matrix,
    rows_of_array,
    rows_of_split,
)


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
    """Fit one probe on numbered classes; :func:`linprobe_train.fitted.fit_probe` takes any labels.

    Parameters
    ----------
    labels : (n,) class ids 0 to k - 1, or (n, k) multi-hot of 0 and 1; a stored split brings its
        own. All else is as there.

    Returns
    -------
    probe : takes raw features; see :class:`Probe`.
    report : how the fit ended. ``converged`` is False where no test was met: that is no exception.

    Raises
    ------
    DataError, OptionError, IntegrityError : as there.
    """
    rows, settings = as_rows(features, labels, tap=tap), settings or FitSettings()
    tolerance = tolerance or Tolerance()
    with readers(settings) as crew:
        fitted = fit_rows(rows, C, settings, tolerance, sample_weight=sample_weight, crew=crew)
    _check_unchanged(features)
    return fitted


def sweep(
    features: Features,
    labels: ArrayLike | None = None,
    *,
    val: Features | None = None,
    val_labels: ArrayLike | None = None,
    protocol: Protocol = DEFAULT,
    metric: str | None = None,
    folds: int = 0,
    coarse_rows: int = 0,
    seed: int = 0,
    settings: FitSettings | None = None,
) -> Search:
    """Choose C for numbered classes, and fit; :func:`linprobe_train.fitted.sweep` takes any labels.

    Parameters
    ----------
    labels, val_labels : class ids or multi-hot, as in :func:`fit_probe`. All else is as there.

    Returns
    -------
    The probe fitted on all rows at the chosen C (``.probe``), the report of that fit (``.fit``),
    the curve over C (``.sweep``), the temperature of its probabilities (``.temperature``), and what
    a reader must know (``.warnings()``).

    Raises
    ------
    DataError, OptionError, IntegrityError : as there.
    """
    protocol = protocol.changed(coarse_rows=coarse_rows) if coarse_rows else protocol
    settings, protocol = settings or FitSettings(), protocol.asked(metric, folds)
    settings = replace(settings, normalize=protocol.normalize, standardize=protocol.standardize)
    if isinstance(features, Split) and isinstance(val, Split):
        ids = short_id(features.encoder_id), short_id(val.encoder_id)
        if features.encoder_id != val.encoder_id:
            raise DataError(
                f"{features.name} is of encoder {ids[0]} and {val.name} of encoder {ids[1]}",
                hint="use splits of one encoder",
            )
    train, held = as_rows(features, labels, tap=protocol.tap), None
    if val is not None:
        held = as_rows(val, val_labels, tap=protocol.tap, n_classes=train.n_classes)
        if not isinstance(features, Split) and not train.multi_label:
            # Arrays name no classes: val may have some that train lacks.
            train = replace(train, n_classes=held.n_classes)
    usual = score_names(train.n_classes, multi_label=train.multi_label)[0]
    with readers(settings) as crew:
        chosen = search(
            train,
            held,
            protocol.grid,
            settings,
            crew,
            metric=metric or usual,
            rule=protocol.rule,
            folds=folds,
            seed=seed,
        )
    _check_unchanged(features, val)
    return chosen


def _check_unchanged(*splits: Features | None) -> None:
    """Refuse, by an IntegrityError, a stored split whose files changed while they were read."""
    for split in splits:
        if isinstance(split, Split):
            split.check_unchanged()


def as_rows(
    features: Features, labels: ArrayLike | None, *, tap: str, n_classes: int | None = None
) -> Rows:
    """View features as rows, without a copy where they are float16 or float32."""
    if isinstance(features, Split):
        if labels is not None:
            raise DataError("a stored split brings its own labels", hint="leave labels out")
        return rows_of_split(features, tap)
    if labels is None:
        raise DataError("an array of features needs labels", hint="pass labels of shape (n,)")
    array = np.asarray(labels)
    if array.dtype.kind not in "iub" or array.ndim not in (1, 2):
        raise DataError(
            f"labels of shape {array.shape} and type {array.dtype}; expected class ids (n,) or a "
            "multi-hot matrix (n, k)",
            hint="number the classes from 0",
        )
    ids: LabelArray = array.astype(np.int64) if array.ndim == 1 else array.astype(np.uint8)
    k = ids.shape[1] if ids.ndim == 2 else int(ids.max(initial=0)) + 1
    return rows_of_array(as_matrix(features), ids, max(k, n_classes or 0))
