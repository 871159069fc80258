"""The probe command: one question about one stored dataset, from features to a stored result.

What ``linprobe probe`` was asked, checked before anything is read, and then done.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import cast, get_args

import numpy as np

from linprobe.errors import DataError, OptionError
from linprobe.records import canonical_json, plain
from linprobe_store.format.layout import ENCODER_FILE
from linprobe_store.format.spec import EncoderSpec, LabelArray
from linprobe_train.protocol.protocols import Grid, Protocol, list_grid, protocol_named
from linprobe_train.protocol.search import Search, SearchSettings, SplitUse, SweepPoint, search
from linprobe_train.protocol.splits import StoredSplits, open_encoder, open_splits
from linprobe_train.results.answers import (
    Environment,
    ProbeResult,
    Question,
    check_writable,
    commit_result,
    read_result,
    result_folder,
)
from linprobe_train.results.probe_file import ProbeCard, save_probe
from linprobe_train.scores.headlines import headline_metric
from linprobe_train.scores.metrics import scores_of
from linprobe_train.scores.predictions import Predictions, predictions_of, save_predictions
from linprobe_train.solver.fit import FitSettings, SolverName, plan_fit
from linprobe_train.solver.memory import parse_bytes
from linprobe_train.solver.passes import crew_of


@dataclass(frozen=True)
class ProbeOptions:
    """What the person asking decides."""

    protocol: Protocol
    """How C is chosen and what the features go through."""
    settings: FitSettings
    """Threads, memory, solver and class weights; the preparation must be the protocol's."""
    folds: int = 0
    """Folds of cross-validation; 0 for a val split."""
    seed: int = 0
    """Of the val cut, the folds and the bootstrap."""


@dataclass(frozen=True)
class Answer:
    """A result and where it lies."""

    result: ProbeResult
    """What was found."""
    folder: Path
    """Where it is stored."""
    fresh: bool
    """False where it was read from disk."""


def answer(
    splits: StoredSplits,
    options: ProbeOptions,
    out: Path,
    tell: Callable[[str], None] = lambda line: None,
) -> Answer:
    """Give the stored answer, or search, score and store one; ``tell`` gets lines of progress.

    Raises
    ------
    DataError : rows or labels that no probe can be fitted on.
    ResultError : the result cannot be written.
    """
    question = make_question(splits, options)
    folder = result_folder(out, question, splits.encoder.names.slug, splits.dataset.name)
    stored = read_result(folder)
    if stored is not None:
        return Answer(stored, folder, fresh=False)
    check_writable(out)
    result, found, predictions = _work(splits, options, question, tell)
    _store(folder, result, found, predictions, splits.tap, splits.encoder.spec)
    return Answer(result, folder, fresh=True)


def _work(
    splits: StoredSplits, options: ProbeOptions, question: Question, tell: Callable[[str], None]
) -> tuple[ProbeResult, Search, Predictions]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = _search(splits, options, question, tell)
    test = splits.open_test()
    p = found.probe.probabilities(test)
    result = ProbeResult(
        question=question,
        dataset=splits.dataset.name,
        encoder=splits.encoder.names.model,
        dim=test.dim,
        classes=tuple(splits.train.classes),
        fitted_on=found.fitted_on,
        held_out=found.held_out,
        test=SplitUse("test", test.n),
        C=found.fit.C,
        sweep=found.sweep,
        fit=found.fit,
        scores=scores_of(p, test.labels, options.seed),
        warnings=_warnings(splits, found, test.labels),
        environment=Environment(
            _versions(),
            options.settings.threads,
            time.perf_counter() - wall,
            time.process_time() - cpu,
        ),
    )
    return result, found, predictions_of(p, test.labels, list(splits.test_split().keys))


def _search(
    splits: StoredSplits, options: ProbeOptions, question: Question, tell: Callable[[str], None]
) -> Search:
    """Everything that happens before test is opened."""
    train = splits.rows(splits.train)
    val = splits.rows(splits.val) if splits.val is not None else None
    everything = train if val is None else train.join(val)
    tell(plan_fit(everything, options.settings).text())
    how = SearchSettings(options.protocol.grid, question.metric, options.folds, options.seed)
    with crew_of(options.settings.threads) as crew:
        return search(train, val, how, options.settings, crew, lambda p: tell(point_text(p)))


def point_text(point: SweepPoint) -> str:
    """One line of progress."""
    passes = sum(fit.passes for fit in point.fits)
    return f"  C = {point.C:<10.3g} val {point.score:.4f}  ({passes} passes)"


def make_question(splits: StoredSplits, options: ProbeOptions) -> Question:
    """Collect everything the answer depends on."""
    multi_label = splits.train.labels.ndim == 2
    return Question(
        encoder_id=splits.encoder.encoder_id,
        dataset_id=splits.dataset.dataset_id,
        splits=splits.digests(),
        protocol=options.protocol,
        metric=headline_metric(
            splits.dataset.name, len(splits.train.classes), multi_label=multi_label
        ),
        folds=options.folds,
        balanced=options.settings.balanced,
        solver=options.settings.solver,
        seed=options.seed,
    )


def _store(
    folder: Path,
    result: ProbeResult,
    found: Search,
    predictions: Predictions,
    tap: str,
    encoder: EncoderSpec,
) -> None:
    probe = found.probe
    card = ProbeCard(
        encoder_id=result.question.encoder_id,
        encoder=result.encoder,
        dataset=result.dataset,
        tap=tap,
        normalize=probe.normalize,
        loss=probe.loss,
        multi_label=probe.multi_label,
        classes=result.classes,
        C=result.C,
    )

    def write(partial: Path) -> None:
        save_probe(partial, probe, card)
        (partial / ENCODER_FILE).write_bytes(canonical_json(plain(encoder)))
        save_predictions(partial / "predictions.npz", predictions)

    commit_result(folder, result, write)


def _warnings(splits: StoredSplits, found: Search, labels: LabelArray) -> tuple[str, ...]:
    classes, fitted = splits.train.classes, set(found.probe.fitted.tolist())
    missing = [name for i, name in enumerate(classes) if i not in fitted]
    lines = [*(found.sweep.warnings() if found.sweep else ()), *_about_fit(found)]
    if missing:
        rows = 0 if labels.ndim == 2 else int((~np.isin(labels, list(fitted))).sum())
        lines.append(
            f"{len(missing)} classes have no training row and are never predicted: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''} ({rows} test rows)"
        )
    return (*lines, *splits.shared_keys())


def _about_fit(found: Search) -> list[str]:
    fit, n = found.fit, found.fitted_on.n
    if fit.converged:
        # A total below ln 2 leaves no single row with its label's probability under a half.
        if fit.loss * n >= math.log(2):
            return []
        return [f"all {n} training rows are classified right: a larger C only makes W longer"]
    line = (
        f"the final fit did not converge ({fit.stop} after {fit.iterations} iterations): its gap "
        f"is at most {fit.bound:.1g}; try a smaller C, or --standardize"
    )
    return [line]


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("linprobe", "numpy", "scipy", "scikit-learn")}


@dataclass(frozen=True)
class ProbeRequest:
    """The options of ``linprobe probe``, as typed."""

    store: Path
    """Feature store."""
    model: str | None
    """Encoder; None for the only one."""
    data: tuple[str, ...]
    """Datasets; () for every dataset of the encoder."""
    protocol: str
    """Name of a protocol."""
    tap: str | None
    """Overrides the protocol's."""
    normalize: bool | None
    """Overrides the protocol's."""
    standardize: bool | None
    """Overrides the protocol's."""
    C: float | None
    """One value of C."""
    grid: str | None
    """Values of C, separated by commas."""
    cv: int
    """Folds; 0 for none."""
    balanced: bool
    """Weigh classes equally."""
    solver: str
    """``linprobe`` or ``sklearn``."""
    memory: str | None
    """Most memory to use."""
    threads: int | None
    """None for all cores."""
    seed: int
    """Of the val cut and the bootstrap."""
    out: Path
    """Folder of results."""


def probe_datasets(request: ProbeRequest, tell: Callable[[str], None]) -> list[Answer]:
    """Answer the request for every dataset; all splits are found before the first fit.

    ``tell`` gets lines of progress.
    """
    options = options_of(request)
    encoder = open_encoder(request.store, request.model)
    tap = options.protocol.tap
    names = request.data or tuple(dataset.dataset_id for dataset in encoder.datasets())
    if not names:
        raise DataError(
            f"{request.store} holds no dataset for {encoder.names.model}",
            hint=f"linprobe extract --model {encoder.names.model} --data DIR",
        )
    every = [open_splits(encoder, name, tap) for name in names]

    answers = []
    for splits in every:
        tell(f"probing {splits.dataset.name} with {encoder.names.model} ({options.protocol.name})")
        answers.append(answer(splits, options, request.out, tell))
        if not answers[-1].fresh:
            tell(f"nothing to do: {answers[-1].folder} answers this question")
    return answers


def options_of(request: ProbeRequest) -> ProbeOptions:
    """Check the options and resolve the protocol.

    Raises
    ------
    OptionError : one is out of range, or two contradict each other.
    """
    if request.solver not in get_args(SolverName):
        raise OptionError(
            f"no solver {request.solver!r}; known: {', '.join(get_args(SolverName))}",
            hint="--solver linprobe",
        )
    threads = request.threads if request.threads is not None else os.cpu_count() or 1
    if threads < 1:
        raise OptionError(f"--threads {threads}; expected at least 1", hint="--threads 1")
    protocol = _protocol(request)
    settings = FitSettings(
        normalize=protocol.normalize,
        standardize=protocol.standardize,
        balanced=request.balanced,
        solver=cast("SolverName", request.solver),
        threads=threads,
        memory_bytes=None if request.memory is None else parse_bytes(request.memory),
    )
    if request.cv and (request.cv < 2 or request.C is not None):
        clash = "with --C" if request.C is not None else "is too few folds"
        raise OptionError(f"--cv {request.cv} {clash}", hint="--cv 5 without --C, or --C alone")
    return ProbeOptions(protocol, settings, request.cv, request.seed)


def _protocol(request: ProbeRequest) -> Protocol:
    named = protocol_named(request.protocol)
    changed = replace(
        named,
        tap=named.tap if request.tap is None else request.tap,
        normalize=named.normalize if request.normalize is None else request.normalize,
        standardize=named.standardize if request.standardize is None else request.standardize,
        grid=_grid(request) or named.grid,
    )
    return changed if changed == named else replace(changed, name=f"{named.name}-custom")


def _grid(request: ProbeRequest) -> Grid | None:
    if request.C is not None and request.grid is not None:
        raise OptionError("--C and --grid contradict each other", hint="pass one of them")
    if request.C is not None:
        return list_grid((request.C,))
    if request.grid is None:
        return None
    try:
        return list_grid(tuple(float(value) for value in request.grid.split(",")))
    except ValueError as error:
        raise OptionError(
            f"--grid {request.grid!r} is not a list of numbers", hint="for example --grid 0.1,1,10"
        ) from error
