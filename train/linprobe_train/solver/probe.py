"""The probe: a linear classifier of stored features, as plain arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError
from linprobe_train.solver.losses import Loss, probabilities
from linprobe_train.solver.preparation import Float64, Preparation
from linprobe_train.solver.rows import Rows


@dataclass(frozen=True)
class Probe:
    """A linear classifier of raw stored features; standardisation is folded into its weights.

    Attributes
    ----------
    coef : (m, d) float64 weights: m = 1 for two fitted classes, else one row for each.
    intercept : (m,) float64.
    loss : ``softmax``; ``sigmoid`` for two classes and for multi-label rows.
    normalize : whether rows are divided by their L2 norm before the product.
    fitted : (m,) int64 class ids the probe was fitted on, ascending, or (2,) where m = 1; other
        classes get probability 0.
    n_classes : k, the classes of the dataset.
    multi_label : whether classes are predicted independently.
    temperature : what logits are divided by before they become probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> from linprobe_train.solver.rows import rows_of_array
    >>> weights, bias = np.array([[1.0, -1.0]]), np.zeros(1)
    >>> probe = Probe(weights, bias, "sigmoid", False, np.arange(2), 2, False)
    >>> rows = rows_of_array(np.array([[2.0, 2.0]]), np.array([0]), 2)
    >>> probe.probabilities(rows)
    array([[0.5, 0.5]])
    """

    coef: Float64
    intercept: Float64
    loss: Loss
    normalize: bool
    fitted: NDArray[np.int64]
    n_classes: int
    multi_label: bool
    temperature: float = 1.0

    def logits(self, rows: Rows) -> Float64:
        """``x @ coef.T + intercept`` of n rows (n, d), see :class:`Rows`.

        Returns
        -------
        (n, m) float64, natural logarithms of odds up to a constant of each row.

        Raises
        ------
        DataError : rows of another dimension.
        """
        if rows.dim != self.coef.shape[1]:
            what = f"rows have {rows.dim} features; the probe was trained on {self.coef.shape[1]}"
            hint = "use features of the encoder and tap the probe was trained on"
            raise DataError(what, hint=hint)
        double = rows.blocks[0].features.dtype == np.float64
        preparation = Preparation(self.normalize, arithmetic="float64" if double else "float32")
        columns = np.ascontiguousarray(self.coef.T, dtype=preparation.arithmetic)
        out = np.empty((rows.n, len(self.coef)))
        for start, block in rows.pairs():
            features = preparation.apply(block.read())
            with np.errstate(invalid="ignore"):  # see crew_of
                out[start : start + block.n] = features @ columns
        out += self.intercept
        return out

    def probabilities(self, rows: Rows) -> Float64:
        """Probability of every class of the dataset for n rows (n, d).

        Returns
        -------
        (n, k) float64 in [0, 1]; rows sum to 1 unless ``multi_label``.

        Raises
        ------
        DataError : rows of another dimension.
        """
        p = self.logits(rows)
        p /= self.temperature
        probabilities(p, self.loss)
        if len(self.fitted) == 2 and not self.multi_label:
            p = np.column_stack([1 - p[:, 0], p[:, 0]])
        if len(self.fitted) == self.n_classes:
            return p
        full = np.zeros((rows.n, self.n_classes))
        full[:, self.fitted] = p
        return full
