"""k nearest neighbours on stored features: how good they are without any training.

The convention of Wu et al. 2018 (section 3.4) as DINO runs it (Caron et al. 2021, ``eval_knn.py``):
features L2-normalised; the k most similar training rows vote for their class with weight
exp(cosine / T); k = 10, 20, 100, 200 and T = 0.07. Nothing is chosen, so all k are given; k = 20 is
the one that DINO reports. The bank is train and, where there is one, val: the rows that the linear
probe is fitted on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe_store.records import LabelArray
from linprobe_train.errors import DataError, OptionError
from linprobe_train.intervals import bootstrap, wilson
from linprobe_train.keyed import Keyed, load_keyed, store_keyed
from linprobe_train.metrics import Score
from linprobe_train.neighbours import Neighbours, with_neighbours
from linprobe_train.paired import Hits, share_per_class
from linprobe_train.passes import crew_of
from linprobe_train.preparation import Float64, check_features
from linprobe_train.results import check_writable
from linprobe_train.rows import Rows
from linprobe_train.search import SplitUse
from linprobe_train.stored import StoredSplits

K = (10, 20, 100, 200)
TEMPERATURE = 0.07


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
            hint="linprobe-train probe gives mAP",
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
    inside = np.zeros((len(wanted), 2, test.n), np.bool_)

    def score_block(start: int, block: Neighbours) -> None:
        own = test.labels[start : start + len(block.row), None]
        for hits, k in zip(inside, wanted, strict=True):
            order = ranking(votes(block, k, bank.labels, bank.n_classes, options.temperature))
            hits[0, start : start + len(own)] = order[:, 0] == own[:, 0]
            hits[1, start : start + len(own)] = (order == own).any(axis=1)

    with crew_of(options.threads) as crew:
        with_neighbours(test, bank, wanted[-1], crew, score_block)
    return tuple(
        KnnScore(k, _scores(first, top5, test, options.seed))
        for k, (first, top5) in zip(wanted, inside, strict=True)
    )


def _scores(first: Hits, top5: Hits, test: Rows, seed: int) -> tuple[Score, ...]:
    n, k = test.n, test.n_classes
    per_class = share_per_class(first, np.asarray(test.labels, np.int64), k)
    scores = (
        Score("top1", float(first.mean()), wilson(int(first.sum()), n)),
        Score("mean_per_class", per_class(np.ones(n)), bootstrap(per_class, n, seed)),
    )
    if k <= 5:
        return scores
    return (*scores, Score("top5", float(top5.mean()), wilson(int(top5.sum()), n)))


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
