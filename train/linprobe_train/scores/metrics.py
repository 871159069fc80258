"""Metrics, functions of row weights: a row each of :data:`METRICS`, or a ``linprobe.metrics``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np

from linprobe.errors import DataError, OptionError
from linprobe.plugins import declared
from linprobe_store.format.spec import LabelArray
from linprobe_train.scores.calibration import confidence_gap, ece, ece_interval, gap_interval
from linprobe_train.scores.intervals import Interval, Replicates, Statistic, resample, wilson
from linprobe_train.scores.predictions import TOP, Predictions, predictions_of
from linprobe_train.scores.ranking import average_precision, eleven_point, mean_over_classes
from linprobe_train.solver.preparation import Float64

Labels = Literal["single-label", "two classes", "over 5 classes", "multi-label"]
"""Labels that a metric exists for: single-label rows of any, two or many classes; multi-label."""

CALIBRATION = (
    "a probe that says the share of each class for every row is calibrated, and knows nothing"
)
"""Why C is not chosen by calibration."""


@dataclass(frozen=True)
class Metric:
    """One way to score predictions."""

    name: str
    """As in ``result.json`` and ``--metric``."""
    title: str
    """For people."""
    needs: Labels
    """Labels that it exists for."""
    statistic: Callable[[Predictions], Statistic]
    """Prepares predictions, sorting and looking up once, and gives the value by row weights. It may
    use the ``top`` best classes of every row and the probability of every label."""
    top: int = 1
    """Classes of a row that it looks at, at most 5."""
    interval: Literal["wilson", "bootstrap"] | Callable[[Predictions, int], Interval] = "bootstrap"
    """``wilson`` for shares of rows; of predictions and a seed where neither is valid."""
    unit: str = "%"
    """``%``: a share in [0, 1], printed in per cent; else what is printed behind the value."""
    better: Literal["higher", "lower", "nearer 0"] = "higher"
    """Which of two values is the better one."""
    no_choice: str = ""
    """Why C cannot be chosen by it; "" where it can."""

    def merit(self, value: float) -> float:
        """What is larger for the better of two values."""
        return {"higher": value, "lower": -value, "nearer 0": -abs(value)}[self.better]

    def check_choice(self) -> None:
        """Refuse, by an ``OptionError``, to choose C by what rewards probes that know nothing."""
        if self.no_choice:
            what = f"C cannot be chosen by {self.title}: {self.no_choice}"
            raise OptionError(what, hint="--metric nll rewards probabilities that can be used")

    def exists_for(self, k: int, *, multi_label: bool) -> bool:
        """Whether labels of k classes have it."""
        if multi_label or self.needs == "multi-label":
            return multi_label and self.needs == "multi-label"
        return {"two classes": k == 2, "over 5 classes": k > TOP}.get(self.needs, True)

    def interval_of(self, i: int, replicates: Replicates, rows: Predictions, seed: int) -> Interval:
        """95 % interval of statistic i of ``replicates``, which are of these rows."""
        if self.interval == "wilson":
            return wilson(round(float(replicates.values[i]) * rows.n), rows.n)
        return replicates.interval(i) if self.interval == "bootstrap" else self.interval(rows, seed)


@dataclass(frozen=True)
class Score:
    """One metric on one split."""

    name: str
    """Name of the metric."""
    value: float
    """In the metric's unit; a share in [0, 1] where that is per cent."""
    interval: Interval
    """95 %."""


def metric_named(name: str) -> Metric:
    """Look a metric up; ``OptionError`` lists those there are."""
    metrics = all_metrics()
    if name not in metrics:
        raise OptionError(f"no metric {name!r}; known: {', '.join(metrics)}", hint="--metric top1")
    return metrics[name]


def title_of(name: str) -> str:
    """A metric's name for people; the name itself where its package is not installed here."""
    return all_metrics()[name].title if name in all_metrics() else name


def unit_of(name: str) -> str:
    """A metric's unit; "" where its package is not installed here."""
    return all_metrics()[name].unit if name in all_metrics() else ""


def scale_of(name: str) -> float:
    """What a metric's value is multiplied by for people: 100 for shares, else 1."""
    return 100.0 if unit_of(name) == "%" else 1.0


@cache
def all_metrics() -> Mapping[str, Metric]:
    """Metrics by name, in the order of a result: ours, then those of installed packages."""
    return {metric.name: metric for metric in (*METRICS, *declared("linprobe.metrics", Metric))}


def score_names(k: int, *, multi_label: bool) -> tuple[str, ...]:
    """Names of the metrics that exist for labels of k classes, the usual headline first."""
    metrics = all_metrics().values()
    return tuple(m.name for m in metrics if m.exists_for(k, multi_label=multi_label))


def metric_of_labels(name: str, k: int, *, multi_label: bool) -> Metric:
    """Look up a metric; ``OptionError``: there is none, or labels of k classes do not have it."""
    metric = metric_named(name)
    if not metric.exists_for(k, multi_label=multi_label):
        known = score_names(k, multi_label=multi_label)
        raise OptionError(
            f"the metric {name!r} does not exist for these labels, which have {', '.join(known)}",
            hint=f"--metric {known[0]}",
        )
    return metric


def score_value(name: str, p: Float64, labels: LabelArray) -> float:
    """One metric, without its interval, of p (n, k) for labels (n,), or (n, k) multi-hot.

    ``OptionError``: these labels do not have it; ``DataError``: these rows do not, such as an area
    under the curve of a single class.
    """
    return score_of(name, predictions_of(p, labels, count=metric_named(name).top), p.shape[1])


def score_of(name: str, rows: Predictions, k: int) -> float:
    """One metric of predictions of k classes, as many a row as it looks at; see above."""
    metric = metric_of_labels(name, k, multi_label=rows.labels.ndim == 2)
    value = metric.statistic(rows)(np.ones(rows.n))
    if np.isnan(value):
        raise undefined(name, rows.n)
    return value


def undefined(name: str, n: int) -> DataError:
    """Error for rows on which a metric has no value."""
    return DataError(
        f"the metric {name!r} has no value on {n} rows: some class that it needs has none",
        hint="name another with --metric, or give the split rows of every class",
    )


def scores_of(
    rows: Predictions, k: int, seed: int, names: tuple[str, ...] | None = None
) -> tuple[Score, ...]:
    """Score n >= 1 rows of k classes, each metric with its 95 % interval on the same draws of rows.

    ``names`` None means all that these labels have. Those without a value here are left out.
    """
    if names is None:
        names = score_names(k, multi_label=rows.labels.ndim == 2)
    ones = np.ones(rows.n)
    prepared = {metric: metric.statistic(rows) for metric in map(metric_named, names)}
    known = {metric: value for metric, value in prepared.items() if not np.isnan(value(ones))}
    replicates = resample(list(known.values()), rows.n, seed)
    return tuple(
        Score(
            metric.name,
            float(replicates.values[i]),
            metric.interval_of(i, replicates, rows, seed),
        )
        for i, metric in enumerate(known)
    )


def top_share(count: int, rows: Predictions) -> Statistic:
    """Share of rows whose label is among the ``count`` most probable classes."""
    hit = rows.hits(count).astype(np.float64)
    return lambda w: float(w @ hit / w.sum())


def mean_top1_top5(rows: Predictions) -> Statistic:
    """Mean of top-1 and top-5: what the Kinetics benchmarks report."""
    first, fifth = top_share(1, rows), top_share(5, rows)
    return lambda w: (first(w) + fifth(w)) / 2


def mean_per_class(rows: Predictions) -> Statistic:
    """Mean over the classes that have rows of the share of their rows that is right."""
    hit, labels = rows.hits(), rows.labels

    def value(w: Float64) -> float:
        size, right = np.bincount(labels, w), np.bincount(labels, w * hit)
        return float((right[size > 0] / size[size > 0]).mean())

    return value


def macro_f1(rows: Predictions) -> Statistic:
    """Mean over the classes present or predicted of F1, scikit-learn's default labels."""
    predicted, labels, hit = rows.top[:, 0], rows.labels, rows.hits()
    k = int(max(predicted.max(), labels.max())) + 1

    def value(w: Float64) -> float:
        size = np.bincount(labels, w, k) + np.bincount(predicted, w, k)
        hits = np.bincount(labels, w * hit, k)
        return float((2 * hits[size > 0] / size[size > 0]).mean())

    return value


def nll(rows: Predictions) -> Statistic:
    """Mean negative log likelihood of the label, in nats.

    Clipped where scikit-learn's ``log_loss`` clips: a class missing from training has p = 0.
    """
    losses = -np.log(np.maximum(rows.label_probability, np.finfo(np.float64).eps))
    return lambda w: float(w @ losses / w.sum())


def roc_auc(rows: Predictions) -> Statistic:
    """Chance that a row of class 1 scores above a row of class 0; ties count half."""
    # Two classes: one of the two kept probabilities of every row is that of class 1.
    score = np.where(rows.top[:, 0] == 1, rows.probability[:, 0], rows.probability[:, 1])
    _, group = np.unique(score, return_inverse=True)
    positive = rows.labels == 1

    def value(w: Float64) -> float:
        up, down = np.bincount(group, w * positive), np.bincount(group, w * ~positive)
        pairs = up.sum() * down.sum()
        below = np.cumsum(down) - down
        return float(up @ (below + down / 2) / pairs) if pairs else float("nan")

    return value


METRICS = (
    Metric("top1", "top-1", "single-label", partial(top_share, 1), interval="wilson"),
    Metric("mean_per_class", "mean per class", "single-label", mean_per_class),
    Metric("macro_f1", "macro F1", "single-label", macro_f1),
    Metric("nll", "negative log likelihood", "single-label", nll, unit="nats", better="lower"),
    Metric(
        "ece",
        "ECE",
        "single-label",
        ece,
        interval=ece_interval,
        better="lower",
        no_choice=CALIBRATION,
    ),
    Metric(
        "confidence_gap",
        "confidence minus accuracy",
        "single-label",
        confidence_gap,
        interval=gap_interval,
        better="nearer 0",
        no_choice=CALIBRATION,
    ),
    Metric("roc_auc", "ROC AUC", "two classes", roc_auc, top=2),
    Metric("top5", "top-5", "over 5 classes", partial(top_share, 5), top=5, interval="wilson"),
    Metric("mean_top1_top5", "mean of top-1 and top-5", "over 5 classes", mean_top1_top5, top=5),
    Metric("map", "mAP", "multi-label", partial(mean_over_classes, average_precision)),
    Metric("map_11_point", "11-point mAP", "multi-label", partial(mean_over_classes, eleven_point)),
)
"""Ours; results list scores in this order."""
