"""Packing: from a source to a sealed folder of shards, resumable shard by shard.

List, plan, write the missing shards (test, then val, then train, in parallel), check the counts,
assemble the tree, write the card, rename. Nothing shows under the output name before all of it has
worked; a second run of the same finds nothing to do.
"""

import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from linprobe.disk import told_as_store_error
from linprobe.errors import PackError, StoreError
from linprobe.machine import available_cores
from linprobe.names import first_few
from linprobe.terminal import Progress, Watch, ignore
from linprobe_extract.pack.listing import PackOptions, check_listing
from linprobe_extract.pack.named import list_source, named_source
from linprobe_extract.pack.plan import (
    ORDER,
    PackPlan,
    PlannedShard,
    plan_pack,
    request_digest,
)
from linprobe_extract.pack.seal import build_card, check_counts, counts_of, write_tree
from linprobe_extract.pack.shard import ShardRecord, write_shard
from linprobe_extract.pack.workspace import Workspace, check_output, damaged_shards
from linprobe_extract.shards.card import DatasetCard, load_card

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


def pack(source: str, out: Path, options: PackOptions, watch: Watch = ignore) -> PackReport:
    """Pack ``source`` into the folder ``out``: shards, class names, card.

    Parameters
    ----------
    source : ``digits``, ``imagefolder:DIR``, ``csv:FILE``, ``torchvision:NAME[:key=value,...]``,
        ``hf:NAME``, what another package adds, or the name of a known dataset.
    out : the folder of the dataset; its parents are made.
    options : how to pack.
    watch : sees samples as they are done, those of an earlier run included.

    Returns
    -------
    What was done, with the card. Where ``out`` holds the same already, nothing is.

    Raises
    ------
    PackError : the source cannot be used, ``out`` holds something else, or a known dataset does
        not have its sizes. What is packed so far stays beside ``out`` for the next run.
    """
    started = time.monotonic()
    check_output(out)
    named = named_source(source)
    request = request_digest(named.request, options)
    done = None if options.overwrite else load_card(out)
    if done and named.never_changes and done.request == request:
        return _nothing_to_do(out, done, started)
    listing = list_source(named, out, options)
    check_listing(listing)
    if options.check_counts:
        check_counts(listing, {split: len(rows) for split, rows in listing.splits.items()})
    plan = plan_pack(listing, request, options)
    if done and done.plan == plan.digest:
        return _nothing_to_do(out, done, started)
    if done:
        raise PackError(
            f"{out} holds another dataset: {done.name}, packed from {done.source} with seed "
            f"{done.seed}, or its source has changed since",
            hint="choose another --out folder, or pass --overwrite to replace it",
        )
    try:
        with told_as_store_error(out):
            card, n_packed = _pack_plan(plan, source, out, options, watch)
    except StoreError as error:
        raise PackError(f"cannot write {out}: {error.message}", hint=error.hint) from error
    n_kept = len(plan.shards) - n_packed
    return PackReport(out, card, True, n_packed, n_kept, time.monotonic() - started)


def _nothing_to_do(out: Path, card: DatasetCard, started: float) -> PackReport:
    """The report of a run that finds everything there."""
    damaged = damaged_shards(out, card)
    if damaged:
        raise PackError(
            f"{out}: {len(damaged)} shards are gone or have another size: {first_few(damaged)}",
            hint="pack it again with --overwrite",
        )
    Workspace(out).clear(card.plan)
    n_kept = sum(len(split.shards) for split in card.splits.values())
    return PackReport(out, card, False, 0, n_kept, time.monotonic() - started)


def _pack_plan(
    plan: PackPlan, source: str, out: Path, options: PackOptions, watch: Watch
) -> tuple[DatasetCard, int]:
    """Do what is planned; the card, and how many shards are new."""
    workspace = Workspace(out)
    with workspace.opened(plan.digest, restart=options.overwrite):
        records, n_packed = _pack_shards(workspace, plan, options, watch)
        if options.check_counts:
            check_counts(plan.listing, counts_of(records), records)
        card = build_card(plan, source, options, records)
        write_tree(workspace, card, records)
    return card, n_packed


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
            new = iter(_write_missing(workspace, plan, missing, elsewhere, counter, options.jobs))
            records += [done[shard.index] or next(new) for shard in shards]
            n_packed += len(missing)
    return records, n_packed


def _write_missing(
    workspace: Workspace,
    plan: PackPlan,
    missing: Sequence[PlannedShard],
    elsewhere: frozenset[str],
    counter: "_Counter",
    jobs: int | None,
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

    n_threads = jobs or min(MAX_JOBS, available_cores())
    with ThreadPoolExecutor(n_threads, thread_name_prefix="pack") as pool:
        futures = [pool.submit(write, shard) for shard in missing]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _n_samples(shards: Iterable[PlannedShard]) -> int:
    """Samples in these shards."""
    return sum(len(shard.samples) for shard in shards)


def _digests(records: Iterable[ShardRecord]) -> frozenset[str]:
    """Digests of all images kept so far."""
    return frozenset(image.sha256 for record in records for image in record.kept)


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
            self._watch(Progress(self._done, self._total, "images"))
