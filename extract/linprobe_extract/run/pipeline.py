"""Shards to features: read, decode and encode at the same time.

One thread reads tars, a pool decodes into a ring of (pinned) uint8 buffers, the calling thread
feeds the device and keeps one batch in flight. Every queue is bounded by the ring. A batch never
straddles a shard, and a sample that cannot be decoded keeps its slot, so a shard's features depend
on the shard and the batch size alone.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TypeVar

import torch

from linprobe.errors import ShardError
from linprobe_extract.encoders.device import Collect, Launch
from linprobe_extract.pixels.preprocess import Outcome, limit_thread, preprocess
from linprobe_extract.run.keys import SplitKeys
from linprobe_extract.run.report import Timings
from linprobe_extract.shards.labels import label_array
from linprobe_extract.shards.samples import cut_batches, read_samples
from linprobe_extract.shards.tar import read_members
from linprobe_extract.shards.types import Labelling, Sample, Shard
from linprobe_store.format.spec import FeatureBlock, PreprocessSpec, ShardFingerprint, SkippedSample

_TASK_IMAGES = 8
"""Images per decode task: enough to hide the cost of a task, few enough to balance."""
_RING_SIZE = 4
"""Batches in memory: being filled, ready, on the device, being collected."""

T = TypeVar("T")


@dataclass(frozen=True)
class Unit:
    """A shard to be encoded."""

    shard: Shard
    source: Shard
    """Where to read it: the shard itself, or a local copy while there is one."""
    fingerprint: ShardFingerprint
    keys: SplitKeys
    """Those of the split so far."""


@dataclass(frozen=True)
class EncodedBatch:
    """Consecutive samples of one shard with their features."""

    unit: Unit
    block: FeatureBlock
    """Rows of the samples that could be decoded."""
    skipped: tuple[SkippedSample, ...]
    """The others."""
    notes: Counter[str]
    """Remarks on the rows, such as ``orientation_ignored``, by count."""


@dataclass(frozen=True)
class UnitEnd:
    """A shard has been read to its end."""

    unit: Unit
    planned: int
    """Samples read; rows + skipped must come to this."""
    error: ShardError | None
    """Why it failed, or None."""


@dataclass(frozen=True)
class _HostBatch:
    """Samples on their way to pixels."""

    unit: Unit
    samples: tuple[Sample, ...]
    buffer: torch.Tensor
    tasks: list[Future[list[Outcome]]]


@dataclass
class Pipeline:
    """A configured host side; :meth:`run` streams units through it once."""

    launch: Launch
    """Starts a batch on the device."""
    preprocess: PreprocessSpec
    labelling: Labelling
    batch_size: int
    """Images a batch, at least 1."""
    decode_threads: int
    """At least 1."""
    pin_memory: bool
    """Page-locked buffers, for copies to a GPU that overlap."""
    timings: Timings = field(default_factory=Timings)
    """Filled while running."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(self.decode_threads, "decode", initializer=limit_thread)
        self._ready: queue.Queue[_HostBatch | UnitEnd | Exception | None] = queue.Queue(_RING_SIZE)
        self._ring: queue.Queue[torch.Tensor] = queue.Queue()
        shape = (self.batch_size, 3, self.preprocess.image_size, self.preprocess.image_size)
        for _ in range(_RING_SIZE):
            self._ring.put(torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin_memory))

    def run(self, units: Iterable[Unit]) -> Iterator[EncodedBatch | UnitEnd]:
        """Encode shards in order: each one's batches, then its end.

        Raises torch.OutOfMemoryError where a batch does not fit the device.
        """
        reader = threading.Thread(target=self._read, args=(units,), name="reader", daemon=True)
        reader.start()
        try:
            yield from self._encode()
        finally:
            self._stop.set()
            self._pool.shutdown(wait=True, cancel_futures=True)
            # It may be inside a download; it is a daemon and holds nothing that has to be saved.
            reader.join(timeout=1.0)

    def _read(self, units: Iterable[Unit]) -> None:
        """Thread: tars to batches under decoding; ends with None, or with what went wrong."""
        last: Exception | None = None
        try:
            for item in chain.from_iterable(map(self._read_unit, units)):
                self._wait(partial(self._ready.put, item, timeout=0.1))
        except Exception as error:
            last = error
        with suppress(_StoppedError):
            self._wait(partial(self._ready.put, last, timeout=0.1))

    def _read_unit(self, unit: Unit) -> Iterator[_HostBatch | UnitEnd]:
        planned, error = 0, None
        try:
            members = read_members(unit.source, unit.fingerprint, place=unit.shard.url)
            samples = read_samples(unit.shard.url, members, self.labelling)
            for batch in cut_batches(samples, self.batch_size, lambda sample: len(sample.image)):
                unit.keys.take(unit.fingerprint, [sample.key for sample in batch])
                planned += len(batch)
                buffer = self._wait(partial(self._ring.get, timeout=0.1))
                tasks = [
                    self._pool.submit(self._decode, batch[i : i + _TASK_IMAGES], buffer[i:])
                    for i in range(0, len(batch), _TASK_IMAGES)
                ]
                yield _HostBatch(unit, batch, buffer, tasks)
        except ShardError as failure:
            error = failure
        yield UnitEnd(unit, planned, error)

    def _wait(self, attempt: Callable[[], T]) -> T:
        """Repeat what a full or an empty queue holds up, until the consumer has left."""
        while not self._stop.is_set():
            with suppress(queue.Full, queue.Empty):
                return attempt()
        raise _StoppedError

    def _decode(self, samples: tuple[Sample, ...], slots: torch.Tensor) -> list[Outcome]:
        outcomes = []
        for sample, slot in zip(samples, slots, strict=False):
            outcome = Outcome(None)
            if sample.reason is None:
                outcome = preprocess(self.preprocess, sample.image, slot)
            if sample.reason or outcome.skip:
                # Whatever was half-decoded must not reach the encoder: equal runs, equal batches.
                slot.zero_()
            outcomes.append(outcome)
        return outcomes

    def _encode(self) -> Iterator[EncodedBatch | UnitEnd]:
        """Start each batch on the device before the one before it is collected."""
        flying: tuple[_HostBatch, Collect, list[Outcome]] | None = None
        while True:
            started = time.perf_counter()
            item = self._ready.get()
            if isinstance(item, Exception):
                raise item
            batch = item if isinstance(item, _HostBatch) else None
            outcomes = [each for task in batch.tasks for each in task.result()] if batch else []
            self.timings.decode_wait_s += time.perf_counter() - started
            started = time.perf_counter()
            launched = None
            if batch:
                launched = (batch, self.launch(batch.buffer[: len(batch.samples)]), outcomes)
            landed = self._land(*flying) if flying else None
            self.timings.device_s += time.perf_counter() - started
            if flying and landed:
                self._ring.put(flying[0].buffer)
                yield landed
            flying = launched
            if isinstance(item, UnitEnd):
                yield item
            elif item is None:
                return

    def _land(self, batch: _HostBatch, collect: Collect, outcomes: list[Outcome]) -> EncodedBatch:
        """Keep the rows of the images that could be decoded, name the others."""
        features = collect()
        reasons = [s.reason or o.skip for s, o in zip(batch.samples, outcomes, strict=True)]
        skipped = tuple(
            SkippedSample(sample.key, str(reason))
            for sample, reason in zip(batch.samples, reasons, strict=True)
            if reason is not None
        )
        kept = [i for i, reason in enumerate(reasons) if reason is None]
        if skipped:
            # The rows of skipped samples are those of a black image.
            features = {name: array[kept] for name, array in features.items()}
        labels = label_array([batch.samples[i].label for i in kept], self.labelling.classes)
        block = FeatureBlock(tuple(batch.samples[i].key for i in kept), features, labels)
        notes = Counter(str(note) for i in kept for note in outcomes[i].notes)
        return EncodedBatch(batch.unit, block, skipped, notes)


class _StoppedError(Exception):
    """The consumer has left; the reader thread unwinds."""
