"""One number that logits are divided by, so that a probe is as often right as it is sure.

Guo et al. 2017, "On calibration of modern neural networks", section 4.2. Fitted on logits of rows
that the fits did not see, and applied only where it gains more than noise could.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from linprobe_train.solver.passes import Crew
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import Rows, spans_of

GAIN = 3.0
"""Least gain in nats over all held-out rows. Over 345 small problems 0 made the test loss worse
than no temperature did, 2 to 10 did not: where folds are separable, T would go to 0."""
MOST = 20.0
"""T lies between 1 / MOST and MOST."""


@dataclass(frozen=True)
class Temperature:
    """A temperature fitted on held-out logits."""

    T: float
    """Least held-out loss, with a penalty of (ln T)^2 / 2."""
    gain: float
    """Fall of the held-out loss, summed over the rows, from T = 1, in nats."""
    applied: bool
    """Whether the probe's probabilities use it: only where the gain is above 3 nats."""
    source: str
    """Rows whose logits it was fitted on."""
    rows: int
    """How many."""

    @property
    def used(self) -> float:
        """What the probe's logits are divided by."""
        return self.T if self.applied else 1.0


def fit_temperature(
    pairs: Sequence[tuple[Probe, Rows]], source: str, crew: Crew | None = None
) -> Temperature:
    """Fit T on the pooled logits of probes on rows that they were not fitted on.

    ``crew`` reads them; None for this thread.

    Rows of classes that their probe does not know are left out: no T changes their loss.
    """
    parts = [_logits_and_targets(probe, rows, crew) for probe, rows in pairs]

    def loss(log_T: float) -> float:
        return sum(
            _loss(z[span] / math.exp(log_T), targets[span])
            for z, targets in parts
            for span in spans_of(len(z))
        )

    found = minimize_scalar(
        lambda u: loss(u) + u * u / 2,
        bounds=(-math.log(MOST), math.log(MOST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    gain = loss(0.0) - loss(float(found.x))
    rows = sum(len(z) for z, _ in parts)
    return Temperature(math.exp(found.x), gain, gain > GAIN, source, rows)


@dataclass(frozen=True)
class LogitsAt:
    """Reads the logits of a probe."""

    probe: Probe
    """Which."""

    def __call__(self, rows: Rows, first: int) -> tuple[Float64, ...]:
        """Of some rows, (n, m)."""
        return (self.probe.logits(rows),)


def _logits_and_targets(probe: Probe, rows: Rows, crew: Crew | None) -> tuple[Float64, Float64]:
    """Logits (n, m), and the columns of the labels, (n,), of a softmax, or +-1 (n, m)."""
    read = LogitsAt(probe)
    z = np.concatenate(read(rows, 0) if crew is None else crew.total(rows, read, add))
    if probe.multi_label:
        return z, np.where(rows.labels[:, probe.fitted] == 1, 1.0, -1.0)
    known = np.isin(rows.labels, probe.fitted)
    z = z if known.all() else z[known]
    place = np.searchsorted(probe.fitted, rows.labels[known])
    if probe.loss == "softmax":
        return z, place.astype(np.float64)
    return z, np.where(place == 1, 1.0, -1.0)[:, None]


def _loss(z: Float64, targets: Float64) -> float:
    """Sum over rows of the loss: of several independent classes, their mean."""
    if targets.ndim == 1:
        own = z[np.arange(len(z)), targets.astype(np.intp)]
        return float((logsumexp(z, axis=1) - own).sum())
    return float(np.logaddexp(0, -targets * z).mean(axis=1).sum()) if z.size else 0.0
