"""What a report shows, worked out from a result and its predictions: no HTML, no plots."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linprobe_train.results.answers import ProbeResult
from linprobe_train.scores.intervals import Interval, wilson
from linprobe_train.scores.metrics import ECE_BINS
from linprobe_train.scores.predictions import Predictions, Probabilities
from linprobe_train.scores.ranking import average_precision, rank
from linprobe_train.solver.preparation import Float64

MISTAKES = 24
"""Mistakes shown: a screen of pictures."""


@dataclass(frozen=True)
class ClassScore:
    """One class on the test rows."""

    name: str
    """Class name."""
    rows: int
    """Test rows of the class."""
    value: float
    """Share of them that is right; average precision for multi-label rows."""
    interval: Interval | None
    """95 %, Wilson; None for average precision."""
    confused_with: str
    """The class it is most often taken for, with how often; "" for none."""


@dataclass(frozen=True)
class Confusion:
    """How often one class was taken for another."""

    counts: NDArray[np.int64]
    """(k, k): row the true class, column the predicted one."""

    def pairs(self, most: int) -> list[tuple[int, int, int]]:
        """The most frequent confusions: true class, predicted class, rows; most frequent first."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        true, predicted = np.unravel_index(order, wrong.shape)
        found = zip(true.tolist(), predicted.tolist(), wrong.ravel()[order].tolist(), strict=True)
        return [pair for pair in found if pair[2] > 0]


@dataclass(frozen=True)
class Calibration:
    """How sure the probe was and how often it was right, in bins of confidence."""

    confidence: Float64
    """(bins,) mean confidence; bins without rows are left out."""
    accuracy: Float64
    """(bins,) share that is right."""
    rows: NDArray[np.int64]
    """(bins,) how many."""


@dataclass(frozen=True)
class Mistake:
    """A row that the probe got wrong."""

    key: str
    """Sample key."""
    truth: str
    """Class names of the row."""
    said: str
    """The class that the probe named."""
    probability: float
    """How sure it was."""


@dataclass(frozen=True)
class ReportFacts:
    """Everything drawn from predictions."""

    classes: tuple[ClassScore, ...]
    """Lowest value first; classes without a test row are left out."""
    confusion: Confusion | None
    """None for multi-label rows."""
    calibration: Calibration
    """Of the named class; of every class for multi-label rows."""
    mistakes: tuple[Mistake, ...]
    """Most confident first, at most 24."""


def report_facts(result: ProbeResult, rows: Predictions) -> ReportFacts:
    """Work everything out; single pass over n rows, memory k^2."""
    wrong = _wrong(rows)
    names = result.classes
    order = np.flatnonzero(wrong)
    order = order[np.argsort(-rows.probability[order, 0], kind="stable")][:MISTAKES]
    mistakes = tuple(
        Mistake(
            str(rows.keys[i]),
            _truth(rows, int(i), names),
            names[int(rows.top[i, 0])],
            float(rows.probability[i, 0]),
        )
        for i in order
    )
    if rows.labels.ndim == 2:
        p, hot = rows.label_probability, rows.labels
        calibration = _calibration(p.ravel().astype(np.float64), hot.ravel() == 1)
        return ReportFacts(_precisions(p, hot, names), None, calibration, mistakes)
    confusion = _confusion(rows, len(names))
    calibration = _calibration(rows.probability[:, 0].astype(np.float64), ~wrong)
    return ReportFacts(_shares(confusion, names), confusion, calibration, mistakes)


def _wrong(rows: Predictions) -> NDArray[np.bool_]:
    if rows.labels.ndim == 2:
        return np.asarray(np.take_along_axis(rows.labels, rows.top[:, :1], axis=1)[:, 0] == 0)
    return np.asarray(rows.top[:, 0] != rows.labels)


def _truth(rows: Predictions, i: int, names: tuple[str, ...]) -> str:
    if rows.labels.ndim == 1:
        return names[int(rows.labels[i])]
    return ", ".join(names[j] for j in np.flatnonzero(rows.labels[i])) or "none"


def _confusion(rows: Predictions, k: int) -> Confusion:
    cells = np.asarray(rows.labels, np.int64) * k + rows.top[:, 0]
    return Confusion(np.bincount(cells, minlength=k * k).reshape(k, k).astype(np.int64))


def _shares(confusion: Confusion, names: tuple[str, ...]) -> tuple[ClassScore, ...]:
    found = []
    for i, row in enumerate(confusion.counts):
        n, right = int(row.sum()), int(row[i])
        if n == 0:
            continue
        others = row.copy()
        others[i] = 0
        worst = int(others.argmax())
        taken = f"{names[worst]} ({others[worst]})" if others[worst] else ""
        found.append(ClassScore(names[i], n, right / n, wilson(right, n), taken))
    return tuple(sorted(found, key=lambda one: (one.value, one.name)))


def _precisions(
    p: Probabilities, hot: NDArray[np.integer], names: tuple[str, ...]
) -> tuple[ClassScore, ...]:
    found = []
    for j, name in enumerate(names):
        n = int(hot[:, j].sum())
        if n:
            ranking = rank(p[:, j].astype(np.float64), hot[:, j] == 1)
            value = average_precision(ranking, np.ones(len(p)))
            found.append(ClassScore(name, n, value, None, ""))
    return tuple(sorted(found, key=lambda one: (one.value, one.name)))


def _calibration(confidence: Float64, right: NDArray[np.bool_]) -> Calibration:
    """Bins of equal width, as ECE has them."""
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    rows = np.bincount(bins, minlength=ECE_BINS)
    filled = rows > 0
    total = np.bincount(bins, confidence, ECE_BINS)[filled]
    hits = np.bincount(bins, right, ECE_BINS)[filled]
    return Calibration(total / rows[filled], hits / rows[filled], rows[filled].astype(np.int64))
