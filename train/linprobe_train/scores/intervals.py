"""95 % intervals: Wilson's for shares, else a bootstrap by row multiplicities w (n,) float64."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
Statistic = Callable[[Weights], float]

Z_95 = 1.959963984540054
"""Normal quantile at 0.975."""

REPLICATES = 1000
"""Bootstrap replicates: the ends of a 95 % interval then vary by a few per cent of its width."""


@dataclass(frozen=True)
class Interval:
    """A two-sided 95 % interval."""

    low: float
    """Lower end."""
    high: float
    """Upper end."""


def wilson(successes: float, n: int) -> Interval:
    """Wilson's score interval of a share of ``n`` >= 1 rows.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    share, z2 = successes / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At 0 and n the ends are exactly 0 and 1; rounding would miss them by an ulp.
    low = 0.0 if successes == 0 else centre - half
    return Interval(low, 1.0 if successes == n else centre + half)


@dataclass(frozen=True)
class Replicates:
    """m statistics of n rows, and of the same resamplings of these rows."""

    values: NDArray[np.float64]
    """(m,) on the rows as they are."""
    resampled: NDArray[np.float64]
    """(REPLICATES, m); a line is one draw of rows, the same for all m."""

    def interval(self, i: int) -> Interval:
        """95 % percentile interval of statistic i."""
        return _percentiles(self.resampled[:, i])

    def difference(self, i: int, j: int) -> Interval:
        """95 % percentile interval of statistic i minus j: the paired bootstrap.

        Efron and Tibshirani 1993, "An introduction to the bootstrap", section 13.3.
        """
        return _percentiles(self.resampled[:, i] - self.resampled[:, j])


def resample(statistics: Sequence[Statistic], n: int, seed: int) -> Replicates:
    """Evaluate m statistics of n >= 1 rows on the rows and on resamplings of them."""
    rng = np.random.default_rng(seed)
    resampled = np.empty((REPLICATES if statistics else 0, len(statistics)))
    for line in resampled:
        w = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        line[:] = [statistic(w) for statistic in statistics]
    ones = np.ones(n)
    return Replicates(np.array([statistic(ones) for statistic in statistics]), resampled)


def _percentiles(values: NDArray[np.float64]) -> Interval:
    # A replicate in which the statistic does not exist (NaN) is left out.
    low, high = np.nanpercentile(values, [2.5, 97.5]).tolist()
    return Interval(float(low), float(high))
