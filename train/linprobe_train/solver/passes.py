"""One pass over the data, over threads: the loss and its gradient; the objective they give.

Threads share chunks of rows; BLAS is held to one thread, as two layers of threads fight. Products
are float32 (or float64 where the fit has reached float32's noise), sums over blocks float64.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from linprobe.machine import thread_count
from linprobe_train.solver.losses import LOSS_BYTES, sigmoid_loss, softmax_loss
from linprobe_train.solver.preparation import Arithmetic, Float64, Real
from linprobe_train.solver.problem import READ_BYTES, Problem, Sizes
from linprobe_train.solver.rows import BLOCK_ROWS

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
        """Results in the order of the items; at most :attr:`waiting` lie about at a time."""
        pending: deque[Future[R]] = deque()
        for item in items:
            if self.threads == 1:
                yield work(item)
                continue
            if len(pending) == self.waiting:
                yield pending.popleft().result()
            pending.append(self.pool.submit(work, item))
        while pending:
            yield pending.popleft().result()

    @property
    def waiting(self) -> int:
        """Most items that are worked on or done and not yet taken."""
        return waiting_of(self.threads)


def waiting_of(threads: int) -> int:
    """Two a thread: none is idle while a slow one is waited for."""
    return 1 if threads == 1 else 2 * threads


@contextmanager
def crew_of(threads: int | None) -> Iterator[Crew]:
    """A crew for the length of a ``with``, with BLAS at one thread; see :func:`thread_count`.

    Flags of invalid operations are not looked at meanwhile: kernels of BLAS raise them for lanes
    beyond the data, of whatever lay there (numpy issue 24067). Descents look at the numbers.
    """
    threads = thread_count(threads)
    pool = ThreadPoolExecutor(threads, initializer=partial(np.seterr, invalid="ignore"))
    with pool, threadpool_limits(1, user_api="blas"), np.errstate(invalid="ignore"):
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
    logits: Real | None = None
    """(n, m), X W' + b of all rows, where they are kept."""


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
        gradient, loss = np.zeros((len(V), len(columns) + 1)), 0.0
        # Fresh memory of this size costs the kernel a tenth of what the product takes.
        room = np.empty((BLOCK_ROWS, len(V)), arithmetic)
        product = np.empty((len(V), len(columns)), arithmetic)
        for row, features in problem.blocks(*chunk):
            x: Real = features.astype(arithmetic, copy=False)
            z = np.matmul(x, columns, out=room[: len(x)])
            z += offset
            loss += _block_loss(problem, row, z)
            gradient[:, :-1] += np.matmul(z.T, x, out=product)
            gradient[:, -1] += z.sum(axis=0, dtype=np.float64)
        return loss, gradient

    loss, gradient = 0.0, np.zeros((len(V), len(columns) + 1))
    for chunk_loss, chunk_gradient in crew.map(of_chunk, problem.chunks()):
        loss += chunk_loss
        gradient += chunk_gradient
    if problem.resident is None:
        turned = gradient[:, :-1] @ problem.rotation
        gradient = np.column_stack([turned, gradient[:, -1]])
    gradient /= problem.total_weight
    return Point(V, loss / problem.total_weight, gradient)


def pass_bytes(sizes: Sizes) -> int:
    """Of :func:`evaluate`: blocks and their logits, gradients not yet summed, W to multiply by."""
    blocks = READ_BYTES * sizes.block + LOSS_BYTES * sizes.logits + 8 * sizes.place
    return sizes.threads * blocks + 8 * (waiting_of(sizes.threads) + 4) * sizes.place


def logits_of(problem: Problem, V: Float64, crew: Crew) -> Real:
    """X W' + b of all rows, (n, m), of resident rows and in their arithmetic."""
    arithmetic = problem.preparation.arithmetic
    columns, offset = problem.columns(V, arithmetic)
    out: Real = np.empty((problem.n, problem.m), arithmetic)

    def of_chunk(chunk: tuple[int, int]) -> None:
        for row, x in problem.blocks(*chunk):
            z = out[row : row + len(x)]
            np.matmul(x, columns, out=z)
            z += offset

    list(crew.map(of_chunk, problem.chunks()))
    return out


def loss_along(
    problem: Problem, logits: Real, slope: Real, t: float, residual: Real, crew: Crew
) -> tuple[float, float]:
    """Mean loss at logits - t slope, (n, m), and its derivative by t.

    S times its derivative by the logits is written into ``residual``. No product with the rows: a
    line search reads them once, for the slope.
    """

    def of_chunk(chunk: tuple[int, int]) -> tuple[float, float]:
        loss, derivative = 0.0, 0.0
        for start in range(*chunk, BLOCK_ROWS):
            span = slice(start, min(start + BLOCK_ROWS, chunk[1]))
            z = np.multiply(slope[span], -t, out=residual[span])
            z += logits[span]
            loss += _block_loss(problem, start, z)
            derivative -= float(np.vdot(z, slope[span]))
        return loss, derivative

    sums = np.sum(list(crew.map(of_chunk, problem.chunks())), axis=0) / problem.total_weight
    return float(sums[0]), float(sums[1])


def gradient_of(problem: Problem, residual: Real, crew: Crew) -> Float64:
    """Gradient of the mean loss by V, (m, d + 1), from S times its derivative by the logits."""

    def of_chunk(chunk: tuple[int, int]) -> Float64:
        gradient = np.zeros((problem.m, problem.dim + 1))
        for row, x in problem.blocks(*chunk):
            z = residual[row : row + len(x)]
            gradient[:, :-1] += z.T @ x
            gradient[:, -1] += z.sum(axis=0, dtype=np.float64)
        return gradient

    whole = np.zeros((problem.m, problem.dim + 1))
    for chunk in crew.map(of_chunk, problem.chunks()):
        whole += chunk
    whole /= problem.total_weight
    return whole


def _block_loss(problem: Problem, row: int, z: Real) -> float:
    """Loss of the rows from ``row`` on; their logits (b, m) become its derivative by them."""
    span = slice(row, row + len(z))
    weights = None if problem.weights is None else problem.weights[span]
    if problem.loss == "softmax":
        return softmax_loss(z, problem.targets[span].astype(np.int64, copy=False), weights)
    return sigmoid_loss(z, problem.targets[span].astype(np.uint8, copy=False), weights)
