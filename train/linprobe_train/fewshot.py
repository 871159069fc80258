"""Probes on few rows of each class: how much an encoder leaves to be learnt.

The convention of the CLIP paper's figure 6 and of CoOp (Zhou et al. 2022, section 4.1): 1, 2, 4, 8
and 16 rows of each class, and C chosen on min(shots, 4) more rows of each class, never on test.
Draws are seeded and nested: the rows of 4 shots are among those of 8. The final fit sees the shots
alone, so that s shots mean s labels a class for the weights.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe_train.choosing import Trial, run_sweep
from linprobe_train.descent import Tolerance
from linprobe_train.draws import HELD_OUT, Draw, draw_rows
from linprobe_train.errors import DataError, OptionError
from linprobe_train.grids import HalvingGrid
from linprobe_train.headlines import headline_metric
from linprobe_train.keyed import Keyed, load_keyed, store_keyed
from linprobe_train.lines_svg import Series, lines_svg
from linprobe_train.metrics import score_value
from linprobe_train.passes import Crew, crew_of
from linprobe_train.results import check_writable
from linprobe_train.rows import Rows
from linprobe_train.search import SplitUse
from linprobe_train.stored import StoredSplits
from linprobe_train.text import TITLES
from linprobe_train.training import FitSettings, make_trainer

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
    """Give the stored few-shot result of a dataset, or make and store it with its plot.

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

    def write(folder: Path) -> None:
        (folder / "fewshot.svg").write_text(fewshot_svg((result,)))

    return store_keyed(out, names, result, "fewshot.json", write)


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
            hint="linprobe-train probe gives mAP",
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


def fewshot_svg(results: tuple[FewshotResult, ...]) -> str:
    """Mean and standard deviation over shots, one line for each result."""
    series = [
        Series(
            f"{one.encoder} · {one.question.tap}",
            tuple(float(point.shots) for point in one.results),
            tuple(100 * point.mean for point in one.results),
            tuple(100 * (point.deviation or 0.0) for point in one.results),
        )
        for one in results
    ]
    title = f"{results[0].dataset}: {TITLES[results[0].metric]} in per cent"
    return lines_svg(title, "training rows of each class", series)
