"""The loss of a block of rows and its derivative by the logits.

``softmax`` is scikit-learn's multinomial model, ``sigmoid`` its binary one (one column: the second
class) and one-vs-rest (k columns). z (b, m) logits, y labels, w (b,) weights, p probabilities.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linprobe_store.format.spec import LabelArray
from linprobe_train.solver.preparation import Float32, Float64, Real

Loss = Literal["softmax", "sigmoid"]

LEAST_SHARE = 1e-6
"""Of a class whose rows have no weight: its best intercept is minus infinity."""

LOSS_BYTES = 42
"""Of a logit while its loss is computed: five float64 and two flags, by the sigmoid."""

SPAN_ARRAYS = 4
"""Of the size of Z in :func:`loss_of_span`: itself and its products, by the sigmoid three."""


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
    small = np.abs(z)
    np.exp(np.negative(small, out=small), out=small)
    losses = np.log1p(small)
    losses += np.maximum(z, 0)
    np.copyto(z, np.where(z >= 0, 1, small))
    small += 1
    z /= small
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


def loss_of_span(
    kind: Loss, Z: Real, targets: LabelArray, share: Float32, a: Float64
) -> tuple[float, Float64, Float64]:
    """Loss of rows with logits sum_j a_j Z_j, (p, b, m), its gradient and its Hessian in a."""
    p, b, m = Z.shape
    flat = Z.reshape(p, -1)
    P: Real = np.matmul(a.astype(Z.dtype), flat).reshape(b, m)
    if kind == "softmax":
        loss, own = softmax_loss(P, targets.astype(np.int64), share), (np.arange(b), targets)
        gradient = flat @ P.ravel()
        P[own] += share
    else:
        loss = sigmoid_loss(P, targets.astype(np.uint8), share)
        gradient = flat @ P.ravel()
        P += share[:, None] * targets
    weighted = Z * P
    # w p from now on: the second term of the Hessian, w r r', is (w r)(w r)' / w.
    inverse = np.divide(1, share, where=share > 0, out=np.zeros_like(share))
    r = weighted.sum(axis=2) if kind == "softmax" else weighted
    r = (r * np.sqrt(inverse if r.ndim == 2 else inverse[:, None])).reshape(p, -1)
    hessian = flat @ weighted.reshape(p, -1).T - r @ r.T
    return loss, gradient.astype(np.float64), hessian.astype(np.float64)


def loss_of_shares(shares: Float64, kind: Loss) -> float:
    """The least mean loss at W = 0: the entropy of the shares, (m,), or of every column."""
    p = shares if kind == "softmax" else np.stack([shares, 1 - shares])
    return -float((p * np.log(np.maximum(p, 1e-300))).sum())


def logits_of_shares(shares: Float64, kind: Loss) -> Float64:
    """Intercepts (m,) of that loss."""
    p = np.clip(shares, LEAST_SHARE, 1 - LEAST_SHARE)
    logits: Float64 = np.log(p) - (np.log(p).mean() if kind == "softmax" else np.log1p(-p))
    return logits
