"""Extraction of a dataset with one encoder: encode what is missing, seal what is complete.

Prints nothing: an :class:`Observer` sees what happens, a :class:`RunReport` says what was done.
Safe to interrupt and to repeat: a shard is either committed whole or not there.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from linprobe_extract.claims import Turns
from linprobe_extract.device import launcher
from linprobe_extract.encoder import Encoder
from linprobe_extract.errors import ExtractError, ShardError
from linprobe_extract.fingerprints import FingerprintCache
from linprobe_extract.part_sink import PartSink
from linprobe_extract.pipeline import Pipeline
from linprobe_extract.report import RunReport
from linprobe_extract.shards import DatasetPlan
from linprobe_extract.state import State, seal_complete, state_of
from linprobe_extract.units import EncodedBatch, Timings, Unit, UnitEnd, UnitLost
from linprobe_store import ShardFingerprint, StoredEncoder


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
