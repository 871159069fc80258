"""Encoders, taps and protocols side by side on the same test rows.

Rows are matched by key. What only some results have is left out of the comparison and told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe_train.at_hand import facts_of
from linprobe_train.collected import Collected
from linprobe_train.errors import ResultError
from linprobe_train.headlines import plain_name
from linprobe_train.intervals import Interval
from linprobe_train.matching import Matched, match_rows
from linprobe_train.paired import (
    McNemar,
    Replicates,
    interval_of,
    mcnemar,
    resample,
    statistic_of,
    top_hits,
)
from linprobe_train.published import published


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
    slug = plain_name(result.dataset).replace("-", "_")
    paper = published(result.encoder, slug, question.protocol.tap, question.protocol.name)
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
