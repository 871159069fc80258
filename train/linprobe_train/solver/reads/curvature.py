"""Curvature of the logit columns over the rows of a lane."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linprobe_train.solver.losses import Loss, probabilities
from linprobe_train.solver.preparation import Float32, Float64, Real
from linprobe_train.solver.reads.reading import Reading
from linprobe_train.solver.rows import Rows


@dataclass
class Curvature:
    """Curvature of every logit column, of the rows so far."""

    total: Float64
    """(m,) sum of q: the curvature of the intercept."""
    diagonal: Real
    """(m, d) sum of q x^2 in principal coordinates; (m, 0) where the pilot rows give it."""
    top: Float32
    """(m, r) the largest q of every column, in no order."""
    rows: NDArray[np.int32]
    """(m, r) the rows they belong to."""

    def add(self, other: "Curvature", rank: int) -> "Curvature":
        """Add other rows, keeping the ``rank`` largest of every column; gives itself."""
        top = np.concatenate([self.top, other.top], axis=1)
        rows = np.concatenate([self.rows, other.rows], axis=1)
        if (surplus := top.shape[1] - rank) > 0:
            places = np.argpartition(top, surplus, axis=1)[:, surplus:]
            top = np.take_along_axis(top, places, axis=1)
            rows = np.take_along_axis(rows, places, axis=1)
        self.total += other.total
        self.diagonal += other.diagonal
        self.top, self.rows = top, rows
        return self


@dataclass(frozen=True)
class CurvatureAt:
    """Reads the curvature at one place."""

    reading: Reading
    """How rows are read."""
    columns: Float32
    """(d, m) W' for the rows."""
    offset: Float32
    """(m,) b."""
    rank: int
    """Rows of every column that are kept."""
    width: int
    """d, or 0 where the pilot rows give the diagonal."""

    def __call__(self, rows: Rows, first: int) -> Curvature:
        """Of some rows, the first of them being row ``first``."""
        m = len(self.offset)
        none = np.zeros((m, 0), np.float32), np.zeros((m, 0), np.int32)
        curvature = Curvature(np.zeros(m), np.zeros((m, self.width)), *none)
        for span, features in self.reading.blocks(rows):
            x = features.astype(np.float32, copy=False)
            z = (x @ self.columns + self.offset).astype(np.float32, copy=False)
            weights = None if rows.weights is None else rows.weights[span]
            q = curvature_of(z, self.reading.loss, self.reading.share(weights, len(x)))
            diagonal = q @ np.square(x[:, : self.width])
            numbers = np.arange(first + span.start, first + span.stop, dtype=np.int32)
            top = q, np.broadcast_to(numbers, q.shape)
            curvature.add(Curvature(q.sum(axis=1, dtype=np.float64), diagonal, *top), self.rank)
        return curvature


def curvature_of(z: Float32, loss: Loss, share: Float32) -> Float32:
    """Turn logits (b, m) into q, (m, b)."""
    probabilities(z, loss)
    z *= 1 - z
    z *= share[:, None]
    return np.ascontiguousarray(z.T)
