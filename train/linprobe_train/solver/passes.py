"""One pass over the data: the loss, its gradient, and scores, over threads.

Threads share chunks of rows; BLAS is held to one thread, as two layers of threads fight. Products
are float32 (or float64 where the fit has reached float32's noise), sums over blocks float64.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from linprobe_train.solver.losses import sigmoid_loss, softmax_loss
from linprobe_train.solver.objective import Point
from linprobe_train.solver.preparation import Arithmetic, Float64, Real
from linprobe_train.solver.problem import Problem, Targets

T = TypeVar("T")
R = TypeVar("R")


class Crew:
    """Threads that work through independent items; with one thread, plain calls."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def map(self, work: Callable[[T], R], items: list[T]) -> Iterator[R]:
        """Results in the order of the items."""
        return map(work, items) if self._pool is None else self._pool.map(work, items)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


@contextmanager
def crew_of(threads: int) -> Iterator[Crew]:
    """A crew for the length of a ``with``, with BLAS at one thread."""
    crew = Crew(threads)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield crew
    finally:
        crew.close()


def evaluate(problem: Problem, V: Float64, crew: Crew, arithmetic: Arithmetic = "float32") -> Point:
    """Loss and gradient at V = [W | b], (m, d + 1): one read of all rows."""
    columns, offset = problem.columns(V, arithmetic)

    def of_chunk(chunk: tuple[int, int]) -> tuple[float, Float64]:
        gradient, loss = np.zeros_like(V), 0.0
        for row, features in problem.blocks(*chunk):
            x: Real = features.astype(arithmetic, copy=False)
            z = x @ columns
            z += offset
            loss += _block_loss(problem.targets, z, row)
            gradient[:, :-1] += z.T @ x
            gradient[:, -1] += z.sum(axis=0, dtype=np.float64)
        return loss, gradient

    loss, gradient = 0.0, np.zeros_like(V)
    for chunk_loss, chunk_gradient in crew.map(of_chunk, problem.chunks()):
        loss += chunk_loss
        gradient += chunk_gradient
    if problem.resident is None:
        gradient[:, :-1] = gradient[:, :-1] @ problem.axes.rotation
    total = problem.targets.total_weight
    return Point(V, loss / total, gradient / total)


def _block_loss(targets: Targets, z: Real, row: int) -> float:
    span = slice(row, row + len(z))
    weights = None if targets.weights is None else targets.weights[span]
    if targets.loss == "softmax":
        return softmax_loss(z, targets.values[span].astype(np.int64, copy=False), weights)
    return sigmoid_loss(z, targets.values[span].astype(np.uint8, copy=False), weights)
