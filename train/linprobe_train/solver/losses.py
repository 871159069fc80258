"""The loss of a block of rows and its derivative by the logits.

``softmax`` is scikit-learn's multinomial model, ``sigmoid`` its binary one (one column: the second
class) and one-vs-rest (k columns). z (b, m) logits, y labels, w (b,) weights, p probabilities.

The loss over the span of solutions V_j: V = sum_j a_j V_j has the logits
sum_j a_j Z_j, so F over a, a handful of numbers, needs no product with the rows. Newton's method:

    g_j  = <P - Y, Z_j> + l2 (G a)_j,                 G_jk = <W_j, W_k>
    H_jk = <P * Z_j, Z_k> - sum_i r_ij r_ik + l2 G_jk,  r_ij = sum_c P_ic Z_j,ic

each row times its share of the mean; a sigmoid's columns are rows of their own. Where there is no
room for logits, the pilot rows stand for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from linprobe_store.format.spec import LabelArray
from linprobe_train.solver.preparation import Float32, Float64, Real
from linprobe_train.solver.rows import BLOCK_ROWS

if TYPE_CHECKING:
    from linprobe_train.solver.passes import Crew, Point
    from linprobe_train.solver.problem import Problem

Loss = Literal["softmax", "sigmoid"]

LEAST_SHARE = 1e-6
"""Of a class whose rows have no weight: its best intercept is minus infinity."""

LOSS_BYTES = 42
"""Of a logit while its loss is computed: five float64 and two flags, by the sigmoid."""

SPAN_ARRAYS = 4
"""Of the size of Z in :func:`loss_of_span`: itself and its products, by the sigmoid three."""

NEWTON_STEPS = 8
"""Most steps over the span, which cost no product with the rows; 4 took more passes, 2 many more.
They end sooner where the decrease expected is below a ten-millionth of F."""


SPAN_VALUES = 2**18
"""Logits of all solutions of a span that are combined at once: 1 MB stays in a core's cache."""


PILOT_BYTES = 2**27
"""Most memory for the logits of a span on pilot rows: of many classes, fewer rows stand for all."""


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


@dataclass(frozen=True)
class Lent:
    """A solution of other rows."""

    V: Float64
    """(m, d + 1), [W | b]."""
    logits: Real | None = None
    """(n, m), of these rows, where they are kept."""


def least_of_span(
    problem: "Problem", crew: "Crew", first: "Point", others: "Sequence[Point | Lent]", l2: float
) -> Float64:
    """V of the least F over the span of solutions, (m, d + 1), from the nearest, ``first``, on."""
    if not others:
        return first.V
    basis = [first, *others]
    a = np.zeros(len(basis))
    a[0] = 1
    span = Span(problem, crew, basis, l2)
    if span.pilot:
        # The pilot rows tell how the gradient changes; what it is here, all rows have told.
        exact = np.array([np.vdot(first.gradient, point.V) for point in basis])
        span.tilt = exact + span.gram @ a - span.at(a)[1]
    F, g, H = span.at(a)
    for _ in range(NEWTON_STEPS):
        step = _newton_step(g, H)
        expected = 0.5 * float(g @ step)
        ends = ((t, span.at(a - t * step)) for t in (1, 0.4, 0.16))
        lower = next(((t, end) for t, end in ends if end[0] <= F - 2e-4 * t * expected), None)
        if lower is None:
            break
        a, (F, g, H) = a - lower[0] * step, lower[1]
        if expected < 1e-7 * F:
            break
    V: Float64 = a[0] * first.V
    for share, point in zip(a[1:], others, strict=True):
        V += share * point.V
    return V


def _newton_step(g: Float64, H: Float64) -> Float64:
    """H^-1 g, without the directions that neighbours share to rounding."""
    scale = 1 / np.sqrt(np.maximum(H.diagonal(), 1e-300))
    values, axes = np.linalg.eigh(H * np.outer(scale, scale))
    apart = values > 1e-6 * values[-1]
    kept = axes[:, apart]
    step: Float64 = scale * (kept @ (kept.T @ (scale * g) / values[apart]))
    return step


class Span:
    """F over the combinations of points, by their logits."""

    def __init__(
        self, problem: "Problem", crew: "Crew", basis: "Sequence[Point | Lent]", l2: float
    ) -> None:
        self.pilot = basis[0].logits is None
        """Whether the pilot rows stand for all."""
        weights = [point.V[:, :-1] for point in basis]
        self.gram = l2 * np.array([[np.vdot(W, other) for other in weights] for W in weights])
        """(p, p) inner products of the weights, times l2."""
        self.tilt = np.zeros(len(basis))
        """(p,) gradient to be added: what the pilot rows have wrong where they are compared."""
        self._problem, self._crew, self._basis = problem, crew, basis
        if self.pilot:
            s = len(problem.pilot_rows)
            step = -(-4 * len(basis) * problem.m * s // PILOT_BYTES)
            share = problem.pilot_share[::step]
            self._share = share / share.sum()
            self._targets = problem.targets[problem.pilot_rows[::step]]
            self._turned = np.empty((len(basis), len(share), problem.m), np.float32)
            size = BLOCK_ROWS * step
            list(
                crew.map(self._turn, [slice(i, min(i + size, s), step) for i in range(0, s, size)])
            )

    def _turn(self, span: slice) -> None:
        x, start = self._problem.pilot_block(span), span.start // span.step
        for turned, point in zip(self._turned, self._basis, strict=True):
            z = turned[start : start + len(x)]
            np.matmul(x, point.V[:, :-1].T.astype(np.float32), out=z)
            z += point.V[:, -1].astype(np.float32)

    def at(self, a: Float64) -> tuple[float, Float64, Float64]:
        """F, its gradient (p,) and its Hessian (p, p) at the combination a."""
        n = self._turned.shape[1] if self.pilot else self._problem.n
        rows = max(1, min(BLOCK_ROWS, SPAN_VALUES // (len(a) * self._problem.m)))
        spans = [slice(i, min(i + rows, n)) for i in range(0, n, rows)]
        F = 0.5 * float(a @ self.gram @ a) + float(self.tilt @ a)
        g, H = self.gram @ a + self.tilt, self.gram.copy()
        for loss, gradient, hessian in self._crew.map(lambda span: self._block(span, a), spans):
            F, g, H = F + loss, g + gradient, H + hessian
        return F, g, H

    def _block(self, span: slice, a: Float64) -> tuple[float, Float64, Float64]:
        problem = self._problem
        if self.pilot:
            rows = self._turned[:, span], self._targets[span], self._share[span]
            return loss_of_span(problem.loss, *rows, a)
        Z = np.stack([cast("Real", point.logits)[span] for point in self._basis])
        share = problem.share(span.start, Z.shape[1])
        return loss_of_span(problem.loss, cast("Real", Z), problem.targets[span], share, a)


def loss_of_shares(shares: Float64, kind: Loss) -> float:
    """The least mean loss at W = 0: the entropy of the shares, (m,), or of every column."""
    p = shares if kind == "softmax" else np.stack([shares, 1 - shares])
    return -float((p * np.log(np.maximum(p, 1e-300))).sum())


def logits_of_shares(shares: Float64, kind: Loss) -> Float64:
    """Intercepts (m,) of that loss."""
    p = np.clip(shares, LEAST_SHARE, 1 - LEAST_SHARE)
    logits: Float64 = np.log(p) - (np.log(p).mean() if kind == "softmax" else np.log1p(-p))
    return logits
