"""Predictions of linear weights, as scikit-learn's linear classifiers give them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from linprobe_train.solver.preparation import Arithmetic, Float64, Preparation, Real


# scikit-learn has no types: its bases are Any to the checker, and X and y become arrays unseen.
class LinearClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Predicts from ``classes_`` (k,), ``coef_`` (k, d) and ``intercept_`` (k,).

    For two classes the last two are (1, d) and (1,), of the second class. Rows are divided by their
    L2 norm first where ``normalize`` says so.
    """

    classes_: NDArray[np.generic]
    coef_: Real
    intercept_: Real
    normalize: bool

    def decision_function(self, X: ArrayLike) -> Real:
        """Logits of X, (n, d) numbers.

        Returns
        -------
        (n, k) in the dtype of X, or (n,) of the second class for two classes.

        Raises
        ------
        NotFittedError : before ``fit``.
        """
        check_is_fitted(self)
        rows, _ = self._checked(X, reset=False)
        if self.normalize:
            rows = Preparation(True, arithmetic=arithmetic_of(rows)).apply(rows)
        with np.errstate(invalid="ignore"):  # see crew_of: rows and weights are finite
            logits: Real = rows @ self.coef_.T + self.intercept_
        return logits[:, 0] if logits.shape[1] == 1 else logits

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

    def predict_proba(self, X: ArrayLike) -> Real:
        """Probability of every class for X, (n, d) numbers.

        Returns
        -------
        (n, k) in the dtype of X; columns in the order of ``classes_``, rows sum to 1.

        Raises
        ------
        NotFittedError : before ``fit``.
        """
        z = self.decision_function(X)
        p: Real = softmax(z, axis=1) if z.ndim == 2 else expit(np.stack([-z, z], axis=1))
        return p

    def predict_log_proba(self, X: ArrayLike) -> Real:
        """Logarithm of :meth:`predict_proba`, exact where a probability is too small for a float.

        Returns
        -------
        (n, k) in the dtype of X; columns in the order of ``classes_``.

        Raises
        ------
        NotFittedError : before ``fit``.
        """
        z = self.decision_function(X)
        logs: Real = log_softmax(z, axis=1) if z.ndim == 2 else log_expit(np.stack([-z, z], axis=1))
        return logs

    def _checked(
        self, X: ArrayLike, *y: ArrayLike, reset: bool = True
    ) -> tuple[Real, NDArray[np.generic] | None]:
        """Rows, and labels where there are any: what scikit-learn checks, and the row of a NaN."""
        kinds = [np.float64, np.float32]
        checked = validate_data(self, X, *y, reset=reset, dtype=kinds, ensure_all_finite=False)
        rows, labels = checked if y else (checked, None)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(rows.sum(dtype=np.float64)) or np.isfinite(rows).all(axis=1)
        if not np.all(finite):
            row = int(np.argmin(finite))
            large = f"infinity or a value too large for {rows.dtype}"
            value = "NaN" if np.isnan(rows[row]).any() else large
            raise ValueError(f"Input X contains {value}. The first is in row {row}.")
        return rows, labels


def arithmetic_of(rows: Real) -> Arithmetic:
    """Of the products with rows: float64 rows are used as such."""
    return "float64" if rows.dtype == np.float64 else "float32"


def weights_of(V: Float64, rows: Real) -> tuple[Real, Real]:
    """``coef_`` and ``intercept_`` in the dtype of the rows from [W | b], (k, d + 1)."""
    arithmetic = arithmetic_of(rows)
    return np.ascontiguousarray(V[:, :-1], dtype=arithmetic), V[:, -1].astype(arithmetic)
