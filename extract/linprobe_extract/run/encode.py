"""Encoding what is missing: shards through the pipeline into parts, then the splits sealed.

Safe to interrupt and to repeat: a shard is either committed whole or not there.
"""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from linprobe.errors import ShardError
from linprobe.leases import Leases
from linprobe.terminal import Progress, Watch, human_bytes
from linprobe_extract.device_memory import DeviceMemoryError, free_memory, memory_of
from linprobe_extract.encoders.device import launcher, pixel_room
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.run.batches import EncodedBatch, Unit
from linprobe_extract.run.claims import Claims, seal
from linprobe_extract.run.pipeline import Pipeline
from linprobe_extract.run.ranks import Ranks
from linprobe_extract.run.report import RunReport
from linprobe_extract.run.sink import PartSink
from linprobe_extract.run.taking import StoredRows, stored_rows
from linprobe_extract.run.work import Work
from linprobe_extract.shards.fetch import Fetcher
from linprobe_extract.shards.tar import check_names
from linprobe_store.care.remove import find_leftovers, remove_leftovers
from linprobe_store.handles.store import FeatureStore


class Gauge:
    """How far a run is: in images where their number is known, else in shards."""

    def __init__(self, work: Work, watch: Watch) -> None:
        self._watch = watch
        self._n_planned = {"images": work.n_images, "shards": len(work.todo)}
        self._n_done = {"images": 0, "shards": 0}
        self._started = time.monotonic()

    def step(self, *, images: int = 0, shards: int = 0, limit: str = "", line: str = "") -> None:
        """Show that so many more images and shards are done, and what limits the rate."""
        self._n_done["images"] += images
        self._n_done["shards"] += shards
        unit = "shards" if self._n_planned["images"] is None else "images"
        rate = self._n_done["images"] / max(time.monotonic() - self._started, 1e-9)
        detail = f"{rate:.0f} images/s, limit: {limit}" if limit else ""
        self._watch(Progress(self._n_done[unit], self._n_planned[unit], unit, detail, line))

    def tell(self, line: str) -> None:
        """Show a line for a person."""
        self.step(line=line)

    def failed(self, error: ShardError) -> None:
        """Show that a shard is done with, and why in vain."""
        self.step(shards=1, line=f"shard failed: {error.message}")


@dataclass(frozen=True)
class Run:
    """Everything that encoding needs; :meth:`extract` carries it out."""

    work: Work
    encoder: Encoder
    """The store knows it."""
    batch_size: int
    """Images a batch, at least 1; halved when the device's memory is too small."""
    decode_threads: int
    """At least 1."""
    max_skipped: float
    """Greatest share of samples of a shard that may be skipped, in [0, 1]."""
    ranks: Ranks
    watch: Watch
    stop: threading.Event
    """When set, no further shard is begun; on a CPU, where one may take an hour, no batch."""

    def extract(self) -> RunReport:
        """Encode the shards that have no part yet, then seal the splits that are complete.

        Raises
        ------
        DeviceMemoryError : the device's memory is too small for one image.
        StoreError : a full or failing disk; what was committed stays.
        """
        assert self.work.stored is not None
        n_before = len(self.work.shards) - len(self.work.todo)
        report = RunReport(self.batch_size, n_before, self.encoder.precision_reason)
        started = time.perf_counter()
        gauge = Gauge(self.work, self.watch)
        if self.ranks.rank == 0:
            self._clear_leftovers(gauge)
        with Leases(self.work.stored.path) as leases:
            after = self._encode_all(report, gauge, leases)
            report.seconds = time.perf_counter() - started
            report.stopped = self.stop.is_set()
            report.n_shards_missing = len(after.todo)
            report.sealed = tuple(after.sealed.values())
            # A bad shard leaves open what the dataset will be.
            if not report.failed and not report.failed_elsewhere:
                sealed = seal(after, leases, self.stop.is_set, gauge.tell)
                report.sealed, report.has_sealed = sealed
        return report

    def _encode_all(self, report: RunReport, gauge: Gauge, leases: Leases) -> Work:
        """Encode until nothing is missing, has failed or is stopped; give the work as it is then.

        A run on another dataset with the same shards removes their parts once it has sealed them:
        what counted as done is then taken from the store.
        """
        run = self
        while True:
            claims = Claims(run.work, leases, self.ranks.world_size - 1, gauge.tell)
            run._encode(report, gauge, claims, stored_rows(run.work, gauge.tell))
            report.failed_elsewhere = tuple(shard.url for shard in claims.failed_elsewhere)
            run = replace(self, work=run.work.again())
            has_failed = bool(report.failed or report.failed_elsewhere)
            if not run.work.todo or has_failed or self.stop.is_set():
                return run.work

    def _encode(
        self, report: RunReport, gauge: Gauge, claims: Claims, stored: StoredRows | None
    ) -> None:
        """Encode what falls to this process, in smaller batches where memory is too small."""
        while self.work.todo:
            try:
                model = self.encoder.names.model
                with memory_of(self.encoder.device, model, report.batch_size):
                    self._stream(report, gauge, claims, stored)
                return
            except DeviceMemoryError:
                if report.batch_size == 1:
                    raise
            free_memory()
            report.batch_size //= 2
            gauge.tell(f"out of device memory: going on with batches of {report.batch_size}")

    def _clear_leftovers(self, gauge: Gauge) -> None:
        """Remove what killed processes of this machine were writing to the store."""
        assert self.work.stored is not None
        store = FeatureStore(self.work.stored.path.parent)
        leftovers = find_leftovers(store, min_age_s=1.0, foreign_age_s=math.inf)
        remove_leftovers(leftovers)
        if leftovers:
            size = human_bytes(sum(leftover.bytes for leftover in leftovers))
            gauge.tell(f"removed what killed runs left ({size})")

    def _stream(
        self, report: RunReport, gauge: Gauge, claims: Claims, stored: StoredRows | None
    ) -> None:
        assert self.work.stored is not None
        labelling = self.work.plan.labelling
        pipeline = Pipeline(
            launcher(self.encoder),
            self.encoder.preprocess,
            labelling,
            report.batch_size,
            self.decode_threads,
            partial(pixel_room, self.encoder),
            find=None if stored is None else stored.find,
            timings=report.timings,
        )
        on_cpu = self.encoder.device.type == "cpu"
        fetcher = Fetcher(self.work.fingerprints, gauge.tell)
        items = pipeline.run(self._claimed(fetcher, report, gauge, claims))
        sink = PartSink(
            self.work.stored, labelling.identity, self.max_skipped, report, claims.settle
        )
        with sink, closing(items), fetcher:  # which first ends what the reader may wait for
            for item in items:
                sink.put(item)
                if isinstance(item, EncodedBatch):
                    n_images = len(item.block.keys) + len(item.skipped)
                    gauge.step(images=n_images, limit=report.timings.limit[0])
                elif item.error is None:
                    gauge.step(shards=1)
                else:
                    gauge.failed(item.error)
                if on_cpu and self.stop.is_set():
                    return

    def _claimed(
        self, fetcher: Fetcher, report: RunReport, gauge: Gauge, claims: Claims
    ) -> Iterator[Unit]:
        """Give the shards of this process that have no part, fetched before they are due."""
        keys = self.work.keys_by_shard()
        shards = claims.take(lambda: fetcher.is_over or self.stop.is_set())
        for shard, result in fetcher.ahead(shards, claims.may_take_ahead, self.stop):
            report.timings.fetch_wait_s = fetcher.waited_s
            try:
                source, fingerprint = result.result()
                if shard.fingerprint is None:  # pack has seen to the names of what it made
                    check_names(source, place=shard.url)
            except ShardError as error:
                report.failed[shard.url] = error
                gauge.failed(error)
                claims.settle(shard, has_failed=True)
            else:
                if self.work.has_part(fingerprint):
                    claims.settle(shard, has_failed=False)
                else:
                    yield Unit(shard, source, fingerprint, keys[shard])
