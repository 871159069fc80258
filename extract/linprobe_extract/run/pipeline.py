"""Shards to committed parts: read, decode, encode and write at the same time.

One thread reads tars, a pool decodes into a ring of (pinned) uint8 buffers, the calling thread
feeds the device and keeps one batch in flight, one thread writes parts. Every queue is bounded
by the ring. A batch never straddles a shard, and a sample that cannot be decoded keeps its slot,
so a shard's features depend on the shard and the batch size alone.

What a batch became: features and decode outcomes to the rows and skips that are stored.

What flows through a run: shards to encode, batches of features, ends. Imports no torch.
"""

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import torch

from linprobe.errors import ShardError
from linprobe_extract.encoders.device import Collect, Launch
from linprobe_extract.pixels.preprocess import Note, Outcome, limit_thread, preprocess
from linprobe_extract.shards.layouts import Shard
from linprobe_extract.shards.samples import Labelling, Sample, label_array, read_samples
from linprobe_extract.shards.tar import read_members
from linprobe_store.format.spec import (
    FeatureArray,
    FeatureBlock,
    PreprocessSpec,
    ShardFingerprint,
    SkippedSample,
)


@dataclass(frozen=True)
class Task:
    """A shard of the dataset, before it is known what its bytes are."""

    split: str
    """``train``, ``val`` or ``test``."""
    shard: Shard
    """As the plan names it."""


@dataclass(frozen=True)
class Unit:
    """A shard to be encoded."""

    task: Task
    """Which."""
    source: Shard
    """Where to read it: the shard itself, or a local copy while there is one."""
    fingerprint: ShardFingerprint
    """What the bytes must be."""


@dataclass(frozen=True)
class EncodedBatch:
    """Consecutive samples of one unit with their features."""

    unit: Unit
    """The shard."""
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
    """The shard."""
    planned: int
    """Samples read; rows + skipped must come to this."""
    error: ShardError | None
    """Why it failed, or None."""


@dataclass(frozen=True)
class UnitLost:
    """A shard that cannot be read at all."""

    task: Task
    """Which."""
    error: ShardError
    """Why."""


@dataclass
class Timings:
    """Where the calling thread spent its time, in seconds."""

    decode_wait_s: float = 0.0
    """Waiting for decoded pixels: the host is too slow."""
    device_s: float = 0.0
    """Launching batches and waiting for features: the encoder is the limit, as it should be."""
    write_wait_s: float = 0.0
    """Waiting for the writer: the disk is too slow."""

    @property
    def limit(self) -> str:
        """What the run has mostly waited for: ``encoder``, ``decoding`` or ``disk``."""
        waits = {
            "encoder": self.device_s,
            "decoding": self.decode_wait_s,
            "disk": self.write_wait_s,
        }
        return max(waits, key=lambda name: waits[name])


@dataclass(frozen=True)
class Decoded:
    """What became of one image on its way to pixels."""

    reason: str | None
    """Why it is skipped, or None."""
    notes: tuple[Note, ...]
    """Remarks to be counted."""


def encoded_batch(
    unit: Unit,
    samples: Sequence[Sample],
    decoded: Sequence[Decoded],
    features: Mapping[str, FeatureArray],
    classes: tuple[str, ...] | None,
) -> EncodedBatch:
    """Keep the rows of the images that could be decoded, name the others.

    Parameters
    ----------
    unit : the shard they come from.
    samples, decoded : b of each, in tar order.
    features : (b, d) per tap; rows of skipped samples are those of a black image.
    classes : class names, or None; their number is the width of multi-hot labels.

    Raises
    ------
    ShardError : a sample has several labels and the class names are not known.
    """
    kept = [i for i, image in enumerate(decoded) if image.reason is None]
    whole = len(kept) == len(decoded)
    block = FeatureBlock(
        keys=tuple(samples[i].key for i in kept),
        features={name: array if whole else array[kept] for name, array in features.items()},
        labels=label_array([samples[i].label for i in kept], classes),
    )
    skipped = tuple(
        SkippedSample(sample.key, image.reason)
        for sample, image in zip(samples, decoded, strict=True)
        if image.reason is not None
    )
    notes = Counter(str(note) for i in kept for note in decoded[i].notes)
    return EncodedBatch(unit, block, skipped, notes)


_TASK_IMAGES = 8
"""Images per decode task: enough to hide the cost of a task, few enough to balance."""
_RING_BUFFERS = 4
"""Batches in memory: being filled, ready, on the device, being collected."""


@dataclass(frozen=True)
class _HostBatch:
    unit: Unit
    samples: tuple[Sample, ...]
    buffer: torch.Tensor
    outcomes: tuple[Future[list[Decoded]], ...]


_Ring: TypeAlias = "queue.Queue[torch.Tensor]"
_Ready: TypeAlias = "queue.Queue[_HostBatch | UnitEnd | UnitLost | Exception | None]"


@dataclass
class Pipeline:
    """A configured host side; :meth:`run` streams units through it once."""

    launch: Launch
    """Starts a batch on the device."""
    preprocess: PreprocessSpec
    """How an image becomes pixels."""
    labelling: Labelling
    """How labels are read."""
    batch_size: int
    """Images a batch, at least 1."""
    decode_threads: int
    """Threads that decode, at least 1."""
    pin_memory: bool
    """Page-locked buffers, for copies to a GPU that overlap."""
    timings: Timings = field(default_factory=Timings)
    """Filled while running."""

    def run(self, units: Iterable[Unit | UnitLost]) -> Iterator[EncodedBatch | UnitEnd | UnitLost]:
        """Encode units in order; each unit's batches, then its end. Lost ones pass through.

        Raises
        ------
        torch.OutOfMemoryError : a batch does not fit the device.
        """
        ring = self._ring()
        ready: _Ready = queue.Queue(_RING_BUFFERS)
        stop = threading.Event()
        pool = ThreadPoolExecutor(self.decode_threads, "decode", initializer=limit_thread)
        reader = threading.Thread(
            target=self._read, args=(units, ring, ready, pool, stop), name="reader", daemon=True
        )
        reader.start()
        try:
            yield from self._encode(ready, ring)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            # It may be inside a download; it is a daemon and holds nothing that has to be saved.
            reader.join(timeout=1.0)

    def _ring(self) -> _Ring:
        ring: _Ring = queue.Queue()
        shape = (self.batch_size, 3, self.preprocess.image_size, self.preprocess.image_size)
        for _ in range(_RING_BUFFERS):
            ring.put(torch.empty(shape, dtype=torch.uint8, pin_memory=self.pin_memory))
        return ring

    def _read(
        self,
        units: Iterable[Unit | UnitLost],
        ring: _Ring,
        ready: _Ready,
        pool: ThreadPoolExecutor,
        stop: threading.Event,
    ) -> None:
        """Thread: tars to batches under decoding; ends with None, or with what went wrong."""
        with suppress(_StoppedError):
            try:
                for unit in units:
                    if isinstance(unit, UnitLost):
                        _put(ready, unit, stop)
                        continue
                    for item in self._read_unit(unit, ring, pool, stop):
                        _put(ready, item, stop)
                _put(ready, None, stop)
            except Exception as error:
                _put(ready, error, stop)

    def _read_unit(
        self,
        unit: Unit,
        ring: _Ring,
        pool: ThreadPoolExecutor,
        stop: threading.Event,
    ) -> Iterator[_HostBatch | UnitEnd]:
        planned = 0
        try:
            members = read_members(unit.source, unit.fingerprint, told_as=unit.task.shard.url)
            samples = read_samples(unit.task.shard.url, members, self.labelling)
            while batch := tuple(islice(samples, self.batch_size)):
                planned += len(batch)
                buffer = _get(ring, stop)
                yield _HostBatch(unit, batch, buffer, self._decode(batch, buffer, pool))
        except ShardError as error:
            yield UnitEnd(unit, planned, error)
        else:
            yield UnitEnd(unit, planned, None)

    def _decode(
        self, batch: tuple[Sample, ...], buffer: torch.Tensor, pool: ThreadPoolExecutor
    ) -> tuple[Future[list[Decoded]], ...]:
        starts = range(0, len(batch), _TASK_IMAGES)
        return tuple(
            pool.submit(self._decode_task, batch[i : i + _TASK_IMAGES], buffer[i:]) for i in starts
        )

    def _decode_task(self, samples: tuple[Sample, ...], slots: torch.Tensor) -> list[Decoded]:
        return [
            self._decode_one(sample, slot) for sample, slot in zip(samples, slots, strict=False)
        ]

    def _decode_one(self, sample: Sample, slot: torch.Tensor) -> Decoded:
        outcome = (
            preprocess(self.preprocess, sample.image, slot) if not sample.reason else Outcome(None)
        )
        reason = sample.reason or outcome.skip
        if reason is not None:
            # Whatever was half-decoded must not reach the encoder: equal runs, equal batches.
            slot.zero_()
        return Decoded(None if reason is None else str(reason), outcome.notes)

    def _encode(
        self,
        ready: _Ready,
        ring: _Ring,
    ) -> Iterator[EncodedBatch | UnitEnd | UnitLost]:
        flying: tuple[_HostBatch, Collect, list[Decoded]] | None = None
        while True:
            started = time.perf_counter()
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            decoded = _decoded(item) if isinstance(item, _HostBatch) else []
            self.timings.decode_wait_s += time.perf_counter() - started
            started = time.perf_counter()
            launched = None
            if isinstance(item, _HostBatch):
                launched = (item, self.launch(item.buffer[: len(item.samples)]), decoded)
            landed = self._land(*flying) if flying else None
            self.timings.device_s += time.perf_counter() - started
            if flying and landed:
                ring.put(flying[0].buffer)
                yield landed
            flying = launched
            if isinstance(item, UnitEnd | UnitLost):
                yield item
            elif item is None:
                return

    def _land(self, batch: _HostBatch, collect: Collect, decoded: list[Decoded]) -> EncodedBatch:
        return encoded_batch(batch.unit, batch.samples, decoded, collect(), self.labelling.classes)


class _StoppedError(Exception):
    """The consumer has left; the reader thread unwinds."""


def _put(
    ready: _Ready,
    item: _HostBatch | UnitEnd | UnitLost | Exception | None,
    stop: threading.Event,
) -> None:
    while True:
        if stop.is_set():
            raise _StoppedError
        try:
            return ready.put(item, timeout=0.1)
        except queue.Full:
            continue


def _get(ring: _Ring, stop: threading.Event) -> torch.Tensor:
    while True:
        if stop.is_set():
            raise _StoppedError
        try:
            return ring.get(timeout=0.1)
        except queue.Empty:
            continue


def _decoded(batch: _HostBatch) -> list[Decoded]:
    return [decoded for task in batch.outcomes for decoded in task.result()]
