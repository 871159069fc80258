"""The probe: a linear classifier of stored features, as plain arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError
from linprobe_train.solver.losses import Loss, probabilities
from linprobe_train.solver.preparation import (
    Float64,
    Preparation,
)
from linprobe_train.solver.rows import Rows


@dataclass(frozen=True)
class Probe:
    """Weights on raw stored features; row normalisation is a flag, standardisation is folded in."""

    coef: Float64
    """(m, d): m = 1 for two fitted classes, else one row for each."""
    intercept: Float64
    """(m,)"""
    loss: Loss
    """``softmax``, or ``sigmoid`` for two classes and for multi-label."""
    normalize: bool
    """Whether rows are divided by their L2 norm before the product."""
    fitted: NDArray[np.int64]
    """Class ids the probe was fitted on, ascending; other classes get probability 0."""
    n_classes: int
    """k, the classes of the dataset."""
    multi_label: bool
    """Whether classes are predicted independently."""

    def logits(self, rows: Rows) -> Float64:
        """``x @ coef.T + intercept`` for every row, (n, m).

        Raises
        ------
        DataError : rows of another dimension.
        """
        if rows.dim != self.coef.shape[1]:
            raise DataError(
                f"rows have {rows.dim} features; the probe was trained on {self.coef.shape[1]}",
                hint="use features of the encoder and tap the probe was trained on",
            )
        double = rows.blocks[0].features.dtype == np.float64
        preparation = Preparation(self.normalize, arithmetic="float64" if double else "float32")
        columns = np.ascontiguousarray(self.coef.T, dtype=preparation.arithmetic)
        out = np.empty((rows.n, len(self.coef)))
        for start, block in rows.pairs():
            out[start : start + block.n] = preparation.apply(block.read()) @ columns
        out += self.intercept
        return out

    def probabilities(self, rows: Rows) -> Float64:
        """Probability of every class of the dataset, (n, k)."""
        p = self.logits(rows)
        probabilities(p, self.loss)
        if len(self.fitted) == 2 and not self.multi_label:
            p = np.column_stack([1 - p[:, 0], p[:, 0]])
        if len(self.fitted) == self.n_classes:
            return p
        full = np.zeros((rows.n, self.n_classes))
        full[:, self.fitted] = p
        return full


def fold(coef: Float64, intercept: Float64, preparation: Preparation) -> tuple[Float64, Float64]:
    """Weights on prepared rows to weights on (normalised) raw rows: shift and scale go inside."""
    if preparation.scale is not None:
        coef = coef / preparation.scale
    if preparation.shift is not None:
        intercept = intercept - coef @ preparation.shift
    return coef, intercept


@dataclass(frozen=True)
class Outline:
    """What turns fitted weights into a probe of the dataset's classes."""

    fitted: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Class ids with rows, ascending."""
    n_classes: int
    """k of the dataset."""
    multi_label: bool
    """Whether classes are independent."""
    preparation: Preparation
    """What the weights expect of a row."""

    def probe(self, coef: Float64, intercept: Float64) -> Probe:
        """Make the probe from weights on prepared rows, (m, d) and (m,)."""
        coef, intercept = fold(coef, intercept, self.preparation)
        softmax = len(self.fitted) > 2 and not self.multi_label
        return Probe(
            coef,
            intercept,
            "softmax" if softmax else "sigmoid",
            self.preparation.normalize,
            self.fitted,
            self.n_classes,
            self.multi_label,
        )
