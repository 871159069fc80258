"""Encoders, taps and protocols side by side on the test rows that all have, matched by key."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from linprobe.benchmarks import published
from linprobe.errors import ResultError
from linprobe_train.results.collect import Collected, StoreFacts, facts_of
from linprobe_train.scores.intervals import Interval, Replicates, resample
from linprobe_train.scores.metrics import Metric, metric_named
from linprobe_train.scores.predictions import Hits, Predictions

Member = tuple[Collected, Predictions]
"""A result and what its probe said about every row."""


@dataclass(frozen=True)
class McNemar:
    """Two probes on the rows where only one of them is right."""

    only_first: int
    """Rows that only the first gets right."""
    only_second: int
    """Rows that only the second gets right."""
    p: float
    """Two-sided: how probable so uneven a split is if both are equally good."""


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
    """The best first, then this one; None for multi-label rows."""
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
    """Lines, best average first, losses as negative; those without all datasets last."""
    values: tuple[tuple[float | None, ...], ...]
    """Each dataset's own metric by line and column; None where there is no result."""
    averages: tuple[float | None, ...]
    """Mean over the datasets by line; None where one is missing."""


def compare(
    results: Sequence[Collected], *, store: Path | None = None, seed: int = 0, strict: bool = False
) -> tuple[Comparison, ...]:
    """Compare results dataset by dataset, in the order of the names.

    A ``store`` that is there adds the size of features and whether they have changed. Results of
    one dataset name without a common test row are shown apart, or refused if ``strict``.
    ``ResultError``: classes of a key differ, or ``strict`` ones share no row; ``OptionError``: a
    result's metric is of a package that is not installed here.
    """
    comparisons = []
    # One dataset id is one dataset, whatever it was called; imports of one dataset's features by
    # several encoders have an id each, and their name in common.
    called: dict[str, str] = {}
    for collected in sorted(results, key=lambda collected: collected.dataset):
        called.setdefault(collected.result.question.dataset_id, collected.dataset)
    for name in sorted(set(called.values())):
        groups = _match_rows([c for c in results if called[c.result.question.dataset_id] == name])
        if strict and len(groups) > 1:
            first, second = groups[0][0][0], groups[1][0][0]
            raise ResultError(
                f"'{first.folder}' and '{second.folder}' were tested on sets of {name} that share "
                "no key",
                hint="extract both encoders from the same shards, then probe again",
            )
        apart = [] if len(groups) == 1 else [f"{len(groups)} test sets of {name} share no key"]
        comparisons += [_comparison(group, store, seed, apart) for group in groups]
    return tuple(comparisons)


def _match_rows(results: Sequence[Collected]) -> list[list[Member]]:
    """Groups of results that share test rows, each on the rows that all of it have, by key."""
    groups: list[list[Member]] = []
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
    for group, keys in zip(groups, shared, strict=True):
        for j, (collected, rows) in enumerate(group):
            order = np.argsort(rows.keys, kind="stable")
            group[j] = collected, rows.take(order[np.searchsorted(rows.keys[order], keys)])
    return groups


def _truth(collected: Collected, rows: Predictions) -> NDArray[np.str_]:
    """Names of the classes of every row, (n,): ids may differ between results."""
    names = np.array(collected.result.classes, dtype=np.str_)
    if rows.labels.ndim == 1:
        return np.asarray(names[rows.labels])
    return np.array([", ".join(sorted(names[row == 1])) for row in rows.labels], dtype=np.str_)


def _comparison(
    members: Sequence[Member], store: Path | None, seed: int, notes: list[str]
) -> Comparison:
    results = [collected.result for collected, _ in members]
    metric, n = metric_named(results[0].question.metric), members[0][1].n
    ours = _truth(*members[0])
    for collected, rows in members:
        theirs = _truth(collected, rows)
        if rows.labels.ndim != members[0][1].labels.ndim:
            raise ResultError(
                f"'{members[0][0].folder}' and '{collected.folder}': only one of them has several "
                "labels a row",
                hint="probe both encoders on the same labels",
            )
        differ = np.flatnonzero(ours != theirs)
        if len(differ):
            i = differ[0]
            raise ResultError(
                f"'{members[0][0].folder}' and '{collected.folder}' give different classes to "
                f"{len(differ)} of {n} test rows; the first is '{rows.keys[i]}': "
                f"{ours[i]} and {theirs[i]}",
                hint="probe both encoders on the same labels",
            )
        if collected.result.test.n > n:
            notes.append(
                f"{collected.label}: {collected.result.test.n - n} of {collected.result.test.n} "
                "test rows have no counterpart in every other result and are left out"
            )
    facts = [facts_of(result, store) for result in results]
    replicates = resample([metric.statistic(rows) for _, rows in members], n, seed)
    order = sorted(
        range(len(results)),
        key=lambda i: (-metric.merit(float(replicates.values[i])), results[i].dim, i),
    )
    notes += [f"{members[i][0].label}: {change}" for i in order for change in facts[i].changes]
    standings = [_standing(members, metric, replicates, i, order[0], facts[i], seed) for i in order]
    return Comparison(results[0].dataset, metric.name, n, tuple(standings), tuple(notes))


def _standing(
    members: Sequence[Member],
    metric: Metric,
    replicates: Replicates,
    i: int,
    best: int,
    facts: StoreFacts,
    seed: int,
) -> Standing:
    (collected, rows), result = members[i], members[i][0].result
    protocol, value = result.question.protocol, float(replicates.values[i])
    hits = rows.hits() if rows.labels.ndim == 1 else None
    paper = published(result.encoder, result.dataset, protocol.tap, protocol.name, metric.name)
    return Standing(
        label=collected.label,
        encoder=result.encoder,
        tap=protocol.tap,
        protocol=protocol.name,
        C=result.C,
        value=value,
        interval=metric.interval_of(i, replicates, rows, seed),
        top1=None if hits is None else float(hits.mean()),
        difference=value - float(replicates.values[best]),
        difference_interval=replicates.difference(i, best),
        mcnemar=None if hits is None else mcnemar(members[best][1].hits(), hits),
        dim=result.dim,
        bytes_per_image=facts.bytes_per_image,
        bytes=facts.bytes,
        published=None if paper is None else paper.beside(value),
        folder=str(collected.folder),
    )


def mcnemar(first: Hits, second: Hits) -> McNemar:
    """McNemar's test of whether two probes are right, (n,) each, exact for any number of rows.

    Under equality the discordant rows fall to either side like coins. McNemar 1947, "Note on the
    sampling error of the difference between correlated proportions"; the exact binomial form
    replaces his chi-square, which is off where the discordant rows are few.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    fewer = float(binom.cdf(min(only_first, only_second), only_first + only_second, 0.5))
    return McNemar(only_first, only_second, min(1.0, 2 * fewer))


def overview_of(comparisons: Sequence[Comparison]) -> Overview:
    """Put comparisons of several datasets into one table."""
    labels = sorted({line.label for part in comparisons for line in part.standings})
    table = np.full((len(labels), len(comparisons)), np.nan)
    signs = np.array([metric_named(part.metric).merit(1.0) for part in comparisons])
    for j, part in enumerate(comparisons):
        for line in part.standings:
            table[labels.index(line.label), j] = line.value
    means = table.mean(axis=1)
    merits = (table * signs).mean(axis=1)
    order = sorted(range(len(labels)), key=lambda i: (np.isnan(merits[i]), -merits[i], i))

    def known(values: NDArray[np.float64]) -> tuple[float | None, ...]:
        return tuple(None if np.isnan(value) else float(value) for value in values)

    return Overview(
        datasets=tuple(part.dataset for part in comparisons),
        labels=tuple(labels[i] for i in order),
        values=tuple(known(table[i]) for i in order),
        averages=known(means[order]),
    )
