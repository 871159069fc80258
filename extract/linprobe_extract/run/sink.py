"""The writing end of the pipeline: batches into parts, on a thread of their own.

A part is all or nothing: it is committed when the samples read are all accounted for and few
enough were skipped, and leaves nothing behind otherwise.
"""

import time
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Protocol, Self

from linprobe.errors import LinprobeError, ShardError
from linprobe.names import first_few
from linprobe_extract.run.batches import EncodedBatch, Unit, UnitEnd
from linprobe_extract.run.report import RunReport
from linprobe_extract.run.taking import row_ranges
from linprobe_extract.shards.types import Shard
from linprobe_store.format.spec import SkippedSample
from linprobe_store.handles.encoder import StoredEncoder

_MAX_PENDING = 8
"""Batches waiting to be written before the encoder has to wait."""


class Settle(Protocol):
    """Takes a shard that has its part, or has failed."""

    def __call__(self, shard: Shard, *, has_failed: bool) -> None:
        """Take one."""


class _Part:
    """The part of one shard in the making."""

    def __init__(self, unit: Unit, encoder: StoredEncoder, batch_size: int) -> None:
        self.shard = unit.shard
        self.batch_size = batch_size
        self.n_rows = 0
        self.taken: dict[str, list[int]] = {}
        """Rows that were stored before, by the unit that they are from."""
        self.skipped: list[SkippedSample] = []
        self.notes = Counter[str]()
        self.error: LinprobeError | None = None
        self.scope = ExitStack()
        self.writer = self.scope.enter_context(encoder.part_writer(unit.fingerprint))


class PartSink:
    """Writes the batches of one shard after the other; use as a context manager.

    ``labelling`` is recorded with each part; ``max_skipped`` is the greatest share of samples of a
    shard that may be skipped, in [0, 1]; ``report`` counts what is committed and what failed, and
    ``settle`` takes each shard of these.
    """

    def __init__(
        self, encoder: StoredEncoder, labelling: str, max_skipped: float, report: RunReport,
        settle: Settle,
    ) -> None:  # fmt: skip
        self._encoder = encoder
        self._labelling = labelling
        self._max_skipped = max_skipped
        self._report = report
        self._settle = settle
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
                self._close(self._part)

    def put(self, item: EncodedBatch | UnitEnd) -> None:
        """Queue a batch or the end of its shard for writing.

        Raises StoreError where an earlier write met a full or failing disk.
        """
        self._pending.append(self._thread.submit(self._write, item))
        self._wait(_MAX_PENDING)

    def _wait(self, n_pending: int) -> None:
        started = time.perf_counter()
        while len(self._pending) > n_pending or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._report.timings.write_wait_s += time.perf_counter() - started

    def _write(self, item: EncodedBatch | UnitEnd) -> None:
        if self._part is None:
            # The batch size is recorded with each part, since another one gives other bits.
            self._part = _Part(item.unit, self._encoder, self._report.batch_size)
        part = self._part
        try:
            if part.error is not None:
                pass
            elif isinstance(item, UnitEnd):
                self._commit(part, item)
            else:
                for row, unit in item.taken.items():
                    part.taken.setdefault(unit, []).append(part.n_rows + row)
                part.n_rows += len(item.block.keys)
                part.skipped.extend(item.skipped)
                part.notes.update(item.notes)
                if item.block.keys:
                    part.writer.append(item.block)
        except LinprobeError as error:
            part.error = error
            if isinstance(error.__cause__, OSError) and not isinstance(error, ShardError):
                raise  # a full or failing disk is no fault of this shard: the run ends
        if isinstance(item, UnitEnd):
            self._close(part)
            self._settle(part.shard, has_failed=part.error is not None)
            self._part = None

    def _commit(self, part: _Part, end: UnitEnd) -> None:
        if end.error is not None:
            raise end.error
        if len(part.skipped) > self._max_skipped * end.planned:
            worst = first_few(f"{sample.key} ({sample.reason})" for sample in part.skipped)
            raise ShardError(
                f"{len(part.skipped)} of {end.planned} samples of '{part.shard.url}' cannot "
                f"be used, more than --max-skipped {self._max_skipped:g}: {worst}",
                hint="mend the shard, or allow more with --max-skipped",
            )
        if part.taken:
            self._encoder.record_taken(
                part.writer.shard, {unit: row_ranges(rows) for unit, rows in part.taken.items()}
            )
        part.writer.commit(
            skipped=part.skipped,
            batch_size=part.batch_size,
            planned=end.planned,
            labelling=self._labelling,
        )
        self._report.n_shards += 1
        self._report.n_images += part.n_rows
        self._report.n_taken += sum(map(len, part.taken.values()))
        self._report.skipped.update(sample.reason for sample in part.skipped)
        self._report.notes.update(part.notes)

    def _close(self, part: _Part) -> None:
        if part.error is not None:
            self._report.failed[part.shard.url] = part.error
        part.scope.close()
