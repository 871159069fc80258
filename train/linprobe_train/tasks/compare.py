"""Encoders, taps and protocols side by side on the same test rows.

Rows are matched by key. What only some results have is left out of the comparison and told.

Test rows of several results brought into one order, by key.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe.benchmarks import published
from linprobe.errors import ResultError
from linprobe_train.results.collect import Collected, facts_of
from linprobe_train.scores.headlines import plain_name
from linprobe_train.scores.intervals import Interval
from linprobe_train.scores.paired import (
    McNemar,
    Replicates,
    interval_of,
    mcnemar,
    resample,
    statistic_of,
    top_hits,
)
from linprobe_train.scores.predictions import Predictions

Positions = NDArray[np.intp]
"""Row numbers, (n,)."""


@dataclass(frozen=True)
class Matched:
    """Results that share test rows, on the rows that all of them have."""

    members: tuple[Collected, ...]
    """The results."""
    predictions: tuple[Predictions, ...]
    """Theirs, row i of each being the same sample; ordered by key."""
    notes: tuple[str, ...]
    """Rows that not all of them have."""

    @property
    def n(self) -> int:
        """Rows, at least 1."""
        return len(self.predictions[0].keys)


def match_rows(results: Sequence[Collected]) -> tuple[Matched, ...]:
    """Group results that have test rows in common, and bring their rows into one order.

    Raises
    ------
    ResultError : two results name different classes for one key.
    """
    groups: list[list[tuple[Collected, Predictions]]] = []
    for one in results:
        rows = one.predictions()
        for group in groups:
            if len(np.intersect1d(_common([rows for _, rows in group]), rows.keys)):
                group.append((one, rows))
                break
        else:
            groups.append([(one, rows)])
    return tuple(_matched(group) for group in groups)


def _common(every: Sequence[Predictions]) -> NDArray[np.str_]:
    keys = np.unique(every[0].keys)
    for rows in every[1:]:
        keys = np.intersect1d(keys, rows.keys)
    return keys


def _matched(group: Sequence[tuple[Collected, Predictions]]) -> Matched:
    keys = _common([rows for _, rows in group])
    notes = [
        f"{one.label}: {len(rows.keys) - len(keys)} of {len(rows.keys)} test rows have no "
        "counterpart in every other result and are left out"
        for one, rows in group
        if len(rows.keys) > len(keys)
    ]
    members = tuple(one for one, _ in group)
    taken = tuple(_take(rows, _positions(rows, keys)) for _, rows in group)
    for one, rows in zip(members[1:], taken[1:], strict=True):
        _check_same_truth(members[0], taken[0], one, rows)
    return Matched(members, taken, tuple(notes))


def _positions(rows: Predictions, keys: NDArray[np.str_]) -> Positions:
    order = np.argsort(rows.keys, kind="stable")
    found: Positions = order[np.searchsorted(rows.keys[order], keys)]
    return found


def _take(rows: Predictions, at: Positions) -> Predictions:
    return Predictions(
        rows.keys[at],
        rows.labels[at],
        rows.top[at],
        rows.probability[at],
        rows.label_probability[at],
    )


def _check_same_truth(
    first: Collected, ours: Predictions, second: Collected, theirs: Predictions
) -> None:
    """Refuse results that do not mean the same by the same key; class ids may differ."""
    differ = np.flatnonzero(_truth(first, ours) != _truth(second, theirs))
    if len(differ) == 0:
        return
    i = int(differ[0])
    raise ResultError(
        f"'{first.folder}' and '{second.folder}' give different classes to {len(differ)} of "
        f"{len(ours.keys)} test rows; the first is '{ours.keys[i]}': "
        f"{_truth(first, ours)[i]} and {_truth(second, theirs)[i]}",
        hint="probe both encoders on the same labels",
    )


def _truth(one: Collected, rows: Predictions) -> NDArray[np.str_]:
    """Names of the classes of every row, (n,)."""
    names = np.array(one.result.classes, dtype=np.str_)
    if rows.labels.ndim == 1:
        found: NDArray[np.str_] = names[rows.labels]
        return found
    return np.array([", ".join(sorted(names[row == 1])) for row in rows.labels], dtype=np.str_)


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
    """The dataset's metric, a share in [0, 1]."""
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
class Grid:
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
    """
    found = []
    for name in sorted({plain_name(one.result.dataset) for one in results}):
        members = [one for one in results if plain_name(one.result.dataset) == name]
        groups = match_rows(members)
        if strict and len(groups) > 1:
            first, second = groups[0].members[0], groups[1].members[0]
            raise ResultError(
                f"'{first.folder}' and '{second.folder}' were tested on sets of {name} that share "
                "no key",
                hint="extract both encoders from the same shards, then probe again",
            )
        apart = () if len(groups) == 1 else (f"{len(groups)} test sets of {name} share no key",)
        found += [_compare_group(group, store, seed, apart) for group in groups]
    return tuple(found)


def _compare_group(
    group: Matched, store: Path | None, seed: int, apart: tuple[str, ...]
) -> Comparison:
    results = [one.result for one in group.members]
    metric = results[0].question.metric
    replicates = resample(
        [
            statistic_of(metric, rows, len(result.classes))
            for rows, result in zip(group.predictions, results, strict=True)
        ],
        group.n,
        seed,
    )
    order = sorted(
        range(len(results)), key=lambda i: (-float(replicates.values[i]), results[i].dim, i)
    )
    standings, notes = [], [*apart, *group.notes]
    for i in order:
        facts = facts_of(results[i], store)
        notes += [f"{group.members[i].label}: {change}" for change in facts.changes]
        standings.append(_standing(group, replicates, i, order[0], store))
    return Comparison(results[0].dataset, metric, group.n, tuple(standings), tuple(notes))


def _standing(
    group: Matched, replicates: Replicates, i: int, best: int, store: Path | None
) -> Standing:
    member = group.members[i]
    result, question = member.result, member.result.question
    facts = facts_of(result, store)
    value = float(replicates.values[i])
    hits, best_hits = top_hits(group.predictions[i]), top_hits(group.predictions[best])
    single = group.predictions[i].labels.ndim == 1
    protocol = question.protocol
    paper = published(result.encoder, result.dataset, protocol.tap, protocol.name, question.metric)
    return Standing(
        label=member.label,
        encoder=result.encoder,
        tap=question.protocol.tap,
        protocol=question.protocol.name,
        C=result.C,
        value=value,
        interval=interval_of(question.metric, i, replicates, group.n),
        top1=float(hits.mean()) if single else None,
        difference=value - float(replicates.values[best]),
        difference_interval=replicates.difference(i, best),
        mcnemar=mcnemar(best_hits, hits) if single else None,
        dim=result.dim,
        bytes_per_image=facts.bytes_per_image,
        bytes=facts.bytes,
        published=None if paper is None else paper.beside(value),
        folder=str(member.folder),
    )


def grid_of(comparisons: Sequence[Comparison]) -> Grid:
    """Put comparisons of several datasets into one grid."""
    labels = sorted({one.label for part in comparisons for one in part.standings})
    table: NDArray[np.float64] = np.full((len(labels), len(comparisons)), np.nan)
    for j, part in enumerate(comparisons):
        for one in part.standings:
            table[labels.index(one.label), j] = one.value
    means = table.mean(axis=1)
    order = sorted(range(len(labels)), key=lambda i: (np.isnan(means[i]), -means[i], i))
    return Grid(
        datasets=tuple(part.dataset for part in comparisons),
        labels=tuple(labels[i] for i in order),
        values=tuple(tuple(_known(x) for x in table[i]) for i in order),
        averages=tuple(_known(means[i]) for i in order),
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
