"""Differences between probes on the same test rows.

Rows that are easy or hard are so for every encoder: a paired test sees through that, two separate
intervals do not. Symbols: n rows, m probes, w (n,) multiplicities of rows that sum to n.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from linprobe_train.scores.intervals import REPLICATES, Interval, wilson
from linprobe_train.scores.metrics import Statistic, statistic
from linprobe_train.scores.predictions import Predictions
from linprobe_train.solver.preparation import Float64

Hits = NDArray[np.bool_]
"""(n,) whether the class of a row is right."""


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
    """
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    fewer = min(only_first, only_second)
    p = min(1.0, 2 * float(binom.cdf(fewer, only_first + only_second, 0.5)))
    return McNemar(only_first, only_second, p)


def top_hits(rows: Predictions, count: int = 1) -> Hits:
    """Whether the label is among the ``count`` most probable classes (at most five), (n,).

    For multi-label rows, whether the most probable classes include one that the row has.
    """
    top = rows.top[:, :count]
    if rows.labels.ndim == 2:
        inside: Hits = np.asarray(np.take_along_axis(rows.labels, top, axis=1).any(axis=1))
        return inside
    found: Hits = np.asarray((top == rows.labels[:, None]).any(axis=1))
    return found


def statistic_of(metric: str, rows: Predictions, k: int) -> Statistic:
    """A metric as a function of row weights, from what is kept of the predictions.

    Parameters
    ----------
    metric : ``top1``, ``top5``, ``mean_top1_top5``, ``mean_per_class``, ``roc_auc``, ``map`` or
        ``map_11_point``: every headline metric.
    k : classes.
    """
    if metric == "mean_per_class":
        return share_per_class(top_hits(rows), np.asarray(rows.labels, np.int64), k)
    shares = {"top1": (1,), "top5": (5,), "mean_top1_top5": (1, 5)}.get(metric)
    if shares is not None:
        hits = np.mean([top_hits(rows, count) for count in shares], axis=0)
        return lambda w: float(w @ hits / w.sum())
    if rows.labels.ndim == 2:
        return statistic(metric, rows.label_probability.astype(np.float64), rows.labels)
    # Two classes: the kept probabilities are all there are.
    p = np.empty((len(rows.top), k))
    np.put_along_axis(p, rows.top, rows.probability.astype(np.float64), axis=1)
    return statistic(metric, p, rows.labels)


def share_per_class(hits: Hits, labels: NDArray[np.int64], k: int) -> Statistic:
    """Mean over the classes with rows of the share of hits, as a function of row weights."""

    def value(w: Float64) -> float:
        rows = np.bincount(labels, w, k)
        right = np.bincount(labels, w * hits, k)
        return float((right[rows > 0] / rows[rows > 0]).mean())

    return value


@dataclass(frozen=True)
class Replicates:
    """m statistics of n rows, and of the same resamplings of these rows."""

    values: Float64
    """(m,) on the rows as they are."""
    resampled: Float64
    """(REPLICATES, m); a line is one draw of rows, the same for all m."""

    def interval(self, i: int) -> Interval:
        """95 % percentile interval of one."""
        return _percentiles(self.resampled[:, i])

    def difference(self, i: int, j: int) -> Interval:
        """95 % percentile interval of ``i`` minus ``j``: the paired bootstrap.

        Efron and Tibshirani 1993, "An introduction to the bootstrap", section 13.3.
        """
        return _percentiles(self.resampled[:, i] - self.resampled[:, j])


def resample(statistics: Sequence[Statistic], n: int, seed: int) -> Replicates:
    """Evaluate statistics of n >= 1 rows on the rows and on resamplings of them."""
    rng = np.random.default_rng(seed)
    ones = np.ones(n)
    resampled = np.empty((REPLICATES, len(statistics)))
    for line in resampled:
        w = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        line[:] = [one(w) for one in statistics]
    return Replicates(np.array([one(ones) for one in statistics]), resampled)


def interval_of(metric: str, i: int, found: Replicates, n: int) -> Interval:
    """Interval of one statistic: Wilson's for shares of rows, else the bootstrap's."""
    if metric in ("top1", "top5"):
        return wilson(round(float(found.values[i]) * n), n)
    return found.interval(i)


def _percentiles(values: Float64) -> Interval:
    low, high = np.nanpercentile(values, [2.5, 97.5]).tolist()
    return Interval(float(low), float(high))
