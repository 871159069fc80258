"""Whether a probe is as often right as it is sure: estimates and intervals from n rows.

The gap of confidence and accuracy, summed over bins, is above 0 for a calibrated probe too, by the
noise of the labels alone: 9 points at 50 rows, 0.8 at 2,000. So the estimate takes away what noise
gives, and the interval is no bootstrap of the sum, whose draws add noise again.
"""

import math

import numpy as np
from numpy.typing import NDArray

from linprobe_train.scores.intervals import REPLICATES, Z_95, Interval, Statistic
from linprobe_train.scores.predictions import Predictions
from linprobe_train.solver.preparation import Float64

ECE_BINS = 15
"""Guo et al. 2017, "On calibration of modern neural networks": bins of equal width."""
MASS_BINS = 5
"""Bins of equal mass of the estimate: with more of them the correction is larger than the error."""
Z_90 = 1.6448536269514722
"""Normal quantile at 0.95."""


def ece(rows: Predictions) -> Statistic:
    """Expected calibration error of 5 bins of equal mass, without what noise of the labels gives.

    ``sqrt(max(0, E^2 - E0^2))``: E of Guo 2017; E0 its mean for a calibrated probe, by the normal
    approximation of each bin, as Brocker 2012 ("Estimating reliability and resolution of
    probability forecasts") and Kumar 2019 ("Verified uncertainty calibration") debias. Weights are
    squared in E0: a row drawn twice is no second row, and its noise counts twice.
    """
    confidence, error = _confidence_and_error(rows)
    edges = np.quantile(confidence, np.arange(1, MASS_BINS) / MASS_BINS)
    bins = np.searchsorted(edges, confidence, side="left")
    noise = confidence * (1 - confidence)

    def value(w: Float64) -> float:
        E = np.abs(np.bincount(bins, w * error, MASS_BINS)).sum()
        E0 = np.sqrt(np.bincount(bins, w * w * noise, MASS_BINS)).sum() * math.sqrt(2 / math.pi)
        return float(np.sqrt(max(0.0, E * E - E0 * E0)) / w.sum())

    return value


def ece_interval(rows: Predictions, seed: int) -> Interval:
    """``[max(0, E - t), E + 1.645 se]``, E over 15 bins of equal width, at least 95 % in all cases.

    t is the larger of two 95th percentiles: how far bins move when rows are drawn again, and E of
    labels that are drawn from the confidences. So its lower end is above 0 where a calibrated probe
    would seldom show such an E. se is the deviation of E when rows are drawn again.
    """
    confidence, error = _confidence_and_error(rows)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    rng, n = np.random.default_rng(seed), rows.n
    drawn, null = np.empty((REPLICATES, ECE_BINS)), np.empty((REPLICATES, ECE_BINS))
    for i in range(REPLICATES):
        w = np.bincount(rng.integers(0, n, n), minlength=n)
        drawn[i] = np.bincount(bins, w * error, ECE_BINS)
        null[i] = np.bincount(bins, confidence - (rng.random(n) < confidence), ECE_BINS)
    sums = np.bincount(bins, error, ECE_BINS)
    E, moved = np.abs(sums).sum() / n, np.abs(drawn - sums).sum(axis=1) / n
    t = max(np.percentile(moved, 95), np.percentile(np.abs(null).sum(axis=1) / n, 95))
    high = float(E + Z_90 * np.std(np.abs(drawn).sum(axis=1) / n))
    # The estimate has other bins than E: where it lies outside, the interval is widened to it.
    value = ece(rows)(np.ones(n))
    return Interval(min(max(0.0, float(E - t)), value), min(1.0, max(high, value)))


def confidence_gap(rows: Predictions) -> Statistic:
    """Mean confidence minus accuracy: above 0 where the probe is too sure. It needs no bins."""
    _, error = _confidence_and_error(rows)
    return lambda w: float(w @ error / w.sum())


def gap_interval(rows: Predictions, _seed: int) -> Interval:
    """The normal interval of a mean."""
    _, error = _confidence_and_error(rows)
    half = Z_95 * float(error.std(ddof=1)) / math.sqrt(rows.n) if rows.n > 1 else 1.0
    return Interval(float(error.mean()) - half, float(error.mean()) + half)


def _confidence_and_error(rows: Predictions) -> tuple[Float64, NDArray[np.float64]]:
    """How sure the probe is of the class it names, and that minus whether it is right, (n,)."""
    confidence = rows.probability[:, 0].astype(np.float64)
    return confidence, confidence - rows.hits()
