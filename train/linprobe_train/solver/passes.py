"""One pass over the data, over threads: the loss and its gradient; the objective they give.

Threads share chunks of rows; BLAS is held to one thread, as two layers of threads fight. Products
are float32 (or float64 where the fit has reached float32's noise), sums over blocks float64.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from linprobe_train.solver.losses import sigmoid_loss, softmax_loss
from linprobe_train.solver.preparation import Arithmetic, Float64, Real
from linprobe_train.solver.problem import Problem

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Crew:
    """Threads that work through independent items; with one thread, plain calls."""

    threads: int
    """At least 1."""
    pool: ThreadPoolExecutor
    """Starts no thread before it is needed."""

    def map(self, work: Callable[[T], R], items: list[T]) -> Iterator[R]:
        """Results in the order of the items."""
        return map(work, items) if self.threads == 1 else self.pool.map(work, items)


@contextmanager
def crew_of(threads: int) -> Iterator[Crew]:
    """A crew for the length of a ``with``, with BLAS at one thread."""
    threads = max(1, threads)
    with ThreadPoolExecutor(threads) as pool, threadpool_limits(1, user_api="blas"):
        yield Crew(threads, pool)


@dataclass(frozen=True)
class Point:
    """A place and what the data say there; C has no part in it."""

    V: Float64
    """(m, d + 1), [W | b]."""
    loss: float
    """Mean loss."""
    gradient: Float64
    """(m, d + 1) of the mean loss."""


@dataclass(frozen=True)
class Objective:
    """F = loss + l2/2 ||W||^2 at a point; C and the sum of weights times F is scikit-learn's."""

    point: Point
    """Where."""
    l2: float
    """1 / (C S)."""
    F: float
    """The value."""
    g: Float64
    """(m, d + 1), its gradient."""

    @property
    def ridge(self) -> float:
        """The part of F that is l2/2 ||W||^2."""
        return self.F - self.point.loss

    @property
    def bound(self) -> float:
        """Rigorous bound of (F - F*) / F, given a zero intercept gradient.

        F is l2-strongly convex in W, so F - F* <= ||g_W||^2 / (2 l2); the same number is the
        duality gap of the probabilities at this point.
        """
        g = self.g[:, :-1]
        return float(np.vdot(g, g)) / (2 * self.l2 * self.F)


def with_ridge(point: Point, l2: float) -> Objective:
    """Add the ridge, which does not touch the intercept."""
    W = point.V[:, :-1]
    g = point.gradient.copy()
    g[:, :-1] += l2 * W
    return Objective(point, l2, point.loss + 0.5 * l2 * float(np.vdot(W, W)), g)


def evaluate(problem: Problem, V: Float64, crew: Crew, arithmetic: Arithmetic = "float32") -> Point:
    """Loss and gradient at V = [W | b], (m, d + 1): one read of all rows."""
    columns, offset = problem.columns(V, arithmetic)

    def of_chunk(chunk: tuple[int, int]) -> tuple[float, Float64]:
        gradient, loss = np.zeros_like(V), 0.0
        for row, features in problem.blocks(*chunk):
            x: Real = features.astype(arithmetic, copy=False)
            z = x @ columns
            z += offset
            span = slice(row, row + len(z))
            weights = None if problem.weights is None else problem.weights[span]
            if problem.loss == "softmax":
                loss += softmax_loss(z, problem.targets[span].astype(np.int64, copy=False), weights)
            else:
                hot = problem.targets[span].astype(np.uint8, copy=False)
                loss += sigmoid_loss(z, hot, weights)
            gradient[:, :-1] += z.T @ x
            gradient[:, -1] += z.sum(axis=0, dtype=np.float64)
        return loss, gradient

    loss, gradient = 0.0, np.zeros_like(V)
    for chunk_loss, chunk_gradient in crew.map(of_chunk, problem.chunks()):
        loss += chunk_loss
        gradient += chunk_gradient
    if problem.resident is None:
        gradient[:, :-1] = gradient[:, :-1] @ problem.rotation
    total = problem.total_weight
    return Point(V, loss / total, gradient / total)
