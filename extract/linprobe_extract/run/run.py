"""Extraction of a dataset with one encoder: encode what is missing, seal what is complete.

Prints nothing: an :class:`Observer` sees what happens, a :class:`RunReport` says what was done.
Safe to interrupt and to repeat: a shard is either committed whole or not there.

What the commands of ``linprobe`` do, between parsing and the pipeline.

torch is imported only when an encoder has to be loaded, so that a finished command, a dry run's
plan and every error about arguments or shards come at once.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from linprobe.errors import ExtractError, NotFoundError, ShardError
from linprobe.machine import available_cores, decode_threads
from linprobe.terminal import emit, emit_json
from linprobe_extract.encoders.device import launcher
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import EncoderChoice
from linprobe_extract.pack.by_name import data_folder
from linprobe_extract.run.pipeline import EncodedBatch, Pipeline, Timings, Unit, UnitEnd, UnitLost
from linprobe_extract.run.ranks import (
    Ranks,
    Turns,
    open_turns,
    ranks_from_environment,
    stop_on_signals,
)
from linprobe_extract.run.report import RunReport, RunResult, tell
from linprobe_extract.run.sink import PartSink
from linprobe_extract.run.work import State, forecast, seal_complete, state_of
from linprobe_extract.shards.caches import FingerprintCache, RequestMemo
from linprobe_extract.shards.locate import DatasetPlan, plan_dataset
from linprobe_store.format.layout import encoder_folder
from linprobe_store.format.spec import ShardFingerprint
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.store import FeatureStore


@dataclass(frozen=True)
class RunOptions:
    """How to run; none of it but the batch size can change a feature."""

    splits: tuple[str, ...]
    """Splits to extract and seal."""
    batch_size: int
    """Images a batch, at least 1; halved when the device's memory is too small."""
    decode_threads: int
    """Threads that decode, at least 1."""
    max_skipped: float
    """Greatest share of samples of a shard that may be skipped, in [0, 1]."""


class Observer(Protocol):
    """Sees a run as it goes; called from one thread."""

    def planned(self, n_shards: int, n_images: int | None) -> None:
        """What is left to do; the number of images when it is known."""

    def encoded(self, n_images: int, limit: str) -> None:
        """A batch of so many images went through; what the run mostly waits for."""

    def shard_done(self) -> None:
        """A shard came to its end, well or not."""

    def told(self, text: str) -> None:
        """Something that a person should know."""


@dataclass(frozen=True)
class Run:
    """Everything an extraction needs; :meth:`extract` carries it out."""

    plan: DatasetPlan
    """The dataset."""
    encoder: Encoder
    """The loaded tower; its id is that of ``stored``."""
    stored: StoredEncoder
    """Where parts and splits go."""
    fingerprints: FingerprintCache
    """Knows what each shard's bytes are."""
    options: RunOptions
    """Splits, batch size and the like."""
    turns: Turns
    """Which of several processes takes which shard."""
    observer: Observer
    """Is told what happens."""
    stop: threading.Event
    """When set, no further shard is begun."""

    def extract(self) -> RunReport:
        """Encode the shards that have no part yet, then seal the splits that are complete.

        Raises
        ------
        ExtractError : the device's memory is too small for one image.
        StoreError : a full or failing disk; what was committed stays.
        """
        before = state_of(self.plan, self.options.splits, self.stored, self.fingerprints)
        self.observer.planned(len(before.todo), before.n_images)
        timings = Timings()
        started = time.perf_counter()
        sinks, batch_size = self._encode(before, timings)
        seconds = time.perf_counter() - started
        failed = tuple(failure for sink in sinks for failure in sink.failed)
        after = self._after(sealing=self.turns.is_last("all") and not failed)
        return RunReport(
            n_shards=sum(sink.n_committed for sink in sinks),
            n_shards_before=before.n_done,
            n_shards_missing=len(after.todo),
            failed=failed,
            n_images=sum(sink.n_rows for sink in sinks),
            skipped=sum((sink.skipped for sink in sinks), Counter[str]()),
            notes=sum((sink.notes for sink in sinks), Counter[str]()),
            seconds=seconds,
            timings=timings,
            batch_size=batch_size,
            sealed=after.sealed,
            stopped=self.stop.is_set(),
        )

    def _after(self, *, sealing: bool) -> State:
        """Seal what is complete, unless a bad shard leaves open what the dataset will be."""
        self.fingerprints.reload()
        finish = seal_complete if sealing else state_of
        return finish(self.plan, self.options.splits, self.stored, self.fingerprints)

    def _encode(self, before: State, timings: Timings) -> tuple[list[PartSink], int]:
        """Stream all units; begin again with half the batch when memory runs out."""
        batch_size, sinks = self.options.batch_size, list[PartSink]()
        while before.todo:
            sinks.append(
                PartSink(
                    self.stored, batch_size, self.plan.labelling.identity, self.options.max_skipped
                )
            )
            try:
                self._stream(before, sinks[-1], timings, batch_size)
                break
            except torch.OutOfMemoryError:
                if batch_size == 1:
                    raise self._too_small() from None
                batch_size //= 2
                self.observer.told(f"out of device memory: going on with batches of {batch_size}")
        return sinks, batch_size

    def _stream(self, before: State, sink: PartSink, timings: Timings, batch_size: int) -> None:
        pipeline = Pipeline(
            launch=launcher(self.encoder),
            preprocess=self.encoder.preprocess,
            labelling=self.plan.labelling,
            batch_size=batch_size,
            decode_threads=self.options.decode_threads,
            pin_memory=self.encoder.device.type == "cuda",
            timings=timings,
        )
        waited = timings.write_wait_s
        with sink:
            for item in pipeline.run(self._claimed(before, f"batch-{batch_size}")):
                sink.put(item)
                if isinstance(item, EncodedBatch):
                    n_images = len(item.block.keys) + len(item.skipped)
                    timings.write_wait_s = waited + sink.wait_s
                    self.observer.encoded(n_images, timings.limit)
                else:
                    self._ended(item)

    def _claimed(self, before: State, round_name: str) -> Iterator[Unit | UnitLost]:
        """Give the shards of this process that have no part, fetched while they are read."""
        sealed = {split.name for split in before.sealed}
        for task in self.turns.claim(before.tasks, round_name):
            if self.stop.is_set():
                return
            if task.split in sealed or self._is_done(self.fingerprints.known(task.shard)):
                continue
            try:
                with self.fingerprints.fetched(task.shard) as (source, fingerprint):
                    if not self._is_done(fingerprint):
                        yield Unit(task, source, fingerprint)
            except ShardError as error:
                yield UnitLost(task, error)

    def _is_done(self, fingerprint: ShardFingerprint | None) -> bool:
        return fingerprint is not None and self.stored.committed_part(fingerprint) is not None

    def _ended(self, end: UnitEnd | UnitLost) -> None:
        self.observer.shard_done()
        if end.error is not None:
            self.observer.told(f"shard failed: {end.error.message}")

    def _too_small(self) -> ExtractError:
        return ExtractError(
            f"'{self.encoder.names.model}' does not fit the memory of {self.encoder.device} "
            "with a batch of 1",
            hint="free the device's memory, choose a smaller model, or pass --device cpu",
        )


BATCH_SIZE = {"cuda": 256, "cpu": 16}
"""Images a batch by device: enough to fill it, small enough for its memory."""


@dataclass(frozen=True)
class RunRequest:
    """The arguments of ``linprobe extract``."""

    encoder: EncoderChoice
    """Which tower, and how."""
    store: Path
    """Root of the feature store."""
    data: str | None
    """Folder of shards, its URL, or the name of a known dataset."""
    shards: tuple[str, ...]
    """``SPLIT=PATTERN`` entries instead of ``data``."""
    splits: tuple[str, ...]
    """Splits to extract; empty means all."""
    name: str | None
    """What to call the dataset."""
    label_source: str | None
    """``cls``, ``json:<field>`` or ``folder``; None means what the data says."""
    classes_file: Path | None
    """Class names."""
    batch_size: int | None
    """Images a batch; None means the device's default."""
    decode_threads: int | None
    """Threads that decode; None means from the cores available."""
    max_skipped: float
    """Greatest share of samples of a shard that may be skipped."""


def run_extraction(request: RunRequest, *, dry_run: bool, as_json: bool) -> int:
    """Carry out ``linprobe extract``; give the exit code.

    Raises
    ------
    LinprobeError : anything a person can mend, told with what to try.
    """
    ranks = ranks_from_environment()
    plan = plan_dataset(
        data_folder(request.data, may_pack=not dry_run and ranks.world_size == 1),
        shards=request.shards,
        name=request.name,
        label_source=request.label_source,
        classes_file=request.classes_file,
    )
    splits = request.splits or tuple(split.name for split in plan.splits)
    for split in splits:
        plan.split(split)
    _check_feasible(plan, splits, ranks)
    _check_writable(request.store)
    fingerprints = FingerprintCache(request.store / ".cache" / "shards.jsonl", read_only=dry_run)
    stored = _remembered_encoder(request)
    if dry_run:
        return _tell_forecast(request, plan, splits, fingerprints, stored, as_json=as_json)
    if stored is not None:
        state = state_of(plan, splits, stored, fingerprints)
        if not state.todo:
            state = seal_complete(plan, splits, stored, fingerprints)
            return tell(RunResult(plan, stored, state.sealed, None), ranks, as_json=as_json)
    return _encode(request, plan, splits, fingerprints, ranks, as_json=as_json)


def _tell_forecast(
    request: RunRequest,
    plan: DatasetPlan,
    splits: tuple[str, ...],
    fingerprints: FingerprintCache,
    stored: StoredEncoder | None,
    *,
    as_json: bool,
) -> int:
    """Say what would be done; the encoder is loaded, without a GPU where there is none."""
    if stored is None:
        import torch

        from linprobe_extract.encoders.load import load

        # The precision, and with it the id, is that of the device.
        device = request.encoder.device if torch.cuda.is_available() else "cpu"
        encoder = load(replace(request.encoder, device=device))
        spec, folder = encoder.spec, encoder_folder(encoder.names.slug, encoder.spec.encoder_id)
        stored = _known_encoder(request.store, spec.encoder_id)
    else:
        spec, folder = stored.spec, stored.path.name
    told = forecast(state_of(plan, splits, stored, fingerprints), spec, folder)
    if as_json:
        emit_json(told.as_json())
    else:
        emit("\n".join(told.lines()))
    return 0


def memo_of(store: Path) -> RequestMemo:
    """Open the memo of encoder requests beside a store."""
    return RequestMemo(store / ".cache" / "encoders.jsonl")


def _check_feasible(plan: DatasetPlan, splits: tuple[str, ...], ranks: Ranks) -> None:
    """Refuse what could be encoded but not sealed."""
    urls = [shard.url for split in plan.splits for shard in split.shards]
    if ranks.world_size > 1 and any(url.startswith("pipe:") for url in urls):
        raise ExtractError(
            "shards from pipe: commands cannot be shared between processes: only the one that "
            "runs a command learns its fingerprint",
            hint="run one process, or copy the shards to files",
        )
    if plan.classes is None and set(splits) != {split.name for split in plan.splits}:
        raise ExtractError(
            f"the classes of '{plan.name}' have no names, so all its splits are needed to count "
            "them",
            hint="leave out --split, or name the classes with --classes FILE",
        )


def _check_writable(store: Path) -> None:
    """Refuse before minutes of work what would fail at their end."""
    folder = store
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ExtractError(
            f"cannot write the store '{store}': '{folder}' is not a writable folder",
            hint="choose another place with --store DIR",
        )


def _remembered_encoder(request: RunRequest) -> StoredEncoder | None:
    encoder_id = memo_of(request.store).encoder_id(request.encoder)
    return None if encoder_id is None else _known_encoder(request.store, encoder_id)


def _known_encoder(store: Path, encoder_id: str) -> StoredEncoder | None:
    try:
        return FeatureStore(store).encoder(encoder_id)
    except NotFoundError:
        return None


def _encode(
    request: RunRequest,
    plan: DatasetPlan,
    splits: tuple[str, ...],
    fingerprints: FingerprintCache,
    ranks: Ranks,
    *,
    as_json: bool,
) -> int:
    from linprobe_extract.encoders.load import load, register
    from linprobe_extract.run.observer import TerminalObserver

    encoder = load(request.encoder, local_rank=ranks.local_rank)
    on_cpu = encoder.device.type == "cpu"
    options = RunOptions(
        splits=splits,
        batch_size=request.batch_size or BATCH_SIZE[encoder.device.type],
        decode_threads=request.decode_threads
        or decode_threads(available_cores(), ranks.local_world_size, on_cpu=on_cpu),
        max_skipped=request.max_skipped,
    )
    stored = register(encoder, request.store, batch_size=options.batch_size)
    memo_of(request.store).remember(request.encoder, stored.encoder_id)
    title = f"{encoder.names.model} on {encoder.device.type}: {plan.name}"
    with stop_on_signals() as stop, TerminalObserver(title, visible=ranks.rank == 0) as observer:
        report = Run(
            plan, encoder, stored, fingerprints, options, open_turns(ranks), observer, stop.event
        ).extract()
    code = tell(RunResult(plan, stored, report.sealed, report), ranks, as_json=as_json)
    return stop.exit_code or code
