"""Probes on few rows of each class: how much an encoder leaves to be learnt.

The convention of the CLIP paper's figure 6 and of CoOp (Zhou et al. 2022, section 4.1): 1, 2, 4, 8
and 16 rows of each class, and C chosen on min(shots, 4) more rows of each class, never on test.
Draws are seeded and nested: the rows of 4 shots are among those of 8. The final fit sees the shots
alone, so that s shots mean s labels a class for the weights.

Seeded draws of a few rows of each class, nested from few shots to many.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError, OptionError
from linprobe_train.protocol.protocols import HalvingGrid
from linprobe_train.protocol.search import SplitUse, Trial, run_sweep
from linprobe_train.protocol.splits import StoredSplits
from linprobe_train.results.answers import Keyed, check_writable, load_keyed, store_keyed
from linprobe_train.scores.headlines import headline_metric
from linprobe_train.scores.metrics import score_value
from linprobe_train.solver.fit import FitSettings, make_trainer
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.rows import Rows

HELD_OUT = 4
"""Most rows of a class on which C is chosen: CoOp's min(shots, 4)."""

RowNumbers = NDArray[np.int64]
"""Row numbers of one class, in the order in which they are drawn."""


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
        fitted = _take(self.train, [rows[:shots] for rows in self.shots])
        held = _take(self.source, [rows[: min(shots, HELD_OUT)] for rows in self.held])
        return fitted, held

    def warnings(self, classes: list[str]) -> tuple[str, ...]:
        """Tell classes that cannot give as many rows as asked for."""
        short = [rows for rows in self.shots if len(rows) < self.most]
        if not short:
            return ()
        names = ", ".join(classes[int(self.train.labels[rows[0]])] for rows in short[:5])
        more = ", ..." if len(short) > 5 else ""
        told = f"{len(short)} classes have fewer than {self.most} rows and give what they have"
        return (f"{told}: {names}{more}",)


def draw_rows(
    train: Rows, val: Rows | None, shots: tuple[int, ...], seed: int, repeat: int
) -> Draw:
    """Shuffle the rows of every class.

    Parameters
    ----------
    val : where held-out rows come from; None takes them from train, from rows that are no shots.
        A class then keeps at least one row to fit, and holds out at least one.

    Raises
    ------
    DataError : no val, and a class with a single training row.
    """
    most = max(shots)
    rng = np.random.default_rng([seed, repeat])
    drawn = [rng.permutation(rows) for rows in _by_class(train)]
    if val is not None:
        held = tuple(rng.permutation(rows) for rows in _by_class(val))
        return Draw(train, tuple(rows[:most] for rows in drawn), val, held, most)
    for rows in drawn:
        if len(rows) < 2:
            raise DataError(
                f"class {int(train.labels[rows[0]])} has a single training row: none is left to "
                "choose C on",
                hint="extract a val split, or give the class more rows",
            )
    cuts = [min(most, len(rows) - min(HELD_OUT, len(rows) // 2)) for rows in drawn]
    first = tuple(rows[:cut] for rows, cut in zip(drawn, cuts, strict=True))
    last = tuple(rows[cut:] for rows, cut in zip(drawn, cuts, strict=True))
    return Draw(train, first, train, last, most)


def _by_class(rows: Rows) -> list[RowNumbers]:
    """Row numbers of every class that has rows, classes ascending."""
    order = np.argsort(rows.labels, kind="stable").astype(np.int64)
    edges = np.flatnonzero(np.diff(rows.labels[order])) + 1
    return list(np.split(order, edges))


def _take(rows: Rows, chosen: list[RowNumbers]) -> Rows:
    keep = np.zeros(rows.n, np.bool_)
    keep[np.concatenate(chosen)] = True
    return rows.select(keep)


SHOTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class FewshotQuestion:
    """Everything a few-shot result depends on."""

    encoder_id: str
    """64 hex digits."""
    dataset_id: str
    """64 hex digits."""
    splits: tuple[tuple[str, str], ...]
    """Name and digest of every split used, sorted."""
    tap: str
    """Which features; they are L2-normalised."""
    shots: tuple[int, ...]
    """Rows of each class, ascending."""
    repeats: int
    """Draws."""
    seed: int
    """Of the draws."""
    kind: str = "fewshot-1"
    """What is asked, and its version."""


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
class FewshotResult:
    """The content of ``fewshot.json``."""

    question: FewshotQuestion
    """What was asked."""
    dataset: str
    """Name."""
    encoder: str
    """Model name."""
    dim: int
    """Features of a row."""
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


@dataclass(frozen=True)
class FewshotOptions:
    """What the person asking decides."""

    shots: tuple[int, ...] = SHOTS
    """Rows of each class."""
    repeats: int = 5
    """Draws."""
    seed: int = 0
    """Of the draws."""
    threads: int = 1
    """Threads of a fit."""

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1 or self.repeats < 1:
            raise OptionError(
                f"shots {self.shots} with {self.repeats} draws; expected numbers from 1",
                hint="--shots 1,2,4,8,16 --repeats 5",
            )


def fewshot(
    splits: StoredSplits,
    options: FewshotOptions,
    out: Path,
    tell: Callable[[str], None] = lambda line: None,
) -> Keyed[FewshotResult]:
    """Give the stored few-shot result of a dataset, or make and store it.

    Raises
    ------
    DataError : rows have several labels, or too few of any class to hold one out.
    """
    question = FewshotQuestion(
        splits.encoder.encoder_id,
        splits.dataset.dataset_id,
        splits.digests(),
        splits.tap,
        tuple(sorted(set(options.shots))),
        options.repeats,
        options.seed,
    )
    names = f"{splits.encoder.names.slug}--{splits.dataset.name}--fewshot"
    stored = load_keyed(out, names, question, FewshotResult, "fewshot.json")
    if stored is not None:
        return stored
    check_writable(out)
    result = _make(splits, question, options, tell)
    return store_keyed(out, names, result, "fewshot.json")


def _make(
    splits: StoredSplits,
    question: FewshotQuestion,
    options: FewshotOptions,
    tell: Callable[[str], None],
) -> FewshotResult:
    started = time.perf_counter()
    train = splits.rows(splits.train)
    val = None if splits.val is None else splits.rows(splits.val)
    if train.multi_label:
        raise DataError(
            f"{splits.dataset.name} has several labels a row: shots of a class are not defined",
            hint="linprobe probe gives mAP",
        )
    metric = headline_metric(splits.dataset.name, train.n_classes, multi_label=False)
    draws = [
        draw_rows(train, val, question.shots, options.seed, repeat)
        for repeat in range(options.repeats)
    ]
    test = splits.open_test()
    results = []
    with crew_of(options.threads) as crew:
        for shots in question.shots:
            scores = tuple(_score(draw, shots, test, metric, options, crew) for draw in draws)
            results.append(_summary(shots, scores))
            tell(f"  {shots} shots: {100 * results[-1].mean:.2f} % over {len(scores)} draws")
    return FewshotResult(
        question=question,
        dataset=splits.dataset.name,
        encoder=splits.encoder.names.model,
        dim=train.dim,
        metric=metric,
        held_out=f"min(shots, {HELD_OUT}) rows a class of {'train' if val is None else 'val'}",
        test=SplitUse("test", test.n),
        results=tuple(results),
        warnings=draws[0].warnings(list(splits.train.classes)),
        seconds=time.perf_counter() - started,
    )


def _score(
    draw: Draw, shots: int, test: Rows, metric: str, options: FewshotOptions, crew: Crew
) -> DrawScore:
    fitted, held = draw.rows(shots)
    trainer = make_trainer(fitted, FitSettings(threads=options.threads), crew)
    # Ranking metrics need every class on the held-out rows; accuracy is what they can carry.
    sweep = run_sweep([Trial(trainer, held)], HalvingGrid(), "top1")
    trainer.fit(sweep.C, Tolerance())
    p = trainer.probe(sweep.C).probabilities(test)
    return DrawScore(score_value(metric, p, test.labels), sweep.C, fitted.n)


def _summary(shots: int, draws: tuple[DrawScore, ...]) -> ShotScore:
    values: NDArray[np.float64] = np.array([draw.value for draw in draws])
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return ShotScore(shots, float(values.mean()), deviation, draws)
