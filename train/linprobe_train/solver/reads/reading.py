"""How a fit reads its rows, block by block."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from linprobe_store.format.spec import LabelArray
from linprobe_train.solver.losses import Loss, sigmoid_loss, softmax_loss
from linprobe_train.solver.preparation import Float32, Float64, Preparation, Real
from linprobe_train.solver.rows import Rows


@dataclass(frozen=True)
class Reading:
    """How a fit reads its rows: all that a lane needs beside rows and a place."""

    loss: Loss
    """The problem's."""
    preparation: Preparation | None
    """From a stored row to a prepared one; None where rows are in the solver's coordinates."""
    mean: Real
    """(d,) subtracted from prepared rows."""
    total_weight: float
    """S, the sum of the weights of all rows."""

    def blocks(self, rows: Rows) -> Iterator[tuple[slice, Real]]:
        """Centred features (b, d) of every block, with where their rows are among ``rows``."""
        for first, block in rows.pairs():
            features = block.read()
            if self.preparation is not None:
                features = self.preparation.apply(features)
                features -= self.mean
            yield slice(first, first + block.n), cast("Real", features)

    def loss_of(self, rows: Rows, span: slice, z: Real) -> float:
        """Loss of some rows; their logits (b, m) become its derivative by them."""
        weights = None if rows.weights is None else rows.weights[span]
        labels = rows.labels[span]
        if self.loss == "softmax":
            return softmax_loss(z, labels.astype(np.int64, copy=False), weights)
        return sigmoid_loss(z, hot_labels(labels), weights)

    def share(self, weights: Float64 | None, count: int) -> Float32:
        """What each of some rows stands for in the mean, (count,)."""
        if weights is None:
            return np.full(count, 1 / self.total_weight, np.float32)
        return (weights / self.total_weight).astype(np.float32)


def hot_labels(labels: LabelArray) -> NDArray[np.uint8]:
    """Targets of the sigmoid, (b, m) of 0 and 1: of two classes whether it is the second."""
    hot = labels if labels.ndim == 2 else (labels == 1)[:, None]
    return hot.astype(np.uint8, copy=False)
