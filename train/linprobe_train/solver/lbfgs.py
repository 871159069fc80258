"""One fit: L-BFGS in a Hessian metric, stopped on what it can show.

Stop, whichever comes first (F objective, g gradient, H the inverse Hessian L-BFGS has built):

- ``bound``: ||g_W||^2 / (2 l2 F) <= ``gap``. Rigorous, see :class:`Objective`; the gradient of the
  intercept is negligible there.
- ``estimate``: g'Hg / 2 <= ``decrement`` F: the decrease that L-BFGS itself expects of its next
  step. Measured, the true gap is up to about ten times this.

Both also ask that W and b, and not only F, have settled: the decrease expected is at most ``gap``
of what W has brought, which at tiny C is next to nothing of F. Everything else is
``converged = False``.

The inverse Hessian is the two-loop recursion (Nocedal and Wright 2006, algorithm 7.4) as four
matrix products. With steps and gradient changes as columns of S and Y, oldest first, M the metric,
R the upper triangle of S'Y and D its diagonal:

    alpha = R^-1 S'g,    z0 = M^-1 (g - Y alpha),    z = z0 + S R^-T (D alpha - Y'z0)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from linprobe_train.solver.losses import loss_of_shares
from linprobe_train.solver.passes import Objective, Point, with_ridge
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.problem import Sizes
from linprobe_train.solver.surface import Surface

StopReason = Literal["bound", "estimate", "decided", "max_iter", "stalled"]
Judge = Callable[[Float64, Float64], bool]
"""Asked on the way, with V = [W | b], (m, d + 1), and the step about to be taken from it, whether
the fit has come far enough for its purpose."""

ARMIJO = 1e-4
"""Share of the expected decrease a step must bring; Nocedal and Wright 2006, section 3.1."""

FLATTER = 0.3
"""Share of the slope at the start that is left where a cheap length is taken."""

MAX_LENGTHS = 25
"""Lengths tried along one direction."""

SETTLED = 1e-3
"""Decrease left to gain, relative to what W has brought, that moves W by about 3 % at tiny C: where
loose fits end, and from which on a judge is asked."""

FLAT = 1e-24
"""Relative decrease of F that float64 gradients barely resolve: nothing is left to gain."""

F32_NOISE = 1e-7
"""Relative change of F that float32 logits cannot resolve."""

FAINT = F32_NOISE / SETTLED
"""Share of F that W has brought below which float32 does not tell whether W and b have settled."""

ASK = 2e-5
"""Decrease expected of the next step, relative to F, from which on a judge is asked."""

ASK_AGAIN = 2.5
"""Fall of that decrease from one question to the next."""

LONG = 25
"""Least steps between two builds of the metric in one fit."""

FAR = 0.01
"""Fall of the expected decrease, since the last build, that makes another worth it."""


@dataclass(frozen=True)
class Tolerance:
    """When a fit is done: it stops when one of the two tests is met, or at ``max_iter``.

    Parameters
    ----------
    gap : relative objective gap (F - F*) / F, >= 0, that the rigorous bound must reach.
    decrement : decrease of F expected of the next step, relative to F, that counts as done, >= 0.
    max_iter : most iterations; 1,000 is the CLIP paper's number.

    Examples
    --------
    >>> Tolerance(gap=1e-9, decrement=1e-11)
    Tolerance(gap=1e-09, decrement=1e-11, max_iter=1000)
    """

    gap: float = 1e-6
    decrement: float = 2e-8
    max_iter: int = 1000


@dataclass(frozen=True)
class FitReport:
    """How one fit ended.

    F = mean loss + ||W||^2 / (2 C S), S the sum of the row weights; C S F is scikit-learn's.

    Attributes
    ----------
    C : inverse L2 strength, scikit-learn's meaning.
    objective : F at the end, in nats.
    loss : the part of F that is the mean loss of the rows, in nats.
    bound : rigorous bound of (F - F*) / F, where the intercept's gradient is 0.
    estimate : decrease expected of the next step, relative to F; None where the solver gives none.
    stop : the test that ended it, ``bound`` or ``estimate``; ``decided`` where a sweep knew enough
        of the held-out rows before; else ``max_iter`` or ``stalled``.
    iterations : accepted steps.
    passes : reads of all rows, forward and backward; a single product with them is half a pass.
    converged : whether one of the two tests was met.

    Examples
    --------
    >>> FitReport(1.0, 0.5, 0.4, 1e-7, 1e-9, "bound", iterations=12, passes=14).converged
    True
    """

    C: float
    objective: float
    loss: float
    bound: float
    estimate: float | None
    stop: StopReason
    iterations: int
    passes: int

    @property
    def converged(self) -> bool:
        """Whether one of the two tests was met."""
        return self.stop in ("bound", "estimate")


def descent_bytes(sizes: Sizes) -> int:
    """Of a :class:`Descent` on a step.

    Two places with two gradients each, the direction and the pair with what they are made of in
    float64, the direction on its way in float32.
    """
    return (10 * 8 + 4 * 4) * sizes.place


class Descent:
    """One fit: the state that its iterations share."""

    def __init__(self, surface: Surface, start: Objective, judge: Judge | None = None) -> None:
        self.at = start
        self._judge = judge
        self._asked = math.inf
        self.iterations = 0
        self.decrement = math.inf
        self._surface = surface
        self._at_no_weights = loss_of_shares(surface.problem.shares, surface.problem.loss)
        self._arithmetic = surface.problem.preparation.arithmetic

    def run(self, tolerance: Tolerance) -> StopReason:
        """Iterate until a test is met."""
        surface, built, reference = self._surface, 0, math.inf
        surface.ready(self.at)
        while True:
            direction = surface.direction(self.at)
            if not np.vdot(self.at.g, direction) > 0:  # rounding cost the pairs their sign
                surface.pairs.clear()
                direction = surface.direction(self.at)
            slope = -float(np.vdot(self.at.g, direction))
            self.decrement = -0.5 * slope
            faint = self._brought < FAINT * self.at.F and self._arithmetic != "float64"
            if faint and self._settled(SETTLED):
                self._widen()
                continue
            reason = self._reason(tolerance)
            if self._enough(direction, ended=reason is not None):
                reason = reason or "decided"
            if reason:
                return reason
            if not self._step(direction, slope):
                if self._arithmetic == "float64":
                    self._enough(direction, ended=True)
                    return "stalled"
                self._widen()
            if self.iterations == built + 1:
                reference = self.decrement
            left = self.iterations - built >= LONG and self.decrement < FAR * reference
            if left:
                surface.ready(self.at, anew=True)
                built, reference = self.iterations, math.inf

    def _widen(self) -> None:
        """Go on in float64."""
        self._arithmetic = "float64"
        self.at = with_ridge(self._surface.at(self.at.point.V, "float64"), self.at.l2)

    @property
    def _brought(self) -> float:
        """What F has fallen by since W = 0, at least the ridge at an optimum, F being convex."""
        return max(self.at.ridge, self._at_no_weights - self.at.F)

    def _settled(self, share: float) -> bool:
        # At tiny C all of F is the loss at W = 0, where a small relative gap says nothing of the
        # direction of W, nor of b beside it, which alone decide predictions.
        return self.decrement <= max(share * self._brought, FLAT * self.at.F)

    def _reason(self, tolerance: Tolerance) -> StopReason | None:
        settled = self._settled(min(SETTLED, tolerance.gap))
        if settled and self.at.bound <= tolerance.gap:
            return "bound"
        if settled and 0 < self.decrement <= tolerance.decrement * self.at.F:
            return "estimate"
        return "max_iter" if self.iterations >= tolerance.max_iter else None

    def _enough(self, direction: Float64, *, ended: bool) -> bool:
        """Ask the judge where it is due, and of the place where a fit ends in any case."""
        due = min(ASK * self.at.F, self._asked / ASK_AGAIN)
        near = self._settled(SETTLED) and self.decrement <= due
        if self._judge is None or not (near or ended):
            return False
        self._asked = self.decrement
        return self._judge(self.at.point.V, direction)

    def _step(self, direction: Float64, slope: float) -> bool:
        """Move along -direction, from the line's first length on by safeguarded secants.

        False if stuck.

        A length is taken where F has fallen enough (Armijo), and along logits, where lengths are
        cheap, the slope too (:data:`FLATTER`). The ridge is a parabola of the length.
        """
        start, W, D = self.at, self.at.point.V[:, :-1], direction[:, :-1]
        WD, DD = float(np.vdot(W, D)), float(np.vdot(D, D))
        line = self._surface.line(start.point, direction, self._arithmetic)
        length, low, high = line.first, 0.0, math.inf
        for trial in range(1, MAX_LENGTHS + 1):
            loss, derivative = line.at(length)
            F = loss + start.ridge + start.l2 * length * (0.5 * length * DD - WD)
            end_slope = derivative + start.l2 * (length * DD - WD)
            flat = end_slope <= 0 and start.F * (1 + F32_NOISE) >= F
            enough = start.F + ARMIJO * length * slope >= F or flat
            if enough and (trial >= line.lengths or abs(end_slope) <= FLATTER * -slope):
                return self._move(line.point(), slope)
            if enough and end_slope < 0:
                low = length
            else:
                high = length
            length = _next_length(length, low, high, slope, end_slope)
        return False

    def _move(self, point: Point, slope: float) -> bool:
        end, start = with_ridge(point, self.at.l2), self.at
        moved, least = point.V - start.point.V, 1e-12 * abs(slope)
        self._surface.pairs.remember(moved, end.g - start.g, least)
        self.at = end
        self.iterations += 1
        return True


def _next_length(length: float, low: float, high: float, slope: float, end_slope: float) -> float:
    """Secant of the slopes at 0 and at the last length, kept inside (low, high)."""
    secant = length * slope / (slope - end_slope) if end_slope > slope else 2 * length
    if high == math.inf:
        return min(max(secant, 1.2 * length), 4 * length)
    margin = 0.1 * (high - low)
    return min(max(secant, low + margin), high - margin)
