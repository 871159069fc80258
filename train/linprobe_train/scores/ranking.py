"""Average precision by class, multi-label; rows of equal probability are one step of ranking."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linprobe_train.scores.intervals import Statistic, Weights
from linprobe_train.scores.predictions import Predictions
from linprobe_train.solver.preparation import Float64

RECALLS = np.linspace(0, 1, 11)
"""Recall levels of the 11-point average: 0, 0.1, ..., 1."""


@dataclass(frozen=True)
class Ranking:
    """Rows by falling probability of one class."""

    order: NDArray[np.intp]
    """(n,) row numbers."""
    ends: NDArray[np.intp]
    """Last place of every step of equal probability."""
    positive: NDArray[np.bool_]
    """(n,) whether the row in each place has the class."""

    def precision_and_recall(self, weights: Weights) -> tuple[Float64, Float64]:
        """After every step, (steps,) each; NaN recall where no row has the class."""
        w = weights[self.order]
        hits = np.cumsum(w * self.positive)[self.ends]
        seen = np.cumsum(w)[self.ends]
        precision = np.divide(hits, seen, out=np.ones_like(hits), where=seen > 0)
        recall = np.divide(hits, hits[-1], out=np.full_like(hits, np.nan), where=hits[-1] > 0)
        return precision, recall


def rank(p: Float64, positive: NDArray[np.bool_]) -> Ranking:
    """Rank rows by the probability of a class, (n,)."""
    order = np.argsort(-p, kind="stable")
    steps = np.flatnonzero(np.diff(p[order]))
    return Ranking(order, np.append(steps, len(p) - 1), positive[order])


def average_precision(ranking: Ranking, weights: Weights) -> float:
    """Sum over steps of precision times the gain in recall, scikit-learn's definition."""
    precision, recall = ranking.precision_and_recall(weights)
    return float(precision @ np.diff(recall, prepend=0))


def eleven_point(ranking: Ranking, weights: Weights) -> float:
    """Mean over 11 recall levels of the best precision at that recall or more.

    Everingham et al. 2010, "The PASCAL visual object classes challenge", section 4.2; VOC2007.
    """
    precision, recall = ranking.precision_and_recall(weights)
    if np.isnan(recall[-1]):
        return float("nan")
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # A recall of 3/10 must count as 0.3 whatever the last bit of the division.
    places = np.searchsorted(recall, RECALLS - 1e-12)
    return float(best[places].mean())


def mean_over_classes(score: Callable[[Ranking, Weights], float], rows: Predictions) -> Statistic:
    """Mean of a score over the classes that some row has."""
    p, labels = rows.label_probability.astype(np.float64), rows.labels
    rankings = [rank(p[:, j], labels[:, j] == 1) for j in range(p.shape[1])]

    def value(weights: Weights) -> float:
        scores = np.array([score(ranking, weights) for ranking in rankings])
        known = ~np.isnan(scores)
        return float(scores[known].mean()) if known.any() else float("nan")

    return value
