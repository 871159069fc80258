"""The loss of a block of rows and its derivative by the logits.

``softmax`` is scikit-learn's multinomial model, ``sigmoid`` its binary one (one column: the second
class) and one-vs-rest (k columns). z (b, m) logits, y labels, w (b,) weights, p probabilities.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linprobe_train.solver.preparation import Real

Loss = Literal["softmax", "sigmoid"]


def softmax_loss(z: Real, labels: NDArray[np.int64], weights: Real | None) -> float:
    """Sum of weighted cross-entropies; ``z`` is overwritten with the derivative w (p - y).

    Where the label leads, ``1 - p_y`` and the loss are taken from the sum over the other classes,
    so that both keep their relative accuracy as p_y goes to 1.
    """
    rows = np.arange(len(z))
    z -= z.max(axis=1, keepdims=True)
    label_logit = z[rows, labels]
    np.exp(z, out=z)
    label_term = z[rows, labels]
    z[rows, labels] = 0
    others = z.sum(axis=1)
    total = others + label_term
    losses = np.where(label_logit == 0, np.log1p(others), np.log(total) - label_logit)
    factor = 1 / total
    if weights is not None:
        losses *= weights
        factor *= weights
    z *= factor[:, None]
    z[rows, labels] = -others * factor
    return float(losses.sum(dtype=np.float64))


def sigmoid_loss(z: Real, targets: NDArray[np.uint8], weights: Real | None) -> float:
    """Sum of weighted binary cross-entropies over rows and columns; ``z`` becomes w (p - y).

    ``targets`` is (b, m) of 0 and 1. With s = z for y = 0 and -z for y = 1 the loss is
    log(1 + e^s) and the derivative is +-1 / (1 + e^-s): neither cancels.
    """
    z[targets == 1] *= -1
    small = np.exp(-np.abs(z))
    losses = np.maximum(z, 0) + np.log1p(small)
    z[...] = np.where(z >= 0, 1, small) / (1 + small)
    z[targets == 1] *= -1
    if weights is not None:
        losses *= weights[:, None]
        z *= weights[:, None]
    return float(losses.sum(dtype=np.float64))


def probabilities(z: Real, loss: Loss) -> None:
    """Turn logits (b, m) into probabilities, in place."""
    if loss == "softmax":
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
    else:
        small = np.exp(-np.abs(z))
        z[...] = np.where(z >= 0, 1, small) / (1 + small)
