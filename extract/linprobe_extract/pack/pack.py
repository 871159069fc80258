"""Packing: from a source to a sealed folder of shards, resumable shard by shard.

Nothing shows under the output name before all of it has worked; a second run of the same finds
nothing to do.
"""

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from linprobe.disk import store_errors
from linprobe.errors import PackError, StoreError
from linprobe.machine import available_cores
from linprobe.names import first_few
from linprobe.terminal import Progress, Watch, ignore
from linprobe_extract.pack.changes import changes
from linprobe_extract.pack.listing import PackOptions, check_listing
from linprobe_extract.pack.plan import ORDER, PackPlan, PlannedShard, plan_pack, request_digest
from linprobe_extract.pack.registry import list_source, named_source
from linprobe_extract.pack.seal import check_counts, write_tree
from linprobe_extract.pack.shard import ShardRecord, write_shard
from linprobe_extract.pack.workspace import Workspace, check_output, has_size
from linprobe_extract.shards.card import DatasetCard, load_card

MAX_JOBS = 16


@dataclass(frozen=True)
class PackReport:
    """What a run of ``pack`` did, in so many seconds of wall time."""

    out: Path
    card: DatasetCard
    is_new: bool
    """Whether this run put it there; False where there was nothing to do."""
    n_packed: int
    n_kept: int
    """Shards that were there before: of an interrupted run, or all of them."""
    seconds: float


def pack(source: str, out: Path, options: PackOptions, watch: Watch = ignore) -> PackReport:
    """Pack ``source`` into the folder ``out``: shards, class names, card.

    ``source`` is ``csv:FILE`` or another form of the command line, or the name of a known dataset;
    ``watch`` sees samples as they are done, those of an earlier run included. Where ``out`` holds
    the same already, nothing is done; where its source has changed since, it is replaced.

    Raises
    ------
    PackError : the source cannot be used, ``out`` holds another source, or a known dataset does
        not have its sizes. What is packed so far stays beside ``out`` for the next run.
    """
    started = time.monotonic()
    check_output(out)
    named = named_source(source)
    if options.upright is None:
        options = replace(options, upright=named.path is not None)
    request = request_digest(named.request, options)
    done = None if options.overwrite else load_card(out)
    if done and named.never_changes and done.request == request:
        return _nothing_to_do(out, done, started)
    listing = list_source(named, out, options)
    check_listing(listing)
    check_counts(listing)
    plan = plan_pack(listing, request, options)
    if done and done.plan == plan.digest:
        return _nothing_to_do(out, done, started)
    if done and (done.source, done.request) != (source, request):
        raise PackError(
            f"{out} holds another dataset: {done.name}, packed from {done.source} with seed "
            f"{done.seed}, or by other options",
            hint="choose another --out folder, or pass --overwrite to replace it",
        )
    workspace = Workspace(out)
    try:
        with store_errors(out), workspace.opened(plan.digest, restart=options.overwrite):
            records, n_packed = _write_shards(workspace, plan, options, watch)
            check_counts(listing, records)
            if done:
                line = f"{out}: {changes(out, done, listing.classes, records)}"
                watch(Progress(0, None, "images", line=line))
            card = write_tree(workspace, plan, source, options, records)
    except StoreError as error:
        raise PackError(f"cannot write {out}: {error.message}", hint=error.hint) from error
    n_kept = len(records) - n_packed
    return PackReport(out, card, True, n_packed, n_kept, time.monotonic() - started)


def _nothing_to_do(out: Path, card: DatasetCard, started: float) -> PackReport:
    sizes = {
        f"{split}/{shard.name}": shard.bytes
        for split, content in card.splits.items()
        for shard in content.shards
    }
    damaged = [name for name, n_bytes in sizes.items() if not has_size(out / name, n_bytes)]
    if damaged:
        trouble = f"{len(damaged)} shards are gone or have another size: {first_few(damaged)}"
        raise PackError(f"{out}: {trouble}", hint="pack it again with --overwrite")
    Workspace(out).clear(card.plan)
    return PackReport(out, card, False, 0, len(sizes), time.monotonic() - started)


def _write_shards(
    workspace: Workspace, plan: PackPlan, options: PackOptions, watch: Watch
) -> tuple[list[ShardRecord], int]:
    """Write what is missing; all records in the order of the plan, and how many are new."""
    earlier = {(shard.split, shard.index): workspace.load_record(shard) for shard in plan.shards}
    total = sum(len(shard.samples) for shard in plan.shards)
    n_done = sum(len(s.samples) for s in plan.shards if earlier[s.split, s.index])
    lock = threading.Lock()
    records: list[ShardRecord] = []
    elsewhere: frozenset[str] = frozenset()

    def count(n: int = 1) -> None:
        nonlocal n_done
        with lock:
            n_done += n
            watch(Progress(n_done, total, "images"))

    def write(shard: PlannedShard) -> ShardRecord:
        record = earlier[shard.split, shard.index]
        if record is None:
            record = write_shard(
                workspace.tar_path(shard),
                shard,
                is_multi_label=plan.listing.is_multi_label,
                is_upright=bool(options.upright),
                elsewhere=elsewhere,
                on_sample=count,
            )
            workspace.save_record(record)
        return record

    count(0)
    Image.init()
    # Reading, hashing and decoding all release the interpreter lock.
    n_threads = options.jobs or min(MAX_JOBS, available_cores())
    with warnings.catch_warnings(), ThreadPoolExecutor(n_threads, "pack") as pool:
        # Pillow warns of odd metadata and of sizes near its limit; both can be decoded.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for split in ORDER:
            if options.drop_leaks:
                elsewhere = frozenset(image.sha256 for record in records for image in record.kept)
            records += pool.map(write, [shard for shard in plan.shards if shard.split == split])
    return records, list(earlier.values()).count(None)
