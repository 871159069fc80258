"""The solver as a scikit-learn estimator; the adapter of scikit-learn's base classes."""

from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from linprobe_train.solver.fit import FitSettings, fit_rows
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.preparation import Arithmetic
from linprobe_train.solver.rows import Rows, rows_of_array


# scikit-learn has no types: its bases are Any to the checker, and X and y become arrays unseen.
class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression with scikit-learn's objective and our solver.

    Minimises ``C sum_i w_i loss_i + ||W||^2 / 2`` over W and a free intercept, multinomial for more
    than two classes. Drop-in for ``LogisticRegression(C=C)``, except that it stops at a stated
    relative gap of the objective instead of at a small gradient. float32 rows are fitted in float32
    products, at twice the speed; all else in float64.

    Parameters
    ----------
    C : inverse L2 strength, > 0.
    normalize : divide rows by their L2 norm, in ``fit`` and in ``predict``.
    standardize : then give every feature mean 0 and deviation 1; folded into ``coef_``.
    class_weight : None, "balanced", or a weight for each label.
    gap : relative objective gap at which to stop. With 1e-18 all of scikit-learn's estimator checks
        pass; with the default, all but the one that ``LogisticRegression`` fails too.
    max_iter : most iterations.
    threads : threads over blocks of rows.

    Attributes
    ----------
    classes_ : (k,) labels in the order of the columns, of the type that ``fit`` was given.
    coef_ : (k, d) float64, or (1, d) for two classes; on the rows as given (normalised if asked).
    intercept_ : (k,) float64, or (1,) for two classes.
    n_iter_ : (1,) int, iterations.
    report_ : the :class:`FitReport`.

    Examples
    --------
    >>> import numpy as np
    >>> from linprobe import LinearProbe
    >>> X = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]])
    >>> LinearProbe(C=10.0).fit(X, ["cat", "cat", "dog", "dog"]).predict([[0.2, 0.8]])
    array(['cat'], dtype='<U3')
    """

    def __init__(
        self,
        C: float = 1.0,
        *,
        normalize: bool = False,
        standardize: bool = False,
        class_weight: Mapping[object, float] | str | None = None,
        gap: float = 1e-6,
        max_iter: int = 1000,
        threads: int = 1,
    ) -> None:
        self.C = C
        self.normalize = normalize
        self.standardize = standardize
        self.class_weight = class_weight
        self.gap = gap
        self.max_iter = max_iter
        self.threads = threads

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit on rows; gives the estimator itself.

        Parameters
        ----------
        X : (n, d) numbers.
        y : (n,) labels of any kind.
        sample_weight : (n,) weights >= 0; None for ones.

        Raises
        ------
        ValueError : what scikit-learn refuses, and fewer than two classes.
        DataError, OptionError : what :func:`linprobe.fit_probe` refuses.
        """
        rows, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, ids = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("Classifier can't train when only one class is present.")
        weights = None
        if sample_weight is not None or self.class_weight is not None:
            weights = _check_sample_weight(sample_weight, rows, dtype=np.float64)
            per_class = compute_class_weight(
                self.class_weight, classes=self.classes_, y=y, sample_weight=weights
            )
            weights = weights * per_class[ids]
        arithmetic: Arithmetic = "float64" if rows.dtype == np.float64 else "float32"
        steps = self.normalize, self.standardize
        settings = FitSettings(*steps, arithmetic=arithmetic, threads=self.threads)
        tolerance = Tolerance(self.gap, self.gap / 50, self.max_iter)
        labelled = rows_of_array(rows, ids, len(self.classes_))
        self.probe_, self.report_ = fit_rows(
            labelled, self.C, settings, tolerance, sample_weight=weights
        )
        self.coef_, self.intercept_ = self.probe_.coef, self.probe_.intercept
        self.n_iter_ = np.array([self.report_.iterations])
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits of X, (n, d) numbers.

        Returns
        -------
        (n, k) float64, or (n,) of the second class for two classes.

        Raises
        ------
        NotFittedError : before ``fit``.
        """
        check_is_fitted(self)
        logits = self.probe_.logits(self._rows(X))
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: ArrayLike) -> NDArray[np.generic]:
        """Most probable class of X, (n, d) numbers.

        Returns
        -------
        (n,) labels of the type that ``fit`` was given.

        Raises
        ------
        NotFittedError : before ``fit``.
        """
        logits = self.decision_function(X)
        best = (logits > 0).astype(int) if logits.ndim == 1 else logits.argmax(axis=1)
        classes: NDArray[np.generic] = self.classes_[best]
        return classes

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of every class for X, (n, d) numbers.

        Returns
        -------
        (n, k) float64; columns in the order of ``classes_``, rows sum to 1.

        Raises
        ------
        NotFittedError : before ``fit``.
        """
        check_is_fitted(self)
        return self.probe_.probabilities(self._rows(X))

    def _rows(self, X: ArrayLike) -> Rows:
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return rows_of_array(rows, np.zeros(len(rows), np.int64), 1)
