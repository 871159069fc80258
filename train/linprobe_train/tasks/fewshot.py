"""Probes on few rows of each class, as in CLIP's figure 6 and CoOp (Zhou et al. 2022, 4.1).

C is chosen on min(shots, 4) more rows of each class, which the final fit does not see. Draws are
seeded and nested: the rows of 4 shots are among those of 8.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError
from linprobe.names import first_few
from linprobe.terminal import Progress, Watch, command, ignore
from linprobe_train.protocol.protocols import HALVING
from linprobe_train.protocol.search import SplitUse, run_sweep
from linprobe_train.protocol.splits import StoredSplits, telling_changes
from linprobe_train.results.answers import Answer, Answers
from linprobe_train.results.result import Asked, Result
from linprobe_train.scores.metrics import metric_named, score_of
from linprobe_train.scores.predictions import predict
from linprobe_train.solver.fit import FitSettings, make_trainer, within_memory
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.rows import Rows

HELD_OUT = 4
"""Most rows of a class on which C is chosen: CoOp's min(shots, 4)."""
RowNumbers = NDArray[np.int64]
"""Row numbers of one class, in the order in which they are drawn."""


class FewshotQuestion(Asked, frozen=True):
    """Everything a few-shot result depends on."""

    tap: str
    """Which features; they are L2-normalised."""
    shots: tuple[int, ...]
    """Rows of each class, ascending."""
    repeats: int
    """Draws."""
    seed: int
    """Of the draws."""
    kind: Literal["fewshot-2"]
    """What is asked, and its version."""
    metric: str = "top1"
    """What the results are in."""


@dataclass(frozen=True)
class Draw:
    """One shuffling of the rows of every class: s shots are the first s."""

    train: Rows
    """Where shots come from."""
    shots: tuple[RowNumbers, ...]
    """By class that has rows: rows of ``train``."""
    source: Rows
    """Where held-out rows come from: val, or train."""
    held: tuple[RowNumbers, ...]
    """By class: rows of ``source`` that no number of shots takes."""
    most: int
    """Largest number of shots."""

    def rows(self, shots: int) -> tuple[Rows, Rows]:
        """Rows to fit, and rows on which C is chosen."""
        fitted, held = np.zeros(self.train.n, np.bool_), np.zeros(self.source.n, np.bool_)
        fitted[np.concatenate([rows[:shots] for rows in self.shots])] = True
        held[np.concatenate([rows[: min(shots, HELD_OUT)] for rows in self.held])] = True
        return self.train.select(fitted), self.source.select(held)

    def warnings(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Name classes that cannot give as many rows as asked for."""
        short = [rows for rows in self.shots if len(rows) < self.most]
        names = first_few(classes[int(self.train.labels[rows[0]])] for rows in short)
        line = f"{len(short)} classes have fewer than {self.most} rows and give what they have"
        return (f"{line}: {names}",) if short else ()


@dataclass(frozen=True)
class DrawScore:
    """One probe."""

    value: float
    """The dataset's metric on all test rows, a share in [0, 1]."""
    C: float
    """Chosen on the held-out rows."""
    rows: int
    """Rows fitted."""


@dataclass(frozen=True)
class ShotScore:
    """All draws of one number of shots."""

    shots: int
    """Rows of each class."""
    mean: float
    """Over the draws."""
    deviation: float | None
    """Sample standard deviation over the draws; None for a single one."""
    draws: tuple[DrawScore, ...]
    """In the order of the draws; draw i of all shots is nested."""


@dataclass(frozen=True)
class FewshotResult(Result):
    """The content of ``fewshot.json``."""

    question: FewshotQuestion
    """What was asked."""
    metric: str
    """The dataset's metric."""
    held_out: str
    """What C was chosen on."""
    test: SplitUse
    """Rows scored."""
    results: tuple[ShotScore, ...]
    """Ascending in shots."""
    warnings: tuple[str, ...]
    """What a reader must know."""
    seconds: float
    """Wall time."""

    def __post_init__(self) -> None:
        if not self.results or not all(score.draws for score in self.results):
            raise ValueError("no number of shots, or one without a draw")


@telling_changes
def fewshot(
    splits: StoredSplits,
    shots: tuple[int, ...],
    repeats: int,
    out: Path,
    *,
    seed: int = 0,
    metric: str | None = None,
    threads: int = 1,
    watch: Watch = ignore,
) -> Answer[FewshotResult]:
    """Give the stored few-shot result of a dataset, or make and store it.

    ``metric`` None means the dataset's own. ``DataError``: rows have several labels, or too few of
    any class to hold one out; ``OptionError``: the labels do not have the metric.
    """
    if splits.train.labels.ndim == 2:
        raise DataError(
            f"{splits.dataset.name} has several labels a row: shots of a class are not defined",
            hint=f"{command('probe')} gives mAP",
        )
    metric = splits.metric(metric)
    question = FewshotQuestion(
        *splits.identity, splits.tap, shots, repeats, seed, "fewshot-2", metric
    )
    answers = Answers(out, FewshotResult, "fewshot.json")
    names = splits.encoder.names.slug, splits.dataset.name, "fewshot"
    if stored := answers.get(question, *names, watch=watch):
        return stored
    started = time.perf_counter()
    train = splits.rows(splits.train)
    val = None if splits.val is None else splits.rows(splits.val)
    drawn = [draw_rows(train, val, shots, seed, repeat) for repeat in range(repeats)]
    test = splits.open_test()
    results: list[ShotScore] = []
    with crew_of(threads) as crew:
        for s in shots:
            scores = tuple(_score(draw, s, test, metric, crew) for draw in drawn)
            values = [score.value for score in scores]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            results.append(ShotScore(s, float(np.mean(values)), deviation, scores))
            line = f"  {s} shots: {metric} {np.mean(values):.4f} over {len(scores)} draws"
            watch(Progress(len(results), len(shots), "numbers of shots", line=line))
    result = FewshotResult(
        question=question,
        dataset=splits.dataset.name,
        encoder=splits.encoder.names.model,
        dim=train.dim,
        verified=splits.verified(),
        metric=metric,
        held_out=f"min(shots, {HELD_OUT}) rows a class of {'train' if val is None else 'val'}",
        test=SplitUse("test", test.n),
        results=tuple(results),
        warnings=drawn[0].warnings(splits.train.classes),
        seconds=time.perf_counter() - started,
    )
    return answers.put(result, *names)


def _score(draw: Draw, shots: int, test: Rows, metric: str, crew: Crew) -> DrawScore:
    fitted, held = draw.rows(shots)
    settings = FitSettings(threads=crew.threads)
    trainer = make_trainer(fitted, settings, within_memory(crew, fitted, settings))
    # Ranking metrics need every class on the held-out rows; accuracy is what they can carry.
    sweep = run_sweep([(trainer, held)], HALVING, "top1")
    trainer.fit(sweep.C, Tolerance())
    rows = predict(trainer.probe(sweep.C), test, count=metric_named(metric).top)
    return DrawScore(score_of(metric, rows, test.n_classes), sweep.C, fitted.n)


def draw_rows(
    train: Rows, val: Rows | None, shots: tuple[int, ...], seed: int, repeat: int
) -> Draw:
    """Shuffle the rows of every class; without val, held-out rows are training rows but no shots.

    A class then keeps and holds out at least one row each; ``DataError`` where it has a single one.
    """
    most = max(shots)
    rng = np.random.default_rng([seed, repeat])
    drawn = [rng.permutation(rows) for rows in _by_class(train)]
    if val is not None:
        held = tuple(rng.permutation(rows) for rows in _by_class(val))
        return Draw(train, tuple(rows[:most] for rows in drawn), val, held, most)
    single = [train.labels[rows[0]] for rows in drawn if len(rows) == 1]
    if single:
        raise DataError(
            f"class {single[0]} has a single training row: none is left to choose C on",
            hint="extract a val split, or give the class more rows",
        )
    cuts = [min(most, len(rows) - min(HELD_OUT, len(rows) // 2)) for rows in drawn]
    pairs = [np.split(rows, [cut]) for rows, cut in zip(drawn, cuts, strict=True)]
    shots_of, held = zip(*pairs, strict=True)
    return Draw(train, shots_of, train, held, most)


def _by_class(rows: Rows) -> list[RowNumbers]:
    """Row numbers of every class that has rows, classes ascending."""
    order = np.argsort(rows.labels, kind="stable").astype(np.int64)
    edges = np.flatnonzero(np.diff(rows.labels[order])) + 1
    return list(np.split(order, edges))
