"""95 % intervals: Wilson's for shares of rows, a seeded bootstrap for everything else."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """Wilson's score interval of a share; ``n`` >= 1.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    share, z2 = successes / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At 0 and n the ends are exactly 0 and 1; rounding would miss them by an ulp.
    low = 0.0 if successes == 0 else centre - half
    return Interval(low, 1.0 if successes == n else centre + half)


def bootstrap(statistic: Callable[[NDArray[np.float64]], float], n: int, seed: int) -> Interval:
    """Percentile interval of a statistic of row multiplicities, (n,) float64 that sum to n.

    A replicate in which the statistic does not exist (NaN) is left out.
    """
    rng = np.random.default_rng(seed)
    uniform = np.full(n, 1 / n)
    values = [statistic(_draw(rng, n, uniform)) for _ in range(REPLICATES)]
    low, high = np.nanpercentile(values, [2.5, 97.5]).tolist()
    return Interval(float(low), float(high))


def _draw(rng: np.random.Generator, n: int, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
