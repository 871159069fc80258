"""One question about one stored dataset, from features to a stored result."""

import math
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from linprobe.errors import OptionError
from linprobe.names import first_few
from linprobe.records import canonical_json, plain
from linprobe.terminal import Progress, Watch, ignore
from linprobe_store.format.layout import ENCODER_FILE
from linprobe_store.format.spec import LabelArray
from linprobe_train.protocol.protocols import BAND, Protocol
from linprobe_train.protocol.search import Search, SplitUse, search
from linprobe_train.protocol.splits import StoredSplits, telling_changes
from linprobe_train.readers.choose import readers
from linprobe_train.results.answers import Answer, Answers
from linprobe_train.results.probe_file import ProbeCard, probe_files
from linprobe_train.results.result import Environment, Facts, ProbeResult, Question
from linprobe_train.scores.metrics import Score, scores_of, undefined
from linprobe_train.scores.predictions import (
    PREDICTIONS_FILE,
    encode_predictions,
    predict,
    predict_bytes,
)
from linprobe_train.solver.fit import FitSettings

OF_PROBABILITIES = ("nll", "ece", "confidence_gap")
"""Metrics that a temperature changes, though no class is another."""
UNUSABLE = 0.05
"""Calibration error that makes probabilities unusable: sure to be exceeded at 95 %. The interval is
of the study of estimates in :mod:`..scores.calibration`; 5 points is our judgement, twice to three
times what a calibrated probe of CLIP features has on another split."""


@dataclass(frozen=True)
class Recipe:
    """How a dataset is probed; ``OptionError``: one fold, or folds where nothing is chosen."""

    protocol: Protocol
    """How C is chosen and what the features go through."""
    settings: FitSettings
    """Threads, memory, solver and class weights; the preparation must be the protocol's."""
    metric: str | None = None
    """What C is chosen by and the result reported in; None for the dataset's own."""
    folds: int = 0
    """Folds of cross-validation; 0 for what the protocol's rule does."""
    seed: int = 0
    """Of the val cut, the folds and the bootstrap."""

    def __post_init__(self) -> None:
        fixed = len(self.protocol.grid.values) == 1
        if self.folds and (self.folds < 2 or fixed):
            clash = "with a single C" if fixed else "is too few folds"
            raise OptionError(f"--cv {self.folds} {clash}", hint="--cv 5 without --C, or --C alone")

    def question(self, splits: StoredSplits) -> Question:
        """Everything that the result on these splits depends on."""
        return Question(
            *splits.identity,
            protocol=self.protocol.asked(self.metric, self.folds),
            metric=splits.metric(self.metric),
            folds=self.folds,
            balanced=self.settings.balanced,
            solver=self.settings.solver,
            seed=self.seed,
            format=3,
        )


@telling_changes
def probe(
    splits: StoredSplits, recipe: Recipe, out: Path, watch: Watch = ignore
) -> Answer[ProbeResult]:
    """Give the stored answer, or search, score and store one; test is opened after the final fit.

    ``DataError``: rows or labels that no probe can be fitted on; ``OptionError``: the labels do not
    have the metric, or the memory does not suffice; ``ResultError``: it cannot be written.
    """
    question, settings = recipe.question(splits), recipe.settings
    kept = Answers(out, ProbeResult)
    encoder, dataset, protocol = splits.encoder.names, splits.dataset.name, question.protocol.name
    names = encoder.slug, dataset, protocol

    def say(line: str) -> None:
        watch(Progress(0, None, "values of C", line=line))

    say(f"probing {dataset} with {encoder.model} ({protocol})")
    if stored := kept.get(question, *names, n_bytes=_bytes_of_answer(splits), watch=watch):
        say(f"nothing to do: {stored.folder} answers this question")
        return stored
    wall, cpu = time.perf_counter(), time.process_time()
    splits.verify()
    train = splits.rows(splits.train)
    val = None if splits.val is None else splits.rows(splits.val)
    n, k, several = splits.test.n, train.n_classes, train.multi_label
    with readers(settings) as crew:
        chosen = search(
            train,
            val,
            question.protocol.grid,
            settings,
            crew,
            metric=question.metric,
            rule=question.protocol.rule,
            folds=question.folds,
            seed=question.seed,
            after_bytes=predict_bytes(n, k, multi_label=several),
            watch=watch,
        )
        test = splits.open_test()
        keys, seed = list(splits.test.keys), question.seed
        rows = without = predict(chosen.probe, test, keys, crew=crew)
        if chosen.probe.temperature != 1:
            without = predict(replace(chosen.probe, temperature=1.0), test, crew=crew)
    scores = scores_of(rows, test.n_classes, seed)
    raw = tuple(score for score in scores if score.name in OF_PROBABILITIES)
    if without is not rows:
        raw = scores_of(without, test.n_classes, seed, tuple(score.name for score in raw))
    if question.metric not in {score.name for score in scores}:
        raise undefined(question.metric, test.n)
    versions = {name: version(name) for name in ("linprobe", "numpy", "scipy", "scikit-learn")}
    reasons = {split.name: dict(split.skipped_by_reason) for split in splits.all}
    skipped = {name: counts for name, counts in reasons.items() if counts}
    warnings = (*_warnings(splits, question, chosen, test.labels), *_unusable(scores, question))
    verified = splits.verified()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    result = ProbeResult(
        question=question,
        dataset=dataset,
        encoder=encoder.model,
        dim=test.dim,
        verified=verified,
        classes=tuple(splits.train.classes),
        fitted_on=chosen.fitted_on,
        held_out=chosen.held_out,
        test=SplitUse("test", test.n),
        C=chosen.fit.C,
        sweep=chosen.sweep,
        fit=chosen.fit,
        temperature=chosen.temperature,
        scores=scores,
        raw=raw,
        warnings=warnings,
        environment=Environment(versions, crew.threads, seconds, cpu_seconds, _now()),
        facts=Facts(splits.dataset.spec.label_source, splits.dataset.metric, skipped),
    )

    card = ProbeCard(
        encoder_id=question.encoder_id,
        encoder=encoder.model,
        dataset=dataset,
        tap=question.protocol.tap,
        normalize=chosen.probe.normalize,
        loss=chosen.probe.loss,
        multi_label=chosen.probe.multi_label,
        classes=result.classes,
        C=result.C,
        temperature=result.T,
        upright=splits.dataset.names.upright is True,
    )
    files = {
        **probe_files(chosen.probe, card),
        ENCODER_FILE: canonical_json(plain(splits.encoder.spec)),
        PREDICTIONS_FILE: encode_predictions(rows),
    }
    return kept.put(result, *names, files=files)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _bytes_of_answer(splits: StoredSplits) -> int:
    """About what the files of a result take: a probe, and 400 bytes and all classes a test row."""
    k, labels = len(splits.train.classes), splits.train.labels
    width = k if labels.ndim == 2 else 0
    return 8 * k * splits.train.dim(splits.tap) + splits.test.n * (400 + 5 * width)


def _unusable(scores: tuple[Score, ...], question: Question) -> tuple[str, ...]:
    """Say so where it is sure that the probabilities are off by more than 5 points on average."""
    by_name = {score.name: score for score in scores}
    if "ece" not in by_name or by_name["ece"].interval.low <= UNUSABLE:
        return ()
    error, gap = by_name["ece"], by_name["confidence_gap"].value
    does = "more rows of each class, or a val split that is like test, would help"
    if question.protocol.rule != BAND:
        does = "--protocol default, without --C, --grid, --cv or --metric, chooses C for them too"
    off = f"{100 * error.value:.1f} points on average (surely by {100 * error.interval.low:.1f})"
    line = (
        f"the probabilities cannot be used: they are off by {off}, mean confidence minus accuracy "
        f"is {100 * gap:+.1f} points; which class is named is not concerned; {does}"
    )
    return (line,)


def _warnings(
    splits: StoredSplits, question: Question, chosen: Search, labels: LabelArray
) -> tuple[str, ...]:
    """What a reader of the result must know."""
    lines = list(chosen.warnings())
    fit, n = chosen.fit, chosen.fitted_on.n
    if not fit.converged:
        lines.append(
            f"the final fit did not converge ({fit.stop} after {fit.iterations} iterations): its "
            f"gap is at most {fit.bound:.1g}; try a smaller C, or --standardize"
        )
    # A total below ln 2 leaves no single row with its label's probability under a half.
    elif chosen.sweep is None and not chosen.held_out.never and fit.loss * n < math.log(2):
        lines.append(
            f"all {n} training rows are classified right at C = {fit.C:g}, and they are at any "
            "larger C: leave --C out to choose it on held-out rows"
        )
    fitted = set(chosen.probe.fitted.tolist())
    missing = [name for i, name in enumerate(splits.train.classes) if i not in fitted]
    if missing:
        rows = 0 if labels.ndim == 2 else int((~np.isin(labels, list(fitted))).sum())
        lines.append(
            f"{len(missing)} classes have no training row and are never predicted: "
            f"{first_few(missing)} ({rows} test rows)"
        )
    return (*lines, *splits.warnings(question.metric))
