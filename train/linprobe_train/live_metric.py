"""When the metric is rebuilt: a build costs as much as a few passes, a stale metric costs more."""

import math

from linprobe_train.metric import BlockMetric, block_metric
from linprobe_train.objective import Objective
from linprobe_train.passes import Crew
from linprobe_train.preparation import Float32
from linprobe_train.problem import Problem

NEAR = math.log(3.2)
"""Change of ln l2 over which a metric serves on: half a decade."""

SECOND_LOOK = 8
"""Steps after which a fit has left the place its metric was built at; 6 and 10 took more time."""

LONG = 25
"""Least steps between later builds."""

FAR = 0.01
"""Fall of the expected decrease, since the last build, that makes a later build worth it."""


class LiveMetric:
    """The metric of the moment."""

    def __init__(self, problem: Problem, crew: Crew) -> None:
        self._problem = problem
        self._crew = crew
        self._metric: BlockMetric | None = None
        self._l2 = math.nan
        self._built = 0
        self._reference = math.inf

    def apply(self, gradient: Float32) -> Float32:
        """M^-1 times a gradient, (m, d + 1).

        Raises
        ------
        RuntimeError : before :meth:`begin`.
        """
        if self._metric is None:
            raise RuntimeError("begin() comes first")
        return self._metric.apply(gradient, self._crew)

    def begin(self, at: Objective) -> None:
        """Start a fit; the metric of the fit before serves on where l2 is near."""
        if self._metric is None or abs(math.log(at.l2 / self._l2)) > NEAR:
            self._build(at, 0)
        self._built, self._reference = 0, math.inf

    def follow(self, at: Objective, iteration: int, decrement: float) -> None:
        """Rebuild if due, after a step; ``decrement`` is the decrease that step was to bring."""
        if iteration == self._built + 1:
            self._reference = decrement
        left = iteration - self._built >= LONG and decrement < FAR * self._reference
        if iteration == SECOND_LOOK or left:
            self._build(at, iteration)

    def _build(self, at: Objective, iteration: int) -> None:
        self._metric = block_metric(self._problem, at.point.V, at.l2, self._crew)
        self._l2, self._built, self._reference = at.l2, iteration, math.inf
