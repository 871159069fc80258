"""The writing end of the pipeline: batches into parts, on a thread of their own.

A part is all or nothing: it is committed when the samples read are all accounted for and few
enough were skipped, and leaves nothing behind otherwise.
"""

import time
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Self

from linprobe.errors import LinprobeError, ShardError
from linprobe.names import first_few
from linprobe_extract.run.pipeline import EncodedBatch, Unit, UnitEnd
from linprobe_extract.run.report import RunReport
from linprobe_store.format.spec import SkippedSample
from linprobe_store.handles.encoder import StoredEncoder

_MAX_PENDING = 8
"""Batches waiting to be written before the encoder has to wait."""


class _Part:
    """The part of one shard in the making."""

    def __init__(self, unit: Unit, sink: "PartSink") -> None:
        self.error: LinprobeError | None = None
        self._url = unit.shard.url
        self._sink = sink
        # Recorded with each part, since another batch size gives other bits.
        self._batch_size = sink.report.batch_size
        self._n_rows = 0
        self._skipped: list[SkippedSample] = []
        self._notes = Counter[str]()
        self._scope = ExitStack()
        self._writer = self._scope.enter_context(sink.encoder.part_writer(unit.fingerprint))

    def append(self, batch: EncodedBatch) -> None:
        self._n_rows += len(batch.block.keys)
        self._skipped.extend(batch.skipped)
        self._notes.update(batch.notes)
        if batch.block.keys:
            self._writer.append(batch.block)

    def commit(self, end: UnitEnd) -> None:
        if self.error is not None:
            return
        if end.error is not None:
            raise end.error
        if len(self._skipped) > self._sink.max_skipped * end.planned:
            worst = first_few(f"{sample.key} ({sample.reason})" for sample in self._skipped)
            raise ShardError(
                f"{len(self._skipped)} of {end.planned} samples of '{self._url}' cannot "
                f"be used, more than --max-skipped {self._sink.max_skipped:g}: {worst}",
                hint="mend the shard, or allow more with --max-skipped",
            )
        self._writer.commit(
            skipped=self._skipped,
            batch_size=self._batch_size,
            planned=end.planned,
            labelling=self._sink.labelling,
        )
        report = self._sink.report
        report.n_shards += 1
        report.n_images += self._n_rows
        report.skipped.update(sample.reason for sample in self._skipped)
        report.notes.update(self._notes)

    def close(self) -> None:
        if self.error is not None:
            self._sink.report.failed[self._url] = self.error
        self._scope.close()


class PartSink:
    """Writes the batches of one shard after the other; use as a context manager.

    Parameters
    ----------
    encoder : where parts go.
    labelling : how labels are read, recorded with each part.
    max_skipped : greatest share of samples of a shard that may be skipped, in [0, 1].
    report : counts what is committed, what failed, and the seconds that callers wait here.
    """

    def __init__(
        self, encoder: StoredEncoder, labelling: str, max_skipped: float, report: RunReport
    ) -> None:
        self.encoder = encoder
        self.labelling = labelling
        self.max_skipped = max_skipped
        self.report = report
        self._thread = ThreadPoolExecutor(1, "write")
        self._pending: deque[Future[None]] = deque()
        self._part: _Part | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._wait(0)
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)
            if self._part is not None:
                self._part.close()

    def put(self, item: EncodedBatch | UnitEnd) -> None:
        """Queue a batch or the end of its shard for writing.

        Raises
        ------
        StoreError : an earlier write met a full or failing disk.
        """
        self._pending.append(self._thread.submit(self._write, item))
        self._wait(_MAX_PENDING)

    def _wait(self, n_pending: int) -> None:
        started = time.perf_counter()
        while len(self._pending) > n_pending or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self.report.timings.write_wait_s += time.perf_counter() - started

    def _write(self, item: EncodedBatch | UnitEnd) -> None:
        part = self._part = self._part or _Part(item.unit, self)
        try:
            if isinstance(item, UnitEnd):
                part.commit(item)
            elif part.error is None:
                part.append(item)
        except LinprobeError as error:
            part.error = error
            if isinstance(error.__cause__, OSError) and not isinstance(error, ShardError):
                raise  # a full or failing disk is no fault of this shard: the run ends
        if isinstance(item, UnitEnd):
            part.close()
            self._part = None
