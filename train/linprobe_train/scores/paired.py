"""McNemar's test: two probes on the same test rows.

Rows that are easy or hard are so for every encoder: a paired test sees through that, two separate
intervals do not. The paired bootstrap is in :mod:`linprobe_train.scores.intervals`.
"""

from dataclasses import dataclass

from scipy.stats import binom

from linprobe_train.scores.predictions import Hits


@dataclass(frozen=True)
class McNemar:
    """Two probes on the rows where only one of them is right."""

    only_first: int
    """Rows that only the first gets right."""
    only_second: int
    """Rows that only the second gets right."""
    p: float
    """Two-sided: how probable so uneven a split is if both are equally good."""


def mcnemar(first: Hits, second: Hits) -> McNemar:
    """McNemar's test, exact for any number of rows.

    Under equality the discordant rows fall to either side like coins. McNemar 1947, "Note on the
    sampling error of the difference between correlated proportions"; the exact binomial form
    replaces his chi-square, which is off where the discordant rows are few.

    Parameters
    ----------
    first, second : (n,) whether each probe is right about a row, rows in the same order.
    """
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    fewer = min(only_first, only_second)
    p = min(1.0, 2 * float(binom.cdf(fewer, only_first + only_second, 0.5)))
    return McNemar(only_first, only_second, p)
