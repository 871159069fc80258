"""The writing end of the pipeline: batches into parts, on a thread of their own.

A part is all or nothing: it is committed when the samples read are all accounted for and few
enough were skipped, and leaves nothing behind otherwise.
"""

import time
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from linprobe.errors import LinprobeError, ShardError
from linprobe_extract.run.pipeline import EncodedBatch, Task, Unit, UnitEnd, UnitLost
from linprobe_extract.run.report import FailedShard
from linprobe_store.arrays.part import PartWriter
from linprobe_store.format.spec import SkippedSample
from linprobe_store.handles.encoder import StoredEncoder

_MAX_PENDING = 8
"""Batches waiting to be written before the encoder has to wait."""
_WORST_NAMED = 5


@dataclass
class PartSink:
    """Writes the batches of one unit after the other; use as a context manager."""

    encoder: StoredEncoder
    """Where parts go."""
    batch_size: int
    """Recorded with each part, since another batch size gives other bits."""
    labelling: str
    """How labels are read, recorded with each part."""
    max_skipped: float
    """Greatest share of samples of a shard that may be skipped, in [0, 1]."""
    wait_s: float = 0.0
    """Seconds the caller has waited for the writer."""
    failed: list[FailedShard] = field(default_factory=list)
    """Shards that gave no part."""
    n_committed: int = 0
    """Parts committed."""
    n_rows: int = 0
    """Rows committed."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Samples skipped in committed parts, by reason."""
    notes: Counter[str] = field(default_factory=Counter)
    """Remarks on committed rows, by count."""

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "write")
        self._pending: deque[Future[None]] = deque()
        self._scope = ExitStack()
        self._writer: PartWriter | None = None
        self._error: LinprobeError | None = None
        self._unit_rows = 0
        self._unit_skipped: list[SkippedSample] = []
        self._unit_notes = Counter[str]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._wait(0)
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._scope.close()

    def put(self, item: EncodedBatch | UnitEnd | UnitLost) -> None:
        """Queue a batch or the end of its unit for writing.

        Raises
        ------
        StoreError : an earlier write met a full or failing disk.
        """
        if isinstance(item, UnitLost):
            self._fail(item.task, item.error)
            return
        self._pending.append(self._thread.submit(self._write, item))
        self._wait(_MAX_PENDING)

    def _wait(self, n_pending: int) -> None:
        started = time.perf_counter()
        while len(self._pending) > n_pending or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self.wait_s += time.perf_counter() - started

    def _write(self, item: EncodedBatch | UnitEnd) -> None:
        try:
            if isinstance(item, UnitEnd):
                self._finish(item)
            elif self._error is None:
                self._append(item)
        except LinprobeError as error:
            if isinstance(error.__cause__, OSError) and not isinstance(error, ShardError):
                raise  # a full or failing disk is no fault of this shard: the run ends
            self._error = error
        if isinstance(item, UnitEnd):
            self._close(item)

    def _append(self, batch: EncodedBatch) -> None:
        self._unit_rows += len(batch.block.keys)
        self._unit_skipped.extend(batch.skipped)
        self._unit_notes.update(batch.notes)
        if batch.block.keys:
            self._part(batch.unit).append(batch.block)

    def _part(self, unit: Unit) -> PartWriter:
        if self._writer is None:
            self._writer = self._scope.enter_context(self.encoder.part_writer(unit.fingerprint))
        return self._writer

    def _finish(self, end: UnitEnd) -> None:
        if self._error is not None:
            return
        if end.error is not None:
            raise end.error
        self._check_skipped(end)
        self._part(end.unit).commit(
            skipped=self._unit_skipped,
            batch_size=self.batch_size,
            planned=end.planned,
            labelling=self.labelling,
        )

    def _check_skipped(self, end: UnitEnd) -> None:
        n_skipped = len(self._unit_skipped)
        if n_skipped <= self.max_skipped * end.planned:
            return
        worst = ", ".join(f"{s.key} ({s.reason})" for s in self._unit_skipped[:_WORST_NAMED])
        raise ShardError(
            f"{n_skipped} of {end.planned} samples of '{end.unit.task.shard.url}' cannot be used, "
            f"more than --max-skipped {self.max_skipped:g}: {worst}",
            hint="mend the shard, or allow more with --max-skipped",
        )

    def _close(self, end: UnitEnd) -> None:
        if self._error is None:
            self.n_committed += 1
            self.n_rows += self._unit_rows
            self.skipped.update(sample.reason for sample in self._unit_skipped)
            self.notes.update(self._unit_notes)
        else:
            self._fail(end.unit.task, self._error)
        self._scope.close()
        self._scope = ExitStack()
        self._writer, self._error = None, None
        self._unit_rows, self._unit_skipped, self._unit_notes = 0, [], Counter()

    def _fail(self, task: Task, error: LinprobeError) -> None:
        self.failed.append(FailedShard(task.shard.url, error.message, error.hint))
