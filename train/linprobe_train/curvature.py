"""What the metric needs to know of all rows at a point, found in one read of them.

q_ij = s_i p_ij (1 - p_ij): the curvature that row i adds to logit column j, with s_i the share of
row i in the mean. Rows with much of it count one by one, so none may be missed: a sample that
misses two thirds of them cost up to twice the passes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linprobe_train.losses import probabilities
from linprobe_train.passes import Crew
from linprobe_train.preparation import Float32, Float64
from linprobe_train.problem import Problem


@dataclass(frozen=True)
class Curvature:
    """Curvature of every logit column."""

    total: Float64
    """(m,) sum of q over all rows: the curvature of the intercept."""
    diagonal: Float32
    """(m, d) sum of q x^2 over all rows in principal coordinates; of the pilot rows, scaled to all
    rows, where rows are streamed."""
    top: Float32
    """(m, r) the largest q of every column, in no order."""
    rows: NDArray[np.int64]
    """(m, r) the rows they belong to."""


@dataclass(frozen=True)
class _Part:
    """Curvature of some rows."""

    total: Float64
    diagonal: Float64
    top: Float32
    rows: NDArray[np.int64]

    def join(self, other: "_Part", rank: int) -> "_Part":
        top, rows = _largest(
            np.concatenate([self.top, other.top], axis=1),
            np.concatenate([self.rows, other.rows], axis=1),
            rank,
        )
        return _Part(self.total + other.total, self.diagonal + other.diagonal, top, rows)


def measure_curvature(problem: Problem, V: Float64, rank: int, crew: Crew) -> Curvature:
    """Read all rows once at V = [W | b], (m, d + 1), keeping ``rank`` rows of every column."""
    streamed = problem.resident is None
    W = V[:, :-1] @ problem.axes.rotation.T if streamed else V[:, :-1]
    columns = np.ascontiguousarray(W.T, dtype=np.float32)
    offset = V[:, -1].astype(np.float32)
    m, d = W.shape

    def one(chunk: tuple[int, int]) -> _Part:
        found = _Part(
            np.zeros(m),
            np.zeros((m, d)),
            np.zeros((m, 0), np.float32),
            np.zeros((m, 0), np.int64),
        )
        for row, features in problem.blocks(*chunk):
            x = features.astype(np.float32, copy=False)
            q = _curvature_of(x @ columns + offset, problem, problem.share(row, len(x)))
            rows = np.broadcast_to(np.arange(row, row + len(x)), q.shape)
            part = _Part(q.sum(axis=1, dtype=np.float64), np.zeros((m, d)), q, rows)
            if not streamed:
                part.diagonal[...] = q @ np.square(x)
            found = found.join(part, rank)
        return found

    parts = crew.map(one, problem.chunks())
    whole = next(parts)
    for part in parts:
        whole = whole.join(part, rank)
    diagonal = _pilot_diagonal(problem, V) if streamed else whole.diagonal
    return Curvature(whole.total, diagonal.astype(np.float32), whole.top, whole.rows)


def _curvature_of(z: Float32, problem: Problem, share: Float32) -> Float32:
    """Turn logits (b, m) into q, (m, b)."""
    probabilities(z, problem.targets.loss)
    z *= 1 - z
    z *= share[:, None]
    return np.ascontiguousarray(z.T)


def _pilot_diagonal(problem: Problem, V: Float64) -> Float32:
    x = problem.pilot.rows
    z = x @ V[:, :-1].T.astype(np.float32) + V[:, -1].astype(np.float32)
    diagonal: Float32 = _curvature_of(z, problem, problem.pilot.weights) @ np.square(x)
    return diagonal


def _largest(top: Float32, rows: NDArray[np.int64], rank: int) -> tuple[Float32, NDArray[np.int64]]:
    width = top.shape[1]
    if width <= rank:
        return top, rows
    places = np.argpartition(top, width - rank, axis=1)[:, width - rank :]
    return np.take_along_axis(top, places, axis=1), np.take_along_axis(rows, places, axis=1)
