"""Scores of predictions, each with its 95 % interval.

Every metric is a function of row weights (multiplicities): the same code gives the value (all ones)
and its bootstrap. n rows, k classes; probabilities p (n, k).

Scores of rankings: average precision by class, for multi-label rows.

Rows of equal probability form one step of the ranking: no order is made up among them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import OptionError
from linprobe_store.format.spec import LabelArray
from linprobe_train.scores.intervals import Interval, bootstrap, wilson
from linprobe_train.solver.preparation import Float64

TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_top1_top5": "mean of top-1 and top-5",
    "mean_per_class": "mean per class",
    "macro_f1": "macro F1",
    "nll": "negative log likelihood",
    "ece": "ECE",
    "roc_auc": "ROC AUC",
    "map_11_point": "11-point mAP",
    "map": "mAP",
}
"""Names of metrics for people."""

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

    def precision_and_recall(self, weights: Float64) -> tuple[Float64, Float64]:
        """After every step, (steps,) each; NaN recall where no row has the class."""
        w = weights[self.order]
        hits = np.cumsum(w * self.positive)[self.ends]
        seen = np.cumsum(w)[self.ends]
        ones = np.ones_like(hits)
        precision = np.divide(hits, seen, out=ones, where=seen > 0)
        recall = np.divide(hits, hits[-1], out=np.full_like(hits, np.nan), where=hits[-1] > 0)
        return precision, recall


def rank(p: Float64, positive: NDArray[np.bool_]) -> Ranking:
    """Rank rows by the probability of a class, (n,)."""
    order = np.argsort(-p, kind="stable")
    steps = np.flatnonzero(np.diff(p[order]))
    return Ranking(order, np.append(steps, len(p) - 1), positive[order])


def average_precision(ranking: Ranking, weights: Float64) -> float:
    """Sum over steps of precision times the gain in recall, scikit-learn's definition."""
    precision, recall = ranking.precision_and_recall(weights)
    return float(precision @ np.diff(recall, prepend=0))


def eleven_point(ranking: Ranking, weights: Float64) -> float:
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


def mean_over_classes(
    score: Callable[[Ranking, Float64], float], p: Float64, labels: LabelArray
) -> Callable[[Float64], float]:
    """Mean of a score over the classes that some row has, as a function of row weights."""
    rankings = [rank(p[:, j], labels[:, j] == 1) for j in range(p.shape[1])]

    def value(weights: Float64) -> float:
        scores = np.array([score(ranking, weights) for ranking in rankings])
        known = ~np.isnan(scores)
        return float(scores[known].mean()) if known.any() else float("nan")

    return value


Weights = NDArray[np.float64]
Statistic = Callable[[Weights], float]

ECE_BINS = 15
"""Guo et al. 2017, "On calibration of modern neural networks"."""


@dataclass(frozen=True)
class Score:
    """One metric on one split."""

    name: str
    """``top1``, ``top5``, ``mean_per_class``, ``macro_f1``, ``nll``, ``ece``, ``roc_auc``,
    ``mean_top1_top5``, ``map_11_point`` or ``map``."""
    value: float
    """A share in [0, 1], except ``nll`` in nats."""
    interval: Interval
    """95 %."""


def score_names(k: int, *, multi_label: bool) -> tuple[str, ...]:
    """Names of the metrics that exist for k classes, the most usual headline first."""
    if multi_label:
        return ("map", "map_11_point")
    names = ("top1", "mean_per_class", "macro_f1", "nll", "ece")
    if k == 2:
        return (*names, "roc_auc")
    return (*names, "top5", "mean_top1_top5") if k > 5 else names


def score_value(name: str, p: NDArray[np.float64], labels: LabelArray) -> float:
    """One metric without its interval; p (n, k), labels (n,) or (n, k)."""
    return statistic(name, p, labels)(np.ones(len(p)))


def scores_of(p: NDArray[np.float64], labels: LabelArray, seed: int) -> tuple[Score, ...]:
    """Every metric that exists, with its interval; p (n, k), labels (n,) or (n, k)."""
    names = score_names(p.shape[1], multi_label=labels.ndim == 2)
    return tuple(_score(name, p, labels, seed) for name in names)


def _score(name: str, p: NDArray[np.float64], labels: LabelArray, seed: int) -> Score:
    n = len(p)
    function = statistic(name, p, labels)
    value = function(np.ones(n))
    if name in ("top1", "top5"):
        return Score(name, value, wilson(round(value * n), n))
    return Score(name, value, bootstrap(function, n, seed))


def statistic(name: str, p: NDArray[np.float64], labels: LabelArray) -> Statistic:
    """Metric as a function of row weights; sorting and lookups are done once, here.

    Raises
    ------
    OptionError : no such metric, or one that these labels do not have.
    """
    known = score_names(p.shape[1], multi_label=labels.ndim == 2)
    if name not in known:
        raise OptionError(
            f"the metric {name!r} does not exist here; these labels have {', '.join(known)}",
            hint=f"choose {known[0]}",
        )
    return _STATISTICS[name](p, labels)


def in_top(p: NDArray[np.float64], labels: LabelArray, count: int) -> NDArray[np.bool_]:
    """Whether the label is among the ``count`` most probable classes, (n,).

    Of equally probable classes the smaller id comes first.
    """
    own = p[np.arange(len(p)), labels][:, None]
    earlier = np.arange(p.shape[1]) < labels[:, None]
    ahead = (p > own).sum(axis=1) + ((p == own) & earlier).sum(axis=1)
    inside: NDArray[np.bool_] = ahead < count
    return inside


def _top(count: int) -> Callable[[NDArray[np.float64], LabelArray], Statistic]:
    def make(p: NDArray[np.float64], labels: LabelArray) -> Statistic:
        hit = in_top(p, labels, count).astype(np.float64)
        return lambda w: float(w @ hit / w.sum())

    return make


def _mean_top1_top5(p: NDArray[np.float64], labels: LabelArray) -> Statistic:
    first, fifth = _top(1)(p, labels), _top(5)(p, labels)
    return lambda w: (first(w) + fifth(w)) / 2


def _mean_per_class(p: NDArray[np.float64], labels: LabelArray) -> Statistic:
    hit, k = in_top(p, labels, 1), p.shape[1]

    def value(w: Weights) -> float:
        rows = np.bincount(labels, w, k)
        hits = np.bincount(labels, w * hit, k)
        return float((hits[rows > 0] / rows[rows > 0]).mean())

    return value


def _macro_f1(p: NDArray[np.float64], labels: LabelArray) -> Statistic:
    predicted, k = p.argmax(axis=1), p.shape[1]
    hit = predicted == labels

    def value(w: Weights) -> float:
        # Classes neither present nor predicted have no F1, as in scikit-learn's default labels.
        size = np.bincount(labels, w, k) + np.bincount(predicted, w, k)
        hits = np.bincount(labels, w * hit, k)
        return float((2 * hits[size > 0] / size[size > 0]).mean())

    return value


def _nll(p: NDArray[np.float64], labels: LabelArray) -> Statistic:
    # scikit-learn's log_loss clips at the same place; a class missing from training has p = 0.
    own = np.maximum(p[np.arange(len(p)), labels], np.finfo(np.float64).eps)
    losses = -np.log(own)
    return lambda w: float(w @ losses / w.sum())


def _ece(p: NDArray[np.float64], labels: LabelArray) -> Statistic:
    """Gap between confidence and accuracy over equal-width bins, weighted by rows."""
    confidence = p.max(axis=1)
    error = confidence - (p.argmax(axis=1) == labels)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    return lambda w: float(np.abs(np.bincount(bins, w * error, ECE_BINS)).sum() / w.sum())


def _roc_auc(p: NDArray[np.float64], labels: LabelArray) -> Statistic:
    """Chance that a row of class 1 scores above a row of class 0; ties count half."""
    _, group = np.unique(p[:, 1], return_inverse=True)
    positive = labels == 1

    def value(w: Weights) -> float:
        up = np.bincount(group, w * positive)
        down = np.bincount(group, w * ~positive)
        pairs = up.sum() * down.sum()
        below = np.cumsum(down) - down
        return float(up @ (below + down / 2) / pairs) if pairs else float("nan")

    return value


_Make = Callable[[NDArray[np.float64], LabelArray], Statistic]
_STATISTICS: dict[str, _Make] = {
    "top1": _top(1),
    "top5": _top(5),
    "mean_top1_top5": _mean_top1_top5,
    "mean_per_class": _mean_per_class,
    "macro_f1": _macro_f1,
    "nll": _nll,
    "ece": _ece,
    "roc_auc": _roc_auc,
    "map": partial(mean_over_classes, average_precision),
    "map_11_point": partial(mean_over_classes, eleven_point),
}
