"""One pass over the data, over threads: the loss and its gradient; the objective they give.

Threads share lanes of rows; BLAS is held to one thread, as two layers of threads fight. Products
are float32 (or float64 where the fit has reached float32's noise), sums over blocks float64. The
sums of lanes are added up one fixed tree, so that no bit depends on the number of threads.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from linprobe.machine import thread_count
from linprobe_train.solver.losses import LOSS_BYTES
from linprobe_train.solver.preparation import Arithmetic, Float64, Real
from linprobe_train.solver.problem import READ_BYTES, Problem, Sizes
from linprobe_train.solver.reads.axes import Gather
from linprobe_train.solver.reads.loss import LossAt, add_sums
from linprobe_train.solver.rows import MAX_LANES, Rows

T = TypeVar("T")
R = TypeVar("R")
Read: TypeAlias = Callable[[Rows, int], R]
"""What is read of the rows of a lane, and the number of the first."""


@dataclass(frozen=True)
class Crew:
    """Threads that work through independent items; with one thread, plain calls.

    Rows are read by :meth:`total` and :meth:`near` alone: whoever gives these two reads them
    elsewhere (:mod:`linprobe_train.readers`).
    """

    threads: int
    """At least 1."""
    pool: ThreadPoolExecutor
    """Starts no thread before it is needed."""

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
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

    def total(self, rows: Rows, read: Read[R], join: Callable[[R, R], R]) -> R:
        """What is read of every lane, joined up the tree; ``join`` may change what it is given."""
        return joined(self.map(lambda lane: read(lane[1], lane[0]), rows.lanes), join)

    def near(self, rows: Rows, wanted: NDArray[np.int64]) -> Gather:
        """What copies rows at ascending positions, all of them among ``wanted``, ascending."""
        return rows.gather

    def weigh(self, rows: Rows, columns: int, *, normalize: bool) -> str | None:
        """For a person, what a pass costs over workers; None where there are none.

        ``OptionError``: they would be slower than this process.
        """
        return None

    def at_most(self, threads: int) -> "Crew":
        """The same with fewer threads, where so many are too many."""
        if threads >= self.threads:
            return self
        return replace(self, threads=threads, pool=_pool(threads))

    @property
    def waiting(self) -> int:
        """Most items that are worked on or done and not yet taken."""
        return waiting_of(self.threads)


def joined(parts: Iterable[R], join: Callable[[R, R], R]) -> R:
    """Join up one fixed tree: neighbours, then neighbours of those; a last one alone goes up as is.

    What waits for a neighbour is few: one on each floor.
    """
    floors: list[tuple[int, R]] = []
    for part in parts:
        height = 0
        while floors and floors[-1][0] == height:
            part, height = join(floors.pop()[1], part), height + 1
        floors.append((height, part))
    _, whole = floors.pop()
    while floors:
        whole = join(floors.pop()[1], whole)
    return whole


FLOORS = MAX_LANES.bit_length() - 1
"""Most parts that wait for their neighbour."""


def waiting_of(threads: int) -> int:
    """Two a thread: none is idle while a slow one is waited for."""
    return 1 if threads == 1 else 2 * threads


def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, initializer=partial(np.seterr, invalid="ignore"))


@contextmanager
def crew_of(threads: int | None) -> Iterator[Crew]:
    """A crew for the length of a ``with``, with BLAS at one thread; see :func:`thread_count`.

    Flags of invalid operations are not looked at meanwhile: kernels of BLAS raise them for lanes
    beyond the data, of whatever lay there (numpy issue 24067). Descents look at the numbers.
    """
    import scipy.linalg  # noqa: F401  # its BLAS is another library, which the limit must find

    threads = thread_count(threads)
    pool = _pool(threads)
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
    read = LossAt(problem.reading, *problem.columns(V, arithmetic))
    loss, gradient = crew.total(problem.rows, read, add_sums)
    if problem.resident is None:
        turned = gradient[:, :-1] @ problem.rotation
        gradient = np.column_stack([turned, gradient[:, -1]])
    gradient /= problem.total_weight
    return Point(V, loss / problem.total_weight, gradient)


def pass_bytes(sizes: Sizes) -> int:
    """Of :func:`evaluate`: blocks and their logits, gradients not yet summed, W to multiply by."""
    blocks = READ_BYTES * sizes.block + LOSS_BYTES * sizes.logits + 8 * sizes.place
    waiting = waiting_of(sizes.threads) + FLOORS
    return sizes.threads * blocks + 8 * (waiting + 3) * sizes.place


def logits_of(problem: Problem, V: Float64, crew: Crew) -> Real:
    """X W' + b of all rows, (n, m), of resident rows and in their arithmetic."""
    arithmetic = problem.preparation.arithmetic
    columns, offset = problem.columns(V, arithmetic)
    out: Real = np.empty((problem.n, problem.m), arithmetic)

    def read(rows: Rows, first: int) -> None:
        for span, x in problem.reading.blocks(rows):
            z = out[first + span.start : first + span.stop]
            np.matmul(x, columns, out=z)
            z += offset

    crew.total(problem.rows, read, lambda *_: None)
    return out


def loss_along(
    problem: Problem, logits: Real, slope: Real, t: float, residual: Real, crew: Crew
) -> tuple[float, float]:
    """Mean loss at logits - t slope, (n, m), and its derivative by t.

    S times its derivative by the logits is written into ``residual``. No product with the rows: a
    line search reads them once, for the slope.
    """

    def read(rows: Rows, first: int) -> Float64:
        loss, derivative = 0.0, 0.0
        for start, stop in pairwise(rows.offsets.tolist()):
            span = slice(first + start, first + stop)
            z = np.multiply(slope[span], -t, out=residual[span])
            z += logits[span]
            loss += problem.reading.loss_of(rows, slice(start, stop), z)
            derivative -= float(np.vdot(z, slope[span]))
        return np.array([loss, derivative])

    sums = crew.total(problem.rows, read, np.add) / problem.total_weight
    return float(sums[0]), float(sums[1])


def gradient_of(problem: Problem, residual: Real, crew: Crew) -> Float64:
    """Gradient of the mean loss by V, (m, d + 1), from S times its derivative by the logits."""

    def read(rows: Rows, first: int) -> tuple[float, Float64]:
        gradient = np.zeros((problem.m, problem.dim + 1))
        for span, x in problem.reading.blocks(rows):
            z = residual[first + span.start : first + span.stop]
            gradient[:, :-1] += z.T @ x
            gradient[:, -1] += z.sum(axis=0, dtype=np.float64)
        return 0.0, gradient

    _, whole = crew.total(problem.rows, read, add_sums)
    whole /= problem.total_weight
    return whole
