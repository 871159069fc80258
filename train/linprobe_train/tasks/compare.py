"""Encoders, taps and protocols side by side on the same test rows.

Rows are matched by key. What only some results have is left out of the comparison, and said so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe.benchmarks import published
from linprobe.errors import ResultError
from linprobe_train.results.collect import Collected, StoreFacts, facts_of
from linprobe_train.scores.intervals import Interval, Replicates, resample
from linprobe_train.scores.metrics import Metric, metric_named
from linprobe_train.scores.paired import McNemar, mcnemar
from linprobe_train.scores.predictions import Predictions


@dataclass(frozen=True)
class Matched:
    """Results that share test rows, on the rows that all of them have."""

    members: tuple[Collected, ...]
    """The results."""
    predictions: tuple[Predictions, ...]
    """Theirs, row i of each being the same sample; ordered by key."""
    notes: tuple[str, ...]
    """Rows that not all of them have."""


@dataclass(frozen=True)
class Standing:
    """One result among those of its dataset, on the rows that all of them have."""

    label: str
    """What tells it from the others."""
    encoder: str
    """Model name."""
    tap: str
    """Where the features were taken."""
    protocol: str
    """Name of the protocol."""
    C: float
    """Inverse L2 strength of the fit."""
    value: float
    """The comparison's metric, a share in [0, 1] unless its unit is another."""
    interval: Interval
    """95 %."""
    top1: float | None
    """Accuracy, for single-label rows."""
    difference: float
    """Value minus that of the best result."""
    difference_interval: Interval
    """95 %, paired bootstrap."""
    mcnemar: McNemar | None
    """Against the best; its ``only_first`` are the rows that only the best gets right. None for
    multi-label rows."""
    dim: int
    """Features of a row."""
    bytes_per_image: int | None
    """Bytes of a stored row; None without a store at hand."""
    bytes: int | None
    """Bytes of all stored rows used."""
    published: str | None
    """The paper's number where it asked the same question."""
    folder: str
    """Where the result lies."""


@dataclass(frozen=True)
class Comparison:
    """The results of one dataset."""

    dataset: str
    """Name."""
    metric: str
    """Name of the metric that decides."""
    rows: int
    """Test rows that all results have."""
    standings: tuple[Standing, ...]
    """Best first; of equal ones, the smaller features first."""
    notes: tuple[str, ...]
    """What a reader must know."""


@dataclass(frozen=True)
class Overview:
    """All results by dataset."""

    datasets: tuple[str, ...]
    """Columns."""
    labels: tuple[str, ...]
    """Lines, highest average first; those without all datasets last."""
    values: tuple[tuple[float | None, ...], ...]
    """Each dataset's own metric by line and column; None where there is no result."""
    averages: tuple[float | None, ...]
    """Mean over the datasets by line; None where one is missing."""


def compare(
    results: Sequence[Collected], *, store: Path | None = None, seed: int = 0, strict: bool = False
) -> tuple[Comparison, ...]:
    """Compare results dataset by dataset, in the order of the names.

    Parameters
    ----------
    store : feature store, for the size of features and whether they have changed; None or a folder
        that is not there leaves both out.
    seed : of the bootstrap.
    strict : whether results of one dataset name without a common test row are refused rather than
        shown apart.

    Raises
    ------
    ResultError : results name different classes for the same key; ``strict`` ones share no row.
    OptionError : a result's metric is of a package that is not installed here.
    """
    comparisons = []
    for name in sorted({collected.dataset for collected in results}):
        groups = match_rows([collected for collected in results if collected.dataset == name])
        if strict and len(groups) > 1:
            first, second = groups[0].members[0], groups[1].members[0]
            raise ResultError(
                f"'{first.folder}' and '{second.folder}' were tested on sets of {name} that share "
                "no key",
                hint="extract both encoders from the same shards, then probe again",
            )
        apart = () if len(groups) == 1 else (f"{len(groups)} test sets of {name} share no key",)
        comparisons += [_comparison(group, store, seed, apart) for group in groups]
    return tuple(comparisons)


def match_rows(results: Sequence[Collected]) -> tuple[Matched, ...]:
    """Group results that have test rows in common, and bring their rows into one order.

    Raises
    ------
    ResultError : two results name different classes for one key.
    """
    groups: list[list[tuple[Collected, Predictions]]] = []
    shared: list[NDArray[np.str_]] = []
    for collected in results:
        rows = collected.predictions()
        for i, keys in enumerate(shared):
            common = np.intersect1d(keys, rows.keys)
            if len(common):
                groups[i].append((collected, rows))
                shared[i] = common
                break
        else:
            groups.append([(collected, rows)])
            shared.append(np.unique(rows.keys))
    return tuple(_matched(group, keys) for group, keys in zip(groups, shared, strict=True))


def _matched(group: Sequence[tuple[Collected, Predictions]], keys: NDArray[np.str_]) -> Matched:
    members, predictions, notes = [], [], []
    for collected, rows in group:
        left_out = len(rows.keys) - len(keys)
        if left_out:
            notes.append(
                f"{collected.label}: {left_out} of {len(rows.keys)} test rows have no counterpart "
                "in every other result and are left out"
            )
        order = np.argsort(rows.keys, kind="stable")
        members.append(collected)
        predictions.append(rows.take(order[np.searchsorted(rows.keys[order], keys)]))
        _check_same_truth(members[0], predictions[0], collected, predictions[-1])
    return Matched(tuple(members), tuple(predictions), tuple(notes))


def _check_same_truth(
    first: Collected, ours: Predictions, second: Collected, theirs: Predictions
) -> None:
    """Refuse results that do not mean the same by the same key; class ids may differ."""
    our_names, their_names = _truth(first, ours), _truth(second, theirs)
    differ = np.flatnonzero(our_names != their_names)
    if len(differ) == 0:
        return
    i = int(differ[0])
    raise ResultError(
        f"'{first.folder}' and '{second.folder}' give different classes to {len(differ)} of "
        f"{ours.n} test rows; the first is '{ours.keys[i]}': {our_names[i]} and {their_names[i]}",
        hint="probe both encoders on the same labels",
    )


def _truth(collected: Collected, rows: Predictions) -> NDArray[np.str_]:
    """Names of the classes of every row, (n,)."""
    names = np.array(collected.result.classes, dtype=np.str_)
    if rows.labels.ndim == 1:
        return np.asarray(names[rows.labels])
    return np.array([", ".join(sorted(names[row == 1])) for row in rows.labels], dtype=np.str_)


def _comparison(
    group: Matched, store: Path | None, seed: int, notes: tuple[str, ...]
) -> Comparison:
    results = [collected.result for collected in group.members]
    facts = [facts_of(result, store) for result in results]
    metric = metric_named(results[0].question.metric)
    n = group.predictions[0].n
    replicates = resample([metric.statistic(rows) for rows in group.predictions], n, seed)
    order = sorted(
        range(len(results)),
        key=lambda i: (-metric.sign * float(replicates.values[i]), results[i].dim, i),
    )
    changes = [f"{group.members[i].label}: {change}" for i in order for change in facts[i].changes]
    return Comparison(
        results[0].dataset,
        metric.name,
        n,
        tuple(_standing(group, metric, replicates, i, order[0], facts[i]) for i in order),
        (*notes, *group.notes, *changes),
    )


def _standing(
    group: Matched, metric: Metric, replicates: Replicates, i: int, best: int, facts: StoreFacts
) -> Standing:
    rows, best_rows = group.predictions[i], group.predictions[best]
    result = group.members[i].result
    protocol = result.question.protocol
    is_single = rows.labels.ndim == 1
    value = float(replicates.values[i])
    paper = published(result.encoder, result.dataset, protocol.tap, protocol.name, metric.name)
    return Standing(
        label=group.members[i].label,
        encoder=result.encoder,
        tap=protocol.tap,
        protocol=protocol.name,
        C=result.C,
        value=value,
        interval=metric.interval_of(i, replicates, rows.n),
        top1=float(rows.hits().mean()) if is_single else None,
        difference=value - float(replicates.values[best]),
        difference_interval=replicates.difference(i, best),
        mcnemar=mcnemar(best_rows.hits(), rows.hits()) if is_single else None,
        dim=result.dim,
        bytes_per_image=facts.bytes_per_image,
        bytes=facts.bytes,
        published=None if paper is None else paper.beside(value),
        folder=str(group.members[i].folder),
    )


def overview_of(comparisons: Sequence[Comparison]) -> Overview:
    """Put comparisons of several datasets into one table."""
    labels = sorted({line.label for part in comparisons for line in part.standings})
    table: NDArray[np.float64] = np.full((len(labels), len(comparisons)), np.nan)
    for j, part in enumerate(comparisons):
        for line in part.standings:
            table[labels.index(line.label), j] = line.value
    means = table.mean(axis=1)
    order = sorted(range(len(labels)), key=lambda i: (np.isnan(means[i]), -means[i], i))
    return Overview(
        datasets=tuple(part.dataset for part in comparisons),
        labels=tuple(labels[i] for i in order),
        values=tuple(tuple(_known(x) for x in table[i]) for i in order),
        averages=tuple(_known(means[i]) for i in order),
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
