"""The k most similar rows of a bank, exactly, in bounded memory.

Similarities are products of unit rows, block of queries by block of bank, in BLAS; per query only
the best k are kept. Symbols: b queries of a block, m bank rows of a block, d features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from linprobe_train.solver.passes import Crew
from linprobe_train.solver.preparation import Float32, Preparation
from linprobe_train.solver.rows import Rows

QUERY_ROWS = 512
"""Queries of a block: with 1,024 bank rows, 2 MB of similarities a thread."""

T = TypeVar("T")


@dataclass(frozen=True)
class Neighbours:
    """The best rows of the bank for some queries."""

    similarity: Float32
    """(b, k) cosines, highest first."""
    row: NDArray[np.int64]
    """(b, k) bank rows; of equally similar ones the earlier first."""


def with_neighbours(
    queries: Rows, bank: Rows, k: int, crew: Crew, use: Callable[[int, Neighbours], T]
) -> list[T]:
    """Find the k most similar bank rows of every query, and make something of them.

    Parameters
    ----------
    queries, bank : rows of the same encoder; they are L2-normalised here.
    k : at most the rows of the bank.
    crew : threads over blocks of queries, with BLAS held to one thread.
    use : gets the first query of a block and the neighbours of at most 512 queries.

    Returns
    -------
    What ``use`` gave, in the order of the blocks.

    Notes
    -----
    Memory: some 40 MB a thread for k = 200 and d = 512, whatever the queries and the bank.
    """
    starts = list(range(0, queries.n, QUERY_ROWS))
    return list(crew.map(lambda start: use(start, _search(queries, start, bank, k)), starts))


def _search(queries: Rows, start: int, bank: Rows, k: int) -> Neighbours:
    unit = Preparation(normalize=True)
    stop = min(start + QUERY_ROWS, queries.n)
    block = np.asarray(unit.apply(queries.gather(np.arange(start, stop))), np.float32)
    best = np.full((len(block), k), -np.inf, np.float32)
    rows = np.full((len(block), k), -1, np.int64)
    for first, part in bank.pairs():
        similarity = block @ np.asarray(unit.apply(part.read()), np.float32).T
        _merge(best, rows, similarity, first)
    order = np.argsort(-best, axis=1, kind="stable")
    return Neighbours(
        np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)
    )


def _merge(best: Float32, rows: NDArray[np.int64], similarity: Float32, first: int) -> None:
    """Let better rows of a block (b, m) into the best (b, k), in place; columns stay in row order.

    A later row that only equals the worst kept one stays out, so ties go to earlier rows. After a
    few blocks hardly anything passes, and the cost is that of one comparison per similarity.
    """
    k = best.shape[1]
    query, column = np.nonzero(similarity > best.min(axis=1)[:, None])
    if len(query) == 0:
        return
    touched, begins, counts = np.unique(query, return_index=True, return_counts=True)
    width = k + int(counts.max())
    pool = np.full((len(touched), width), -np.inf, np.float32)
    ids = np.full((len(touched), width), -1, np.int64)
    pool[:, :k], ids[:, :k] = best[touched], rows[touched]
    at = np.repeat(np.arange(len(touched)), counts)
    place = k + np.arange(len(query)) - np.repeat(begins, counts)
    pool[at, place] = similarity[query, column]
    ids[at, place] = first + column
    keep = _top(pool, k)
    best[touched] = pool[keep].reshape(-1, k)
    rows[touched] = ids[keep].reshape(-1, k)


def _top(pool: Float32, k: int) -> NDArray[np.bool_]:
    """Mark the k largest of every line; of equal ones those to the left."""
    threshold = np.partition(pool, -k, axis=1)[:, -k][:, None]
    above = pool > threshold
    equal = pool == threshold
    wanted = k - above.sum(axis=1, keepdims=True)
    kept: NDArray[np.bool_] = above | (equal & (np.cumsum(equal, axis=1) <= wanted))
    return kept
