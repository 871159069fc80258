"""k nearest neighbours on stored features: how good they are without any training.

The convention of Wu et al. 2018 (section 3.4) as DINO runs it (Caron et al. 2021, ``eval_knn.py``):
features L2-normalised; the k most similar training rows vote for their class with weight
exp(cosine / T); k = 10, 20, 100, 200 and T = 0.07. Nothing is chosen, so all k are given; k = 20 is
the one that DINO reports. The bank is train and, where there is one, val: the rows that the linear
probe is fitted on.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError, OptionError
from linprobe.terminal import Progress, Watch, command, ignore
from linprobe_store.format.spec import LabelArray
from linprobe_train.protocol.search import SplitUse
from linprobe_train.protocol.splits import StoredSplits
from linprobe_train.results.answers import Answer, Answers, Asked
from linprobe_train.scores.metrics import Score, score_names, scores_of
from linprobe_train.scores.predictions import TOP, Predictions, best_classes
from linprobe_train.solver.passes import crew_of
from linprobe_train.solver.preparation import Float64, check_features
from linprobe_train.solver.rows import Rows
from linprobe_train.tasks.neighbours import Neighbours, with_neighbours

METRICS = ("top1", "mean_per_class", "top5")
"""Given for every k where they exist: those that need a ranking of classes alone."""


@dataclass(frozen=True)
class Votes:
    """How neighbours vote; a number out of range is an ``OptionError``."""

    k: tuple[int, ...] = (10, 20, 100, 200)
    """Numbers of neighbours, ascending."""
    temperature: float = 0.07
    """T of the weights exp(cosine / T)."""

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1:
            raise OptionError(f"k = {self.k}; expected numbers from 1", hint="--k 10,20,100,200")
        if not 0 < self.temperature < float("inf"):
            raise OptionError(f"T = {self.temperature}; expected more than 0", hint="--T 0.07")


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
    kind: Literal["knn-1"]
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


def knn(
    splits: StoredSplits,
    how: Votes,
    out: Path,
    *,
    seed: int = 0,
    threads: int = 1,
    watch: Watch = ignore,
) -> Answer[KnnResult]:
    """Give the stored k-NN result of a dataset, or make and store it.

    Parameters
    ----------
    seed : of the bootstrap.
    threads : over blocks of test rows; the result does not depend on them.

    Raises
    ------
    DataError : rows have several labels, or no direction.
    ResultError : the result cannot be written.
    """
    question = KnnQuestion(*splits.identity, splits.tap, how.k, how.temperature, seed, "knn-1")
    answers = Answers(out, KnnResult, "knn.json")
    names = splits.encoder.names.slug, splits.dataset.name, "knn"
    stored = answers.get(question, *names)
    if stored is not None:
        return stored
    answers.prepare()
    started = time.perf_counter()
    train = splits.rows(splits.train)
    bank = train if splits.val is None else train.join(splits.rows(splits.val))
    if bank.multi_label:
        raise DataError(
            f"{splits.dataset.name} has several labels a row; k-NN votes for one class",
            hint=f"{command('probe')} gives mAP",
        )
    check_features(bank, normalize=True)
    test = splits.open_test()
    line = f"{test.n} test rows against a bank of {bank.n}"
    watch(Progress(0, test.n, "test rows", line=line))
    result = KnnResult(
        question=question,
        dataset=splits.dataset.name,
        encoder=splits.encoder.names.model,
        dim=bank.dim,
        bank=SplitUse("train" if splits.val is None else "train+val", bank.n),
        test=SplitUse("test", test.n),
        results=knn_scores(bank, test, how, seed=seed, threads=threads),
        seconds=time.perf_counter() - started,
    )
    return answers.put(result, *names)


def knn_scores(
    bank: Rows, test: Rows, how: Votes, *, seed: int = 0, threads: int = 1
) -> tuple[KnnScore, ...]:
    """Score every k, in one search for the largest."""
    wanted = sorted({min(k, bank.n) for k in how.k})
    top = np.empty((len(wanted), test.n, min(TOP, bank.n_classes)), np.int64)

    def rank_block(start: int, block: Neighbours) -> None:
        for best, k in zip(top, wanted, strict=True):
            mass = votes(block, k, bank.labels, bank.n_classes, how.temperature)
            best[start : start + len(mass)] = ranking(mass)

    with crew_of(threads) as crew:
        with_neighbours(test, bank, wanted[-1], crew, rank_block)
    existing = score_names(test.n_classes, multi_label=False)
    names = tuple(name for name in METRICS if name in existing)
    none, keys = np.empty((test.n, 0)), np.empty(0, np.str_)
    rows = [Predictions(keys, test.labels, best, none, none) for best in top]
    return tuple(
        KnnScore(k, scores_of(ranked, test.n_classes, seed, names))
        for k, ranked in zip(wanted, rows, strict=True)
    )


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
