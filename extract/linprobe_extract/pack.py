"""Packing: from a source to a sealed folder of shards, resumable shard by shard.

List, plan, write the missing shards (test, then val, then train, in parallel), assemble the tree,
check the counts, write the card, rename. Nothing shows under the output name before all of it has
worked; a second run of the same finds nothing to do.
"""

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from linprobe_extract.dataset_card import DatasetCard, load_card
from linprobe_extract.pack_listing import PackError, check_listing
from linprobe_extract.pack_plan import (
    ORDER,
    PackOptions,
    PackPlan,
    PlannedShard,
    plan_pack,
    request_digest,
)
from linprobe_extract.pack_seal import build_card, check_counts, write_tree
from linprobe_extract.pack_sources import list_source, never_changes
from linprobe_extract.pack_tar import ShardRecord, write_shard
from linprobe_extract.pack_workspace import Workspace, check_output, damaged_shards

MAX_JOBS = 16


@dataclass(frozen=True)
class PackReport:
    """What a run of ``pack`` did."""

    out: Path
    """The folder of the dataset."""
    card: DatasetCard
    """The card in it."""
    is_new: bool
    """Whether this run put it there; False where there was nothing to do."""
    n_packed: int
    """Shards written by this run."""
    n_kept: int
    """Shards that were there before: of an interrupted run, or all of them."""
    seconds: float
    """Wall time of the run."""


Watch = Callable[[int, int], None]
"""Told samples done and samples in all, from any thread."""


def pack(
    source: str, out: Path, options: PackOptions, watch: Watch = lambda done, total: None
) -> PackReport:
    """Pack ``source`` into the folder ``out``: shards, class names, card.

    Parameters
    ----------
    source : ``digits``, ``imagefolder:DIR``, ``csv:FILE``, ``torchvision:NAME[:key=value,...]``,
        ``hf:NAME``, or the slug of a known dataset.

    Raises
    ------
    PackError : the source cannot be used, ``out`` holds something else, or a known dataset does
        not have its sizes. What is packed so far stays beside ``out`` for the next run.
    """
    started = time.monotonic()
    check_output(out)
    done = None if options.overwrite else load_card(out)
    if done and never_changes(source) and done.request == request_digest(source, options):
        return _nothing_to_do(out, done, started)
    listing = list_source(source, out, options)
    check_listing(listing)
    if options.check_counts:
        check_counts(listing, {split: len(rows) for split, rows in listing.splits.items()})
    plan = plan_pack(listing, source, options)
    if done and done.plan == plan.digest:
        return _nothing_to_do(out, done, started)
    if done:
        raise PackError(
            f"{out} holds another dataset: {done.name}, packed from {done.source} with seed "
            f"{done.seed}, or its source has changed since",
            hint="choose another --out folder, or pass --overwrite to replace it",
        )
    workspace = Workspace(out)
    with workspace.opened(plan.digest, restart=options.overwrite):
        records, n_packed = _pack_shards(workspace, plan, options, watch)
        if options.check_counts:
            check_counts(listing, _kept_counts(records), records)
        card = build_card(plan, source, options, records)
        try:
            write_tree(workspace, card, records)
            workspace.publish()
        except OSError as error:
            raise _cannot_write(out, error) from error
    return PackReport(
        out, card, True, n_packed, len(records) - n_packed, time.monotonic() - started
    )


def _nothing_to_do(out: Path, card: DatasetCard, started: float) -> PackReport:
    """The report of a run that finds everything there."""
    damaged = damaged_shards(out, card)
    if damaged:
        raise PackError(
            f"{out}: {len(damaged)} shards are gone or have another size: {', '.join(damaged[:3])}",
            hint="pack it again with --overwrite",
        )
    n_kept = sum(len(split.shards) for split in card.splits.values())
    return PackReport(out, card, False, 0, n_kept, time.monotonic() - started)


def _pack_shards(
    workspace: Workspace, plan: PackPlan, options: PackOptions, watch: Watch
) -> tuple[list[ShardRecord], int]:
    """Write what is missing; the record of every planned shard in order, and how many are new."""
    records: list[ShardRecord] = []
    n_packed = 0
    counter = _Counter(plan.n_samples, watch)
    Image.init()
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of sizes near its limit; both can be decoded.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for split in ORDER:
            shards = [shard for shard in plan.shards if shard.split == split]
            done = {shard.index: workspace.load_record(shard) for shard in shards}
            missing = [shard for shard in shards if done[shard.index] is None]
            counter.add(_n_samples(shards) - _n_samples(missing))
            elsewhere = _digests(records) if options.drop_leaks else frozenset()
            new = iter(_write_missing(workspace, plan, missing, elsewhere, options.jobs, counter))
            records += [done[shard.index] or next(new) for shard in shards]
            n_packed += len(missing)
    return records, n_packed


def _write_missing(
    workspace: Workspace,
    plan: PackPlan,
    missing: Sequence[PlannedShard],
    elsewhere: frozenset[str],
    jobs: int | None,
    counter: "_Counter",
) -> list[ShardRecord]:
    """Write shards in threads: reading, hashing and decoding all release the interpreter lock."""

    def write(shard: PlannedShard) -> ShardRecord:
        record = write_shard(
            workspace.tar_path(shard.split, shard.index),
            shard,
            is_multi_label=plan.listing.is_multi_label,
            elsewhere=elsewhere,
            on_sample=counter.add,
        )
        workspace.save_record(record)
        return record

    n_threads = jobs or min(MAX_JOBS, os.cpu_count() or 1)
    with ThreadPoolExecutor(n_threads, thread_name_prefix="pack") as pool:
        futures = [pool.submit(write, shard) for shard in missing]
        try:
            return [future.result() for future in futures]
        except OSError as error:
            raise _cannot_write(workspace.out, error) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _cannot_write(out: Path, error: OSError) -> PackError:
    """What to say when the disk is full or a rename is refused."""
    return PackError(
        f"cannot write {out}: {error.strerror or error}",
        hint="make room or choose another --out folder; run again to go on from here",
    )


def _n_samples(shards: Iterable[PlannedShard]) -> int:
    """Samples in these shards."""
    return sum(len(shard.samples) for shard in shards)


def _digests(records: Iterable[ShardRecord]) -> frozenset[str]:
    """Digests of all images kept so far."""
    return frozenset(image.sha256 for record in records for image in record.kept)


def _kept_counts(records: Iterable[ShardRecord]) -> dict[str, int]:
    """Samples kept or dropped on purpose, by split."""
    counts: dict[str, int] = {}
    for record in records:
        found = len(record.kept) + len(record.dropped)
        counts[record.split] = counts.get(record.split, 0) + found
    return counts


class _Counter:
    """Samples done, counted from many threads."""

    def __init__(self, total: int, watch: Watch) -> None:
        self._lock = threading.Lock()
        self._done = 0
        self._total = total
        self._watch = watch

    def add(self, n: int = 1) -> None:
        """Count ``n`` more and tell."""
        with self._lock:
            self._done += n
            self._watch(self._done, self._total)
