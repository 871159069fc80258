"""k nearest neighbours on stored features: how good they are without any training.

The convention of Wu et al. 2018 (section 3.4) as DINO runs it (Caron et al. 2021, ``eval_knn.py``):
features L2-normalised; the k most similar training rows vote for their class with weight
exp(cosine / T); k = 10, 20, 100, 200 and T = 0.07. Nothing is chosen, so all k are given; k = 20 is
the one that DINO reports. The bank is train and, where there is one, val: the rows that the linear
probe is fitted on.

The k most similar rows of a bank, exactly, in bounded memory.

Similarities are products of unit rows, block of queries by block of bank, in BLAS; per query only
the best k are kept. Symbols: b queries of a block, m bank rows of a block, d features.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError, OptionError
from linprobe_store.format.spec import LabelArray
from linprobe_train.protocol.search import SplitUse
from linprobe_train.protocol.splits import StoredSplits
from linprobe_train.results.answers import Keyed, check_writable, load_keyed, store_keyed
from linprobe_train.scores.metrics import Score, score_names, scores_of
from linprobe_train.scores.predictions import TOP, Predictions
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.preparation import Float32, Float64, Preparation, check_features
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


K = (10, 20, 100, 200)
TEMPERATURE = 0.07
METRICS = ("top1", "mean_per_class", "top5")
"""Given for every k, where they exist."""


@dataclass(frozen=True)
class KnnQuestion:
    """Everything a k-NN result depends on."""

    encoder_id: str
    """64 hex digits."""
    dataset_id: str
    """64 hex digits."""
    splits: tuple[tuple[str, str], ...]
    """Name and digest of every split used, sorted."""
    tap: str
    """Which features."""
    k: tuple[int, ...]
    """Numbers of neighbours, ascending."""
    temperature: float
    """T of the weights exp(cosine / T)."""
    seed: int
    """Of the bootstrap."""
    kind: str = "knn-1"
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
class KnnResult:
    """The content of ``knn.json``."""

    question: KnnQuestion
    """What was asked."""
    dataset: str
    """Name."""
    encoder: str
    """Model name."""
    dim: int
    """Features of a row."""
    bank: SplitUse
    """Rows that vote."""
    test: SplitUse
    """Rows scored."""
    results: tuple[KnnScore, ...]
    """Ascending in k."""
    seconds: float
    """Wall time."""


@dataclass(frozen=True)
class KnnOptions:
    """What the person asking decides."""

    k: tuple[int, ...] = K
    """Numbers of neighbours."""
    temperature: float = TEMPERATURE
    """T."""
    threads: int = 1
    """Threads over blocks of test rows."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1:
            raise OptionError(f"k = {self.k}; expected numbers from 1", hint="--k 10,20,100,200")
        if not 0 < self.temperature < float("inf"):
            raise OptionError(f"T = {self.temperature}; expected more than 0", hint="--T 0.07")


def knn(
    splits: StoredSplits,
    options: KnnOptions,
    out: Path,
    tell: Callable[[str], None] = lambda line: None,
) -> Keyed[KnnResult]:
    """Give the stored k-NN result of a dataset, or make and store it.

    Raises
    ------
    DataError : rows have several labels, or no direction.
    """
    question = KnnQuestion(
        splits.encoder.encoder_id,
        splits.dataset.dataset_id,
        splits.digests(),
        splits.tap,
        tuple(sorted(set(options.k))),
        options.temperature,
        options.seed,
    )
    names = f"{splits.encoder.names.slug}--{splits.dataset.name}--knn"
    stored = load_keyed(out, names, question, KnnResult, "knn.json")
    if stored is not None:
        return stored
    check_writable(out)
    started = time.perf_counter()
    train = splits.rows(splits.train)
    bank = train if splits.val is None else train.join(splits.rows(splits.val))
    if bank.multi_label:
        raise DataError(
            f"{splits.dataset.name} has several labels a row; k-NN votes for one class",
            hint="linprobe probe gives mAP",
        )
    check_features(bank, normalize=True)
    test = splits.open_test()
    tell(f"{test.n} test rows against a bank of {bank.n}")
    result = KnnResult(
        question=question,
        dataset=splits.dataset.name,
        encoder=splits.encoder.names.model,
        dim=bank.dim,
        bank=SplitUse("train" if splits.val is None else "train+val", bank.n),
        test=SplitUse("test", test.n),
        results=knn_scores(bank, test, options),
        seconds=time.perf_counter() - started,
    )
    return store_keyed(out, names, result, "knn.json")


def knn_scores(bank: Rows, test: Rows, options: KnnOptions) -> tuple[KnnScore, ...]:
    """Score every k, in one search for the largest."""
    wanted = sorted({min(k, bank.n) for k in options.k})
    top = np.empty((len(wanted), test.n, min(TOP, bank.n_classes)), np.int64)

    def rank_block(start: int, block: Neighbours) -> None:
        for best, k in zip(top, wanted, strict=True):
            mass = votes(block, k, bank.labels, bank.n_classes, options.temperature)
            best[start : start + len(block.row)] = ranking(mass)

    with crew_of(options.threads) as crew:
        with_neighbours(test, bank, wanted[-1], crew, rank_block)
    return tuple(
        KnnScore(k, _scores(best, test, options.seed)) for k, best in zip(wanted, top, strict=True)
    )


def _scores(top: NDArray[np.int64], test: Rows, seed: int) -> tuple[Score, ...]:
    """Score the metrics that need no probabilities, which votes are not."""
    none = np.empty((len(top), 0))
    rows = Predictions(np.empty(0, np.str_), test.labels, top, none, none)
    names = score_names(test.n_classes, multi_label=False)
    return scores_of(rows, test.n_classes, seed, tuple(name for name in METRICS if name in names))


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
    order = np.argsort(-votes, axis=1, kind="stable")[:, :5]
    return np.where(np.take_along_axis(votes, order, axis=1) > 0, order, -1).astype(np.int64)
