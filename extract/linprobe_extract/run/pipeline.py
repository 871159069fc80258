"""Shards to features: read, decode and encode at the same time.

One thread reads tars, a pool decodes into a ring of (pinned) uint8 buffers, the calling thread
feeds the device and keeps batches in flight, across the ends of shards. Every queue is bounded by
the ring. A batch never straddles a shard, and a sample that cannot be decoded keeps its slot, so a
shard's features depend on the shard and the batch size alone; rows of images that the encoder has
encoded before are taken as they are stored, and the others of their batch encoded without them.
"""

import hashlib
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import torch

from linprobe.errors import ShardError
from linprobe_extract.encoders.device import Flight, Launch
from linprobe_extract.pixels.preprocess import Outcome, limit_thread, preprocess_all
from linprobe_extract.run.batches import (
    Decoded,
    EncodedBatch,
    FlyingBatch,
    HostBatch,
    Unit,
    UnitEnd,
)
from linprobe_extract.run.report import Timings
from linprobe_extract.run.taking import StoredRow
from linprobe_extract.shards.labels import label_array
from linprobe_extract.shards.samples import cut_batches, read_samples
from linprobe_extract.shards.tar import read_members
from linprobe_extract.shards.types import Labelling, Sample
from linprobe_store.format.spec import (
    PreprocessSpec,
    SkippedSample,
)

_TASK_IMAGES = {"fast": 8, "exact": 8, "own": 8, "nvjpeg": 64}
"""Images per decode task: enough to hide its cost, on the GPU of a call, few enough to balance."""
_MAX_FLYING = 2
"""Batches launched while the next is waited for: when one has landed, the device has another."""
_RING_SIZE = _MAX_FLYING + 3
"""Batches of pixels in memory: being filled, ready, being launched, and flying."""
_PATIENCE_S = 0.1
"""Seconds for the next batch to come, while others fly, before it is seen which have landed."""

T = TypeVar("T")
Find: TypeAlias = Callable[[Sequence[bytes]], Sequence[StoredRow | None]]
"""Gives the stored rows of images, by the sha256 of their bytes."""
_NOTHING = Flight(lambda: True, dict)
"""A batch of which every row was stored."""


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
    room: Callable[[int], torch.Tensor]
    """Gives memory for the pixels of so many images, which ``launch`` takes in batches."""
    find: Find | None = None
    """Gives the rows of images that were encoded before, by their digests; None where there are
    none."""
    timings: Timings = field(default_factory=Timings)
    """Filled while running."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(self.decode_threads, "decode", initializer=limit_thread)
        self._ready: queue.Queue[HostBatch | UnitEnd | Exception | None] = queue.Queue(_RING_SIZE)
        self._ring: queue.Queue[torch.Tensor] = queue.Queue()
        # At once: page-locked memory is given in powers of two, each time rounded up.
        for buffer in torch.split(self.room(_RING_SIZE * self.batch_size), self.batch_size):
            self._ring.put(buffer)

    def run(self, units: Iterable[Unit]) -> Generator[EncodedBatch | UnitEnd]:
        """Encode shards in order: each one's batches, then its end.

        Raises DeviceMemoryError where a batch does not fit the device.
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

    def _read_unit(self, unit: Unit) -> Iterator[HostBatch | UnitEnd]:
        planned, error = 0, None
        try:
            # A copy was hashed on its way.
            expected = unit.fingerprint if unit.source is unit.shard else None
            members = read_members(unit.source, expected, place=unit.shard.url)
            samples = read_samples(unit.shard.url, members, self.labelling)
            for batch in cut_batches(samples, self.batch_size, lambda sample: len(sample.image)):
                unit.keys.take(unit.fingerprint, [sample.key for sample in batch])
                planned += len(batch)
                buffer = self._wait(partial(self._ring.get, timeout=0.1))
                step = _TASK_IMAGES[self.preprocess.path]
                tasks = [
                    self._pool.submit(self._decode, batch[i : i + step], buffer[i:])
                    for i in range(0, len(batch), step)
                ]
                yield HostBatch(unit, batch, buffer, tasks)
        except ShardError as failure:
            error = failure
        yield UnitEnd(unit, planned, error)

    def _wait(self, attempt: Callable[[], T]) -> T:
        """Repeat what a full or an empty queue holds up, until the consumer has left."""
        while not self._stop.is_set():
            with suppress(queue.Full, queue.Empty):
                return attempt()
        raise _StoppedError

    def _decode(self, samples: tuple[Sample, ...], slots: torch.Tensor) -> list[Decoded]:
        digests = [hashlib.sha256(sample.image).digest() for sample in samples]
        stored = self.find(digests) if self.find is not None else [None] * len(samples)
        usable = [i for i, s in enumerate(samples) if s.reason is None and stored[i] is None]
        images, out = [samples[i].image for i in usable], [slots[i] for i in usable]
        outcomes = dict(zip(usable, preprocess_all(self.preprocess, images, out), strict=True))
        decoded = []
        for i, digest in enumerate(digests):
            outcome = outcomes.get(i, Outcome(None))
            row = stored[i] if samples[i].reason is None else None
            if row is None and (i not in outcomes or outcome.skip):
                # Whatever was half-decoded must not reach the encoder: equal runs, equal batches.
                slots[i].zero_()
            decoded.append(Decoded(outcome, digest, row))
        return decoded

    def _encode(self) -> Iterator[EncodedBatch | UnitEnd]:
        """Start batches on the device before those before them are collected."""
        flying: deque[FlyingBatch | UnitEnd] = deque()
        is_over = False
        while not is_over:
            try:
                with self._timed("decode_wait_s"):
                    item = self._ready.get(timeout=_PATIENCE_S if flying else None)
            except queue.Empty:
                yield from self._landed(flying, _MAX_FLYING)
                continue
            if isinstance(item, Exception):
                raise item
            is_over = item is None
            if item is not None:
                flying.append(self._launched(item) if isinstance(item, HostBatch) else item)
            yield from self._landed(flying, 0 if is_over else _MAX_FLYING)

    def _launched(self, batch: HostBatch) -> FlyingBatch:
        """Start a batch once it is decoded, and sort its samples while it flies."""
        with self._timed("decode_wait_s"):
            decoded = [pair for task in batch.tasks for pair in task.result()]
        samples, buffer = batch.samples, batch.buffer
        stored = {i: each.stored for i, each in enumerate(decoded) if each.stored is not None}
        reasons = [s.reason or each.outcome.skip for s, each in zip(samples, decoded, strict=True)]
        kept = [i for i, reason in enumerate(reasons) if reason is None]
        fresh = list(range(len(samples)))
        if stored:
            fresh = [i for i in kept if i not in stored]
            for slot, i in enumerate(fresh):
                buffer[slot] = buffer[i]
        with self._timed("device_s"):
            flight = self.launch(buffer[: len(fresh)]) if fresh else _NOTHING
        return FlyingBatch(
            flight,
            buffer,
            batch.unit,
            fresh,
            stored,
            kept,
            tuple(samples[i].key for i in kept),
            label_array([samples[i].label for i in kept], self.labelling.classes),
            np.frombuffer(b"".join(decoded[i].sha256 for i in kept), np.uint8).reshape(-1, 32),
            Counter(str(note) for i in kept for note in decoded[i].outcome.notes),
            tuple(
                SkippedSample(sample.key, str(reason))
                for sample, reason in zip(samples, reasons, strict=True)
                if reason is not None
            ),
        )

    def _landed(
        self, flying: deque[FlyingBatch | UnitEnd], n_most: int
    ) -> Iterator[EncodedBatch | UnitEnd]:
        """Give what has landed, in order; wait for the first while more than ``n_most`` fly."""
        while flying:
            first = flying[0]
            if isinstance(first, UnitEnd):
                yield first
            else:
                n_flying = sum(isinstance(each, FlyingBatch) for each in flying)
                if n_flying <= n_most and not first.flight.has_landed():
                    return
                with self._timed("device_s"):
                    landed = first.landed()
                self._ring.put(first.buffer)
                yield landed
            flying.popleft()

    @contextmanager
    def _timed(self, name: Literal["decode_wait_s", "device_s"]) -> Iterator[None]:
        """Add the seconds that something takes to a field of the timings."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = getattr(self.timings, name) + time.perf_counter() - started
            setattr(self.timings, name, seconds)


class _StoppedError(Exception):
    """The consumer has left; the reader thread unwinds."""
