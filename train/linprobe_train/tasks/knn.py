"""k nearest neighbours, as Wu et al. 2018 (3.4) and DINO (Caron et al. 2021, ``eval_knn.py``).

Rows are L2-normalised; the k most similar of train and val vote for their class with weight
exp(cosine / T). Symbols: b queries of a block, m bank rows of a block, d features.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError
from linprobe.terminal import Progress, Watch, command, ignore
from linprobe_store.format.spec import LabelArray
from linprobe_train.protocol.search import SplitUse
from linprobe_train.protocol.splits import StoredSplits, telling_changes
from linprobe_train.results.answers import Answer, Answers
from linprobe_train.results.result import Asked, Result
from linprobe_train.scores.metrics import Score, score_names, scores_of
from linprobe_train.scores.predictions import TOP, Predictions, best_classes
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.preparation import Float32, Float64, Preparation
from linprobe_train.solver.reads.features import check_features
from linprobe_train.solver.rows import Rows

METRICS = ("top1", "mean_per_class", "top5")
"""Given for every k where they exist: those that need a ranking of classes alone."""
QUERY_ROWS = 512
"""Queries of a block: with 1,024 bank rows, 2 MB of similarities a thread."""
T = TypeVar("T")


class KnnQuestion(Asked, frozen=True):
    """Everything a k-NN result depends on."""

    tap: str
    """Which features; they are L2-normalised."""
    k: tuple[int, ...]
    """Numbers of neighbours, ascending."""
    temperature: float
    """T of the weights exp(cosine / T)."""
    seed: int
    """Of the bootstrap."""
    kind: Literal["knn-2"]
    """What is asked, and its version."""


@dataclass(frozen=True)
class KnnScore:
    """Scores of one k."""

    k: int
    """Neighbours that voted: those asked for, or the whole bank where it has fewer rows."""
    scores: tuple[Score, ...]
    """``top1``, ``mean_per_class``, and ``top5`` where there are more than five classes."""

    def score(self, name: str) -> Score:
        """Look a score up."""
        return next(score for score in self.scores if score.name == name)


@dataclass(frozen=True)
class KnnResult(Result):
    """The content of ``knn.json``."""

    question: KnnQuestion
    """What was asked."""
    bank: SplitUse
    """Rows that vote."""
    test: SplitUse
    """Rows scored."""
    results: tuple[KnnScore, ...]
    """Ascending in k."""
    seconds: float
    """Wall time."""

    def __post_init__(self) -> None:
        names = {tuple(score.name for score in scores.scores) for scores in self.results}
        if len(names) != 1:
            raise ValueError("no k, or others of other scores")


@dataclass(frozen=True)
class Neighbours:
    """The best rows of the bank for some queries."""

    similarity: Float32
    """(b, k) cosines, highest first."""
    row: NDArray[np.int64]
    """(b, k) bank rows; of equally similar ones the earlier first."""


@telling_changes
def knn(
    splits: StoredSplits,
    k: tuple[int, ...],
    temperature: float,
    out: Path,
    *,
    seed: int = 0,
    threads: int = 1,
    watch: Watch = ignore,
) -> Answer[KnnResult]:
    """Give the stored k-NN result of a dataset, or make and store it; seed is of the bootstrap.

    ``DataError``: rows have several labels, or no direction.
    """
    question = KnnQuestion(*splits.identity, splits.tap, k, temperature, seed, "knn-2")
    answers = Answers(out, KnnResult, "knn.json")
    names = splits.encoder.names.slug, splits.dataset.name, "knn"
    if stored := answers.get(question, *names, watch=watch):
        return stored
    started = time.perf_counter()
    train = splits.rows(splits.train)
    bank = train if splits.val is None else train.join(splits.rows(splits.val))
    if bank.multi_label:
        raise DataError(
            f"{splits.dataset.name} has several labels a row; k-NN votes for one class",
            hint=f"{command('probe')} gives mAP",
        )
    with crew_of(threads) as crew:
        check_features(bank, crew, normalize=True)
    test = splits.open_test()
    watch(Progress(0, test.n, "test rows", line=f"{test.n} test rows against a bank of {bank.n}"))
    results = knn_scores(bank, test, k, temperature, seed=seed, threads=threads)
    result = KnnResult(
        question=question,
        dataset=splits.dataset.name,
        encoder=splits.encoder.names.model,
        dim=bank.dim,
        verified=splits.verified(),
        bank=SplitUse("train" if splits.val is None else "train+val", bank.n),
        test=SplitUse("test", test.n),
        results=results,
        seconds=time.perf_counter() - started,
    )
    return answers.put(result, *names)


def knn_scores(
    bank: Rows,
    test: Rows,
    k: tuple[int, ...],
    temperature: float = 0.07,
    *,
    seed: int = 0,
    threads: int = 1,
) -> tuple[KnnScore, ...]:
    """Score every k, in one search for the largest."""
    wanted = sorted({min(count, bank.n) for count in k})
    top = np.empty((len(wanted), test.n, min(TOP, bank.n_classes)), np.int64)

    def rank_block(start: int, block: Neighbours) -> None:
        for best, count in zip(top, wanted, strict=True):
            mass = votes(block, count, bank.labels, bank.n_classes, temperature)
            best[start : start + len(mass)] = ranking(mass)

    with crew_of(threads) as crew:
        with_neighbours(test, bank, wanted[-1], crew, rank_block)
    existing = score_names(test.n_classes, multi_label=False)
    names = tuple(name for name in METRICS if name in existing)
    none, keys = np.empty((test.n, 0)), np.empty(0, np.str_)
    ranked = [Predictions(keys, test.labels, best, none, none) for best in top]
    scores = [scores_of(rows, test.n_classes, seed, names) for rows in ranked]
    return tuple(map(KnnScore, wanted, scores))


def votes(
    block: Neighbours, k: int, labels: LabelArray, n_classes: int, temperature: float
) -> Float64:
    """Sum of exp(cosine / T) by class over the k best neighbours, (b, n_classes).

    Scaled by the weight of the nearest neighbour, which no ranking sees and no exp overflows.
    """
    cosine = block.similarity[:, :k].astype(np.float64)
    weight = np.exp((cosine - cosine[:, :1]) / temperature)
    b = len(cosine)
    cell = labels[block.row[:, :k]] + n_classes * np.arange(b)[:, None]
    mass: Float64 = np.bincount(cell.ravel(), weight.ravel(), b * n_classes).astype(np.float64)
    return mass.reshape(b, n_classes)


def ranking(votes: Float64) -> NDArray[np.int64]:
    """The up to five classes with most votes, (b, 5); -1 instead of a class without a vote."""
    order = best_classes(votes, TOP)
    return np.where(np.take_along_axis(votes, order, axis=1) > 0, order, -1)


def with_neighbours(
    queries: Rows, bank: Rows, k: int, crew: Crew, use: Callable[[int, Neighbours], T]
) -> list[T]:
    """Find the k most similar bank rows of every query exactly, and make something of them.

    Rows are L2-normalised here; k is at most the rows of the bank. ``use`` gets the first query of
    a block and the neighbours of its at most 512; what it gives is returned in block order.
    """
    unit = Preparation(normalize=True)

    def search(start: int) -> T:
        stop = min(start + QUERY_ROWS, queries.n)
        block = np.asarray(unit.apply(queries.gather(np.arange(start, stop))), np.float32)
        best = np.full((len(block), k), -np.inf, np.float32)
        rows = np.full((len(block), k), -1, np.int64)
        for first, part in bank.pairs():
            similarity = block @ np.asarray(unit.apply(part.read()), np.float32).T
            _merge(best, rows, similarity, first)
        order = np.argsort(-best, axis=1, kind="stable")
        cosine = np.take_along_axis(best, order, axis=1)
        return use(start, Neighbours(cosine, np.take_along_axis(rows, order, axis=1)))

    return list(crew.map(search, list(range(0, queries.n, QUERY_ROWS))))


def _merge(best: Float32, rows: NDArray[np.int64], similarity: Float32, first: int) -> None:
    """Let better rows of a block (b, m) into the best (b, k), in place; columns stay in row order.

    A later row that only equals the worst kept one stays out, so ties go to earlier rows.
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
    # The k largest of every line; of equal ones those to the left.
    threshold = np.partition(pool, -k, axis=1)[:, -k][:, None]
    above, equal = pool > threshold, pool == threshold
    wanted = k - above.sum(axis=1, keepdims=True)
    keep = above | (equal & (np.cumsum(equal, axis=1) <= wanted))
    best[touched] = pool[keep].reshape(-1, k)
    rows[touched] = ids[keep].reshape(-1, k)
