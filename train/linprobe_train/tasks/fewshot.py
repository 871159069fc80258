"""Probes on few rows of each class: how much an encoder leaves to be learnt.

The convention of the CLIP paper's figure 6 and of CoOp (Zhou et al. 2022, section 4.1): 1, 2, 4, 8
and 16 rows of each class, and C chosen on min(shots, 4) more rows of each class, never on test.
Draws are seeded and nested: the rows of 4 shots are among those of 8. The final fit sees the shots
alone, so that s shots mean s labels a class for the weights.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError
from linprobe.terminal import Progress, Watch, command, ignore
from linprobe_train.protocol.protocols import HALVING
from linprobe_train.protocol.search import SplitUse, Trial, run_sweep
from linprobe_train.protocol.splits import StoredSplits
from linprobe_train.results.answers import Answer, Answers, Asked
from linprobe_train.scores.metrics import score_value
from linprobe_train.solver.fit import FitSettings, make_trainer
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.rows import Rows
from linprobe_train.tasks.draws import HELD_OUT, Draw, Draws, draw_rows


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
    kind: Literal["fewshot-1"]
    """What is asked, and its version."""
    metric: str = "top1"
    """What the results are in."""


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


def fewshot(
    splits: StoredSplits,
    draws: Draws,
    out: Path,
    *,
    metric: str | None = None,
    threads: int = 1,
    watch: Watch = ignore,
) -> Answer[FewshotResult]:
    """Give the stored few-shot result of a dataset, or make and store it.

    Parameters
    ----------
    metric : what the results are in; None for the dataset's own.
    threads : of a fit; the result does not depend on them.

    Raises
    ------
    DataError : rows have several labels, or too few of any class to hold one out.
    OptionError : the labels do not have the metric.
    ResultError : the result cannot be written.
    """
    if splits.train.labels.ndim == 2:
        raise DataError(
            f"{splits.dataset.name} has several labels a row: shots of a class are not defined",
            hint=f"{command('probe')} gives mAP",
        )
    question = FewshotQuestion(
        *splits.identity,
        splits.tap,
        draws.shots,
        draws.repeats,
        draws.seed,
        "fewshot-1",
        splits.metric(metric),
    )
    answers = Answers(out, FewshotResult, "fewshot.json")
    names = splits.encoder.names.slug, splits.dataset.name, "fewshot"
    stored = answers.get(question, *names)
    if stored is not None:
        return stored
    answers.prepare()
    return answers.put(_make(splits, question, threads, watch), *names)


def _make(
    splits: StoredSplits, question: FewshotQuestion, threads: int, watch: Watch
) -> FewshotResult:
    started = time.perf_counter()
    train = splits.rows(splits.train)
    val = None if splits.val is None else splits.rows(splits.val)
    draws = [
        draw_rows(train, val, question.shots, question.seed, repeat)
        for repeat in range(question.repeats)
    ]
    test = splits.open_test()
    results: list[ShotScore] = []
    with crew_of(threads) as crew:
        for shots in question.shots:
            scores = tuple(_score(draw, shots, test, question.metric, crew) for draw in draws)
            results.append(_summary(shots, scores))
            mean = f"{question.metric} {results[-1].mean:.4f}"
            line = f"  {shots} shots: {mean} over {len(scores)} draws"
            watch(Progress(len(results), len(question.shots), "numbers of shots", line=line))
    return FewshotResult(
        question=question,
        dataset=splits.dataset.name,
        encoder=splits.encoder.names.model,
        dim=train.dim,
        metric=question.metric,
        held_out=f"min(shots, {HELD_OUT}) rows a class of {'train' if val is None else 'val'}",
        test=SplitUse("test", test.n),
        results=tuple(results),
        warnings=draws[0].warnings(list(splits.train.classes)),
        seconds=time.perf_counter() - started,
    )


def _score(draw: Draw, shots: int, test: Rows, metric: str, crew: Crew) -> DrawScore:
    fitted, held = draw.rows(shots)
    trainer = make_trainer(fitted, FitSettings(threads=crew.threads), crew)
    # Ranking metrics need every class on the held-out rows; accuracy is what they can carry.
    sweep = run_sweep([Trial(trainer, held)], HALVING, "top1")
    trainer.fit(sweep.C, Tolerance())
    p = trainer.probe(sweep.C).probabilities(test)
    return DrawScore(score_value(metric, p, test.labels), sweep.C, fitted.n)


def _summary(shots: int, draws: tuple[DrawScore, ...]) -> ShotScore:
    values: NDArray[np.float64] = np.array([draw.value for draw in draws])
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return ShotScore(shots, float(values.mean()), deviation, draws)
