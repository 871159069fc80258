"""What a report shows, computed from a result and its predictions: no HTML, no plots."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import ResultError
from linprobe.terminal import human_bytes
from linprobe_train.results.result import ProbeResult
from linprobe_train.scores.calibration import ECE_BINS
from linprobe_train.scores.intervals import Interval, wilson
from linprobe_train.scores.predictions import Predictions
from linprobe_train.scores.ranking import average_precision, rank
from linprobe_train.solver.memory import available_bytes
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
class Pair:
    """Rows of one class that were taken for another."""

    truth: int
    """Label of the rows."""
    said: int
    """Label that the probe gave."""
    rows: int
    """How many."""
    of: int
    """Rows of the true class."""


@dataclass(frozen=True)
class Confusion:
    """How often one class was taken for another."""

    counts: NDArray[np.int64]
    """(k, k): row the true class, column the predicted one."""

    def shares(self) -> Float64:
        """Every cell as a share of its true class, (k, k)."""
        shares: Float64 = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        return shares

    def cells(self) -> dict[str, dict[str, int]]:
        """The cells that are not 0: true label, predicted label, rows."""
        cells: dict[str, dict[str, int]] = {}
        for i, j in np.argwhere(self.counts).tolist():
            cells.setdefault(str(i), {})[str(j)] = int(self.counts[i, j])
        return cells

    def pairs(self, most: int) -> list[Pair]:
        """The most frequent confusions, most frequent first; at most ``most``."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        cells = np.argwhere(wrong)
        order = np.argsort(-wrong[wrong > 0], kind="stable")[:most]
        of = self.counts.sum(axis=1).tolist()
        return [Pair(i, j, int(wrong[i, j]), of[i]) for i, j in cells[order].tolist()]


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

    classes: Sequence[ClassScore]
    """Lowest value first; classes without a test row are left out."""
    confusion: Confusion | None
    """None for multi-label rows."""
    calibration: Calibration
    """Of the named class; of every class for multi-label rows."""
    mistakes: Sequence[Mistake]
    """Most confident first, at most 24."""


def report_facts(result: ProbeResult, rows: Predictions) -> ReportFacts:
    """Compute everything, with memory k^2; ``ResultError``: there is not enough of it."""
    names = result.classes
    if rows.labels.ndim == 2:
        wrong = np.take_along_axis(rows.labels, rows.top[:, :1], axis=1)[:, 0] == 0
        p, hot = rows.label_probability.astype(np.float64), rows.labels == 1
        calibration = _calibration(p.ravel(), hot.ravel())
        classes, confusion = _precisions(p, hot, names), None
    else:
        wrong = rows.top[:, 0] != rows.labels
        calibration = _calibration(rows.probability[:, 0].astype(np.float64), ~wrong)
        k = len(names)
        if 24 * k * k > available_bytes():  # counts, shares, and what is being shown of them
            hint = "compare shows the scores of any number of classes"
            raise ResultError(f"a report of {k} classes needs {human_bytes(24 * k * k)}", hint=hint)
        cells = np.bincount(rows.labels.astype(np.int64) * k + rows.top[:, 0], minlength=k * k)
        confusion = Confusion(cells.reshape(k, k))
        classes = _accuracies(confusion, names)
    classes.sort(key=lambda score: (score.value, score.name))
    return ReportFacts(classes, confusion, calibration, _mistakes(rows, wrong, names))


def _mistakes(rows: Predictions, wrong: NDArray[np.bool_], names: Sequence[str]) -> list[Mistake]:
    order = np.flatnonzero(wrong)
    order = order[np.argsort(-rows.probability[order, 0], kind="stable")][:MISTAKES]
    mistakes = []
    for i in order.tolist():
        own = np.flatnonzero(rows.labels[i]) if rows.labels.ndim == 2 else rows.labels[i : i + 1]
        truth = ", ".join(names[j] for j in own.tolist()) or "none"
        said, p = names[int(rows.top[i, 0])], float(rows.probability[i, 0])
        mistakes.append(Mistake(str(rows.keys[i]), truth, said, p))
    return mistakes


def _accuracies(confusion: Confusion, names: tuple[str, ...]) -> list[ClassScore]:
    worst = {pair.truth: pair for pair in reversed(confusion.pairs(confusion.counts.size))}
    of, scores = confusion.counts.sum(axis=1), []
    for i in np.flatnonzero(of).tolist():
        n, right, pair = int(of[i]), int(confusion.counts[i, i]), worst.get(i)
        taken = f"{names[pair.said]} ({pair.rows})" if pair else ""
        scores.append(ClassScore(names[i], n, right / n, wilson(right, n), taken))
    return scores


def _precisions(p: Float64, hot: NDArray[np.bool_], names: tuple[str, ...]) -> list[ClassScore]:
    scores = []
    for j in np.flatnonzero(hot.any(axis=0)).tolist():
        value = average_precision(rank(p[:, j], hot[:, j]), np.ones(len(p)))
        scores.append(ClassScore(names[j], int(hot[:, j].sum()), value, None, ""))
    return scores


def _calibration(confidence: Float64, right: NDArray[np.bool_]) -> Calibration:
    """Bins of equal width, as ECE has them."""
    bins = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    rows = np.bincount(bins, minlength=ECE_BINS)
    filled = rows > 0
    total = np.bincount(bins, confidence, ECE_BINS)[filled]
    hits = np.bincount(bins, right, ECE_BINS)[filled]
    return Calibration(total / rows[filled], hits / rows[filled], rows[filled].astype(np.int64))
