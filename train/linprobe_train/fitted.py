"""Probes as Python programs fit them: on any labels, with everything a classifier has."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from msgspec import UNSET
from numpy.typing import ArrayLike, NDArray

from linprobe.errors import DataError
from linprobe_store.format.spec import EncoderSpec
from linprobe_store.handles.split import Split
from linprobe_train import api
from linprobe_train.protocol.protocols import DEFAULT, Protocol
from linprobe_train.protocol.search import Search
from linprobe_train.results.labels import as_labels, kind_of
from linprobe_train.results.probe_file import ProbeCard
from linprobe_train.results.saved_probe import SavedProbe
from linprobe_train.solver.fit import FitSettings
from linprobe_train.solver.lbfgs import FitReport, Tolerance
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import Features


@dataclass(frozen=True, repr=False, kw_only=True)
class FittedProbe(SavedProbe):
    """A probe just fitted; what :func:`fit_probe` and :func:`sweep` return.

    Attributes
    ----------
    labels : (k,) the classes as the labels of the fit had them, in the order of the columns of
        :meth:`predict_proba`.
    fit : how the fit ended; ``converged`` is False where no test was met: that is no exception.
    search : how C was chosen, with its curve and what a reader must know (``search.warnings()``);
        None of :func:`fit_probe`.

    Examples
    --------
    >>> import numpy as np
    >>> from linprobe import fit_probe
    >>> X = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])    # (n, d)
    >>> probe = fit_probe(X, ["cat", "cat", "dog", "dog"], C=10.0)
    >>> probe
    FittedProbe(2 features, 2 classes: cat, dog; C = 10)
    >>> probe.predict(X[2:]), probe.predict_proba(X).shape, probe.score(X, ["cat"] * 4)
    (array(['dog', 'dog'], dtype='<U3'), (4, 2), 0.5)
    """

    labels: NDArray[np.generic]
    fit: FitReport
    search: Search | None = None

    def predict(self, features: Features) -> NDArray[np.generic]:
        """Most probable class of every row, (n,), as the labels of the fit had it.

        Of equal ones the first; raises what :meth:`predict_proba` raises.
        """
        return np.asarray(self.labels[self.predict_proba(features).argmax(axis=1)])


def fit_probe(
    features: Features,
    labels: ArrayLike | None = None,
    *,
    C: float = 1.0,
    tap: str = "embedding",
    settings: FitSettings | None = None,
    tolerance: Tolerance | None = None,
    sample_weight: ArrayLike | None = None,
) -> FittedProbe:
    """Fit one probe: the minimum of ``C sum_i w_i loss_i + ||W||^2 / 2``, intercept free.

    The loss is scikit-learn's: multinomial for three classes and more, one logit for two, and one
    logit a class for multi-label rows.

    Parameters
    ----------
    features : a stored split, or an array (n, d) of numbers. float16 and float32 are not copied;
        float64 is used as such only where ``settings.arithmetic`` is ``float64``.
    labels : (n,) classes by any name: texts, integers or booleans; or (n, k) multi-hot of 0 and 1.
        A stored split brings its own.
    C : inverse L2 strength, > 0, scikit-learn's meaning.
    tap : which features of a stored split: ``embedding``, ``cls+patch_mean``, ``last4``, ...
    settings : preparation, class weights, solver, threads, memory; the default L2-normalises rows.
    tolerance : when to stop; the default asks for a rigorous relative gap of 1e-6.
    sample_weight : (n,) weights >= 0, not all 0.

    Returns
    -------
    The classifier, which takes raw features, with the report of its fit (``.fit``).

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
    >>> names = np.array(["cat", "dog", "eel"] * 20)
    >>> X = np.eye(3)[np.arange(60) % 3] + 0.1 * rng.standard_normal((60, 3))
    >>> probe = fit_probe(X, names, C=10.0)
    >>> probe.predict(X[:3]), probe.probe.coef.shape, probe.fit.converged
    (array(['cat', 'dog', 'eel'], dtype='<U3'), (3, 3), True)
    """
    ids, values = _numbered(features, labels)
    probe, report = api.fit_probe(
        features,
        ids,
        C=C,
        tap=tap,
        settings=settings,
        tolerance=tolerance,
        sample_weight=sample_weight,
    )
    return _fitted(features, probe, report, values, tap)


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
) -> FittedProbe:
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
    The classifier fitted on all rows at the chosen C, with the report of that fit (``.fit``) and
    the choice of C (``.search``: ``sweep``, ``held_out``, ``temperature``, ``warnings()``, ...).

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
    >>> y = np.array(["cat", "dog", "eel"] * 100)
    >>> X = np.eye(3)[np.arange(300) % 3] + 0.3 * rng.standard_normal((300, 3))
    >>> probe = sweep(X[:200], y[:200], val=X[200:], val_labels=y[200:])
    >>> probe.search.fitted_on.n, probe.fit.converged, probe.score(X, y) > 0.9
    (300, True, True)
    """
    ids, values = _numbered(features, labels, val, val_labels)
    given = None if ids is None else len(ids)
    n_train = given if labels is None or ids is None else len(np.asarray(labels))
    search = api.sweep(
        features,
        None if ids is None else ids[:n_train],
        val=val,
        val_labels=None if ids is None or val_labels is None else ids[n_train:],
        protocol=protocol,
        metric=metric,
        folds=folds,
        coarse_rows=coarse_rows,
        seed=seed,
        settings=settings,
    )
    fitted = _fitted(features, search.probe, search.fit, values, protocol.tap)
    return replace(fitted, search=search)


def _numbered(
    features: Features,
    labels: ArrayLike | None,
    val: Features | None = None,
    val_labels: ArrayLike | None = None,
) -> tuple[NDArray[np.generic] | None, NDArray[np.generic]]:
    """Class ids of the labels, those of val after them, and the classes; DataError for others."""
    if isinstance(features, Split) and labels is None:
        if val is not None and not isinstance(val, Split):
            problem = "the training rows are a stored split, and val is an array"
            raise DataError(problem, hint="give two splits, or two arrays with their labels")
        return None, np.array(features.classes)
    if labels is None:
        raise DataError("an array of features needs labels", hint="pass labels of shape (n,)")
    parts = [as_labels(part) for part in (labels, val_labels) if part is not None]
    first = parts[0]
    if all(part.ndim == 2 for part in parts):
        if any(part.dtype.kind not in "iub" for part in parts):
            hint = "give a multi-hot matrix (n, k) of 0 and 1"
            raise DataError(f"labels of shape {first.shape} and type {first.dtype}", hint=hint)
        return np.concatenate(parts), np.arange(first.shape[1])
    if any(part.ndim != 1 or kind_of(part) is None for part in parts):
        raise DataError(
            f"labels of shape {first.shape} and type {first.dtype}; expected classes (n,) that are "
            "texts, integers or booleans, or a multi-hot matrix (n, k)",
            hint="give every row the name of its class",
        )
    if len({kind_of(part) for part in parts}) > 1 or kind_of(np.concatenate(parts)) is None:
        problem = "the labels of train are of another kind than those of val"
        raise DataError(problem, hint="give texts, integers or booleans for both")
    values, ids = np.unique(np.concatenate(parts), return_inverse=True)
    return ids.astype(np.int64), values


def _fitted(
    features: Features, probe: Probe, fit: FitReport, labels: NDArray[np.generic], tap: str
) -> FittedProbe:
    spec: EncoderSpec | None = None
    encoder_id = model = dataset = ""
    if isinstance(features, Split):
        spec, encoder_id = features.encoder_spec, features.encoder_id
        model, dataset = features.encoder_names.model, features.dataset_name
    card = ProbeCard(
        encoder_id=encoder_id,
        encoder=model,
        dataset=dataset,
        tap=tap,
        normalize=probe.normalize,
        loss=probe.loss,
        multi_label=probe.multi_label,
        classes=tuple(map(str, labels.tolist())),
        C=fit.C,
        temperature=probe.temperature,
        upright=isinstance(features, Split) and features.dataset_names.upright is True,
        label_kind=kind if (kind := kind_of(labels)) in ("int", "bool") else UNSET,
    )
    return FittedProbe(probe, card, Path(), spec, labels=labels, fit=fit)
