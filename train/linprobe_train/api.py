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
    """Fit one probe: the minimum of ``C sum_i w_i loss_i + ||W||^2 / 2``, intercept free.

    The loss is scikit-learn's: multinomial for three classes and more, one logit for two, and one
    logit a class for multi-label rows.

    Parameters
    ----------
    features : a stored split, or an array (n, d) of numbers. float16 and float32 are not copied;
        float64 is used as such only where ``settings.arithmetic`` is ``float64``.
    labels : (n,) class ids 0 to k - 1, or (n, k) multi-hot of 0 and 1; a stored split brings its
        own.
    C : inverse L2 strength, > 0, scikit-learn's meaning.
    tap : which features of a stored split: ``embedding``, ``cls+patch_mean``, ``last4``, ...
    settings : preparation, class weights, solver, threads, memory; the default L2-normalises rows.
    tolerance : when to stop; the default asks for a rigorous relative gap of 1e-6.
    sample_weight : (n,) weights >= 0, not all 0.

    Returns
    -------
    probe : takes raw features; see :class:`Probe`.
    report : how the fit ended. ``converged`` is False where no test was met: that is no exception.

    Raises
    ------
    DataError : shapes, labels or values that no probe can be fitted on.
    OptionError : C or the memory limit is out of range.
    IntegrityError : a stored split is damaged, or changed while it was read.

    Examples
    --------
    >>> import numpy as np
    >>> from linprobe import fit_probe
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 3
    >>> X = np.eye(3)[y] + 0.1 * rng.standard_normal((60, 3))
    >>> probe, report = fit_probe(X, y, C=10.0)
    >>> probe.coef.shape, report.converged
    ((3, 3), True)
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
    """Choose C by a protocol on rows that are held out; fit on everything.

    Parameters
    ----------
    features, labels : the training rows, as in :func:`fit_probe`.
    val, val_labels : the rows C is chosen on, as ``features`` and ``labels``; None cuts them from
        the training rows. The default protocol has 5 folds over all rows where val has less than
        100. They may have classes that the training rows lack.
    protocol : values of C, how one is chosen, and preparation; its tap is used for stored splits.
    metric : held-out score that C is chosen by, a name of :mod:`linprobe_train.scores.metrics`;
        losses are minimised. None for the protocol's rule: ``default`` chooses by likelihood.
    folds : folds of cross-validation over all rows, C by the best score; 0 for the protocol's rule.
    coarse_rows : where there are more rows to fit, about so many of them, a stratified part, are
        searched first, and all rows only around what the part leaves in doubt. 0 for all rows.
    seed : of the cut, the folds or the part.
    settings : class weights, solver, threads, memory; its preparation is the protocol's.

    Returns
    -------
    The probe fitted on all rows at the chosen C (``.probe``), the report of that fit (``.fit``),
    the curve over C (``.sweep``), the temperature of its probabilities (``.temperature``), and what
    a reader must know (``.warnings()``).

    Raises
    ------
    DataError : as in :func:`fit_probe`; also val of another encoder or dimension.
    OptionError : a metric that does not exist for these labels, or that C cannot be chosen by;
        too little memory; ``coarse_rows`` below the number of classes, for rows with several
        classes, or for a single C.
    IntegrityError : as in :func:`fit_probe`.

    Examples
    --------
    >>> import numpy as np
    >>> from linprobe import sweep
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(300) % 3
    >>> X = np.eye(3)[y] + 0.3 * rng.standard_normal((300, 3))
    >>> search = sweep(X[:200], y[:200], val=X[200:], val_labels=y[200:])
    >>> search.fitted_on.n, search.fit.converged
    (300, True)
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
