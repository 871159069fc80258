"""The solver as a scikit-learn estimator; the adapter of scikit-learn's base classes."""

import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight

from linprobe_train.linear_classifier import LinearClassifier, arithmetic_of, weights_of
from linprobe_train.solver.fit import FitSettings, fit_rows
from linprobe_train.solver.lbfgs import FitReport, Tolerance
from linprobe_train.solver.losses import Loss
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.preparation import Real as Floats
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import rows_of_array

ClassWeight = Mapping[str, float] | Mapping[int, float] | str | None
"""A weight for each label, or ``balanced``."""
Problem = tuple[Floats, NDArray[np.int64], Float64 | None]
"""Rows (n, d), class ids (n,) and weights (n,), None for ones."""
CONSTRAINTS: dict[str, list[object]] = {
    "C": [Interval(Real, 0, np.inf, closed="neither")],
    "normalize": ["boolean"],
    "standardize": ["boolean"],
    "class_weight": [Mapping, StrOptions({"balanced"}), None],
    "gap": [Interval(Real, 0, None, closed="left"), None],
    "max_iter": [Interval(Integral, 0, None, closed="left")],
    "n_jobs": [
        Interval(Integral, 1, None, closed="left"),
        Interval(Integral, None, -1, closed="right"),
        None,
    ],
    "warm_start": ["boolean"],
}
"""Of parameters, in scikit-learn's terms: its errors name the parameter and what it may be."""
GAP = 1e-6
"""Relative gap of the objective, where none is asked for."""
LAST_BITS = 1e-17
"""The same where a pass takes less than a millisecond: two fits of one objective then agree to
seven digits."""
FEW = 10**5
"""Products of a pass (n d k) that are such a small fit."""


class LinearProbe(LinearClassifier):
    """Logistic regression with scikit-learn's objective and our solver.

    Minimises ``C sum_i w_i loss_i + ||W||^2 / 2`` over W and a free intercept, multinomial for more
    than two classes. Drop-in for ``LogisticRegression(C=C)``, except that it stops at a stated
    relative gap of the objective instead of at a small gradient, and that rows are dense. float32
    rows are fitted in float32 products, at twice the speed; all else in float64.

    Parameters
    ----------
    C : inverse L2 strength, > 0.
    normalize : divide rows by their L2 norm, in ``fit`` and in ``predict``.
    standardize : then give every feature mean 0 and deviation 1; folded into ``coef_``.
    class_weight : None, "balanced", or a weight for each label, 1 where none is given.
    gap : relative objective gap at which to stop, >= 0; None for 1e-6, and for the last bits of
        float64 where they cost nothing: float64 rows with n d k up to 100,000.
    max_iter : most iterations; a fit that ends there warns.
    n_jobs : threads over blocks of rows; None and -1 for all cores that the process may use. Their
        number changes no bit of the result.
    warm_start : go on from the fit before, of the same classes and features.

    Attributes
    ----------
    classes_ : (k,) labels in the order of the columns, of the type that ``fit`` was given.
    coef_ : (k, d) in the dtype of the rows, or (1, d) for two classes; on the rows as given
        (normalised if asked).
    intercept_ : (k,) in the dtype of the rows, or (1,) for two classes.
    n_iter_ : (1,) int, iterations.
    n_features_in_ : d.
    feature_names_in_ : (d,) str, where X has names of columns.
    report_ : the :class:`FitReport`.

    Examples
    --------
    >>> import numpy as np
    >>> from linprobe import LinearProbe
    >>> X = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]])
    >>> LinearProbe(C=10.0).fit(X, ["cat", "cat", "dog", "dog"]).predict([[0.2, 0.8]])
    array(['cat'], dtype='<U3')
    """

    report_: FitReport
    _parameter_constraints: ClassVar[dict[str, list[object]]] = CONSTRAINTS

    def __init__(
        self,
        C: float = 1.0,
        *,
        normalize: bool = False,
        standardize: bool = False,
        class_weight: ClassWeight = None,
        gap: float | None = None,
        max_iter: int = 1000,
        n_jobs: int | None = None,
        warm_start: bool = False,
    ) -> None:
        self.C = C
        self.normalize = normalize
        self.standardize = standardize
        self.class_weight = class_weight
        self.gap = gap
        self.max_iter = max_iter
        self.n_jobs = n_jobs
        self.warm_start = warm_start

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit on rows; gives the estimator itself.

        Parameters
        ----------
        X : (n, d) numbers.
        y : (n,) labels of any kind.
        sample_weight : (n,) weights >= 0; None for ones.

        Raises
        ------
        ValueError : what scikit-learn refuses, parameters out of range included, fewer than two
            classes, and a warm start on other classes or features.
        DataError : what :func:`linprobe.fit_probe` refuses.

        Warns
        -----
        ConvergenceWarning : ``gap`` was not reached.
        """
        rows, ids, weights = self._problem(X, y, sample_weight)
        start = None
        if self.warm_start and hasattr(self, "coef_"):
            start = self._probe(), self.report_.C
            before, k = self.coef_.shape, len(self.classes_)
            if before != (1 if k == 2 else k, rows.shape[1]):
                what = f"{k} classes and {rows.shape[1]} features"
                raise ValueError(f"warm_start: weights of shape {before} do not fit rows of {what}")
        labelled, settings = rows_of_array(rows, ids, len(self.classes_)), self._settings(rows)
        probe, self.report_ = fit_rows(
            labelled, self.C, settings, self._tolerance(rows), sample_weight=weights, start=start
        )
        V = np.column_stack([probe.coef, probe.intercept])
        self.coef_, self.intercept_ = weights_of(V, rows)
        self.n_iter_ = np.array([self.report_.iterations])
        self._warn([self.report_])
        return self

    def _problem(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> Problem:
        """Check parameters and data; sets ``classes_``."""
        self._validate_params()
        rows, labels = self._checked(X, y)
        check_classification_targets(labels)
        self.classes_, ids = np.unique(np.asarray(labels), return_inverse=True)
        if len(self.classes_) < 2:
            what = "This solver needs samples of at least 2 classes in the data, but the data"
            raise ValueError(f"{what} contains only one class: {self.classes_[0]!r}")
        if sample_weight is None and self.class_weight is None:
            return rows, ids, None
        weights = _check_sample_weight(sample_weight, rows, dtype=np.float64, copy=True)
        weights *= compute_class_weight(
            self.class_weight, classes=self.classes_, y=labels, sample_weight=weights
        )[ids]
        return rows, ids, weights

    def _settings(self, rows: Floats) -> FitSettings:
        steps = self.normalize, self.standardize
        return FitSettings(*steps, arithmetic=arithmetic_of(rows), threads=self.n_jobs)

    def _tolerance(self, rows: Floats) -> Tolerance:
        few = rows.dtype == np.float64 and rows.size * len(self.classes_) <= FEW
        gap = self.gap if self.gap is not None else LAST_BITS if few else GAP
        return Tolerance(gap, gap / 50, self.max_iter)

    def _probe(self) -> Probe:
        k = len(self.classes_)
        loss: Loss = "sigmoid" if k == 2 else "softmax"
        coef, intercept = self.coef_.astype(np.float64), self.intercept_.astype(np.float64)
        return Probe(coef, intercept, loss, self.normalize, np.arange(k), k, False)

    def _warn(self, reports: list[FitReport]) -> None:
        gap = GAP if self.gap is None else self.gap
        left = [(fit.bound, fit) for fit in reports if not fit.converged and fit.bound > gap]
        if not left:
            return
        bound, fit = max(left, key=lambda pair: pair[0])
        ended = "in" if fit.stop == "max_iter" else "and could go no further after"
        warnings.warn(
            f"{type(self).__name__} did not converge {ended} {fit.iterations} iterations at C = "
            f"{fit.C:g}: the objective is within {bound:.1e} of its least, relative, not {gap:g}. "
            "Increase max_iter, or scale the features (standardize=True).",
            ConvergenceWarning,
            stacklevel=3,
        )
