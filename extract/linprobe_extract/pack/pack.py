"""Packing: from a source to a sealed folder of shards, resumable shard by shard.

List, plan, write the missing shards (test, then val, then train, in parallel), assemble the tree,
check the counts, write the card, rename. Nothing shows under the output name before all of it has
worked; a second run of the same finds nothing to do.

The end of packing: counts checked, tree assembled, card written.

Images that a dataset holds more than once, found by the sha256 of their bytes.
"""

import csv
import io
import os
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from linprobe.disk import write_atomic
from linprobe.errors import PackError
from linprobe.terminal import Progress, Watch, ignore
from linprobe_extract.pack.listing import SPLITS, Listing, check_listing, some_names
from linprobe_extract.pack.plan import (
    ORDER,
    PackOptions,
    PackPlan,
    PlannedShard,
    plan_pack,
    request_digest,
)
from linprobe_extract.pack.shard import LABELS_FIELD, PackedImage, ShardRecord, write_shard
from linprobe_extract.pack.sources import list_source, never_changes
from linprobe_extract.pack.workspace import Workspace, check_output, damaged_shards, sync_folder
from linprobe_extract.shards.card import (
    DatasetCard,
    DuplicateImage,
    ShardCard,
    SplitCard,
    load_card,
)


def find_duplicates(records: Sequence[ShardRecord]) -> tuple[DuplicateImage, ...]:
    """Every image with more than one copy, in the order in which its first copy was packed.

    Copies that ``--drop-leaks`` left out count as copies. Re-encoded or resized copies have other
    bytes and are not found.
    """
    times = Counter(image.sha256 for _, image, _ in _all_images(records))
    copies: dict[str, list[tuple[str, PackedImage, bool]]] = defaultdict(list)
    for copy in _all_images(records):
        if times[copy[1].sha256] > 1:
            copies[copy[1].sha256].append(copy)
    return tuple(_duplicate(sha256, found) for sha256, found in copies.items())


def _all_images(records: Iterable[ShardRecord]) -> Iterable[tuple[str, PackedImage, bool]]:
    """Split, image, and whether it was dropped."""
    for record in records:
        for image in record.kept:
            yield record.split, image, False
        for image in record.dropped:
            yield record.split, image, True


def _duplicate(sha256: str, copies: Sequence[tuple[str, PackedImage, bool]]) -> DuplicateImage:
    """One image and all its copies."""
    return DuplicateImage(
        sha256=sha256,
        splits=tuple(split for split, _, _ in copies),
        names=tuple(image.name for _, image, _ in copies),
        labels=tuple(image.labels for _, image, _ in copies),
        dropped=tuple(image.name for _, image, is_dropped in copies if is_dropped),
    )


def check_counts(
    listing: Listing, counts: Mapping[str, int], records: Sequence[ShardRecord] = ()
) -> None:
    """Refuse a known dataset that does not have its published sizes.

    Raises
    ------
    PackError : a split has another size than ``listing.expected`` says; names unreadable images.
    """
    if listing.expected is None or dict(listing.expected) == dict(counts):
        return
    unreadable = [image.name for record in records for image in record.unreadable]
    because = f"; {len(unreadable)} unreadable: {some_names(unreadable)}" if unreadable else ""
    raise PackError(
        f"{listing.name}: expected {_sizes(listing.expected)}, found {_sizes(counts)}{because}",
        hint="get the files again; or pass --any-counts to pack what is there",
    )


def build_card(
    plan: PackPlan, source: str, options: PackOptions, records: Sequence[ShardRecord]
) -> DatasetCard:
    """The card of what was packed; shards are numbered without gaps, empty ones left out.

    Parameters
    ----------
    records : one for every planned shard, in the order of the plan.

    Raises
    ------
    PackError : a split has no image left.
    """
    listing = plan.listing
    splits: dict[str, SplitCard] = {}
    for split in SPLITS:
        if split not in listing.splits:
            continue
        filled = _filled(records, split)
        if not filled:
            raise PackError(
                f"{listing.name}: no image of the {split} split is left: all are unreadable or "
                "were dropped",
                hint="check one of the files; without --drop-leaks, leaks stay in train",
            )
        shards = tuple(
            ShardCard(f"{number}.tar", record.bytes, record.sha256, len(record.kept))
            for number, record in enumerate(filled)
        )
        splits[split] = SplitCard(sum(shard.samples for shard in shards), shards)
    return DatasetCard(
        name=listing.name,
        classes=listing.classes,
        label_source=f"json:{LABELS_FIELD}" if listing.is_multi_label else "cls",
        headline_metric=listing.headline_metric,
        source=source,
        seed=options.seed,
        request=plan.request,
        plan=plan.digest,
        splits=splits,
        unreadable=tuple(image for record in records for image in record.unreadable),
        duplicates=find_duplicates(records),
        notes=listing.notes,
    )


def write_tree(workspace: Workspace, card: DatasetCard, records: Sequence[ShardRecord]) -> None:
    """Assemble the finished layout in the workspace; the card is written last."""
    workspace.tree.mkdir()
    names = "".join(f"{name}\n" for name in card.classes)
    write_atomic(workspace.tree / "classnames.txt", names.encode())
    for split, content in card.splits.items():
        folder = workspace.tree / split
        folder.mkdir()
        filled = _filled(records, split)
        for shard, record in zip(content.shards, filled, strict=True):
            workspace.place(split, record.index, folder / shard.name)
        write_atomic(folder / "nshards.txt", f"{len(filled)}\n".encode())
        write_atomic(folder / "samples.csv", _samples_csv(filled))
        sync_folder(folder)
    card.save(workspace.tree)
    sync_folder(workspace.tree)


def _filled(records: Sequence[ShardRecord], split: str) -> list[ShardRecord]:
    """The records of a split whose tar holds anything, in row order."""
    return [record for record in records if record.split == split and record.kept]


def _sizes(counts: Mapping[str, int]) -> str:
    """Split sizes in words."""
    return ", ".join(f"{counts[split]:,} {split}" for split in SPLITS if split in counts)


def _samples_csv(records: Sequence[ShardRecord]) -> bytes:
    """Which sample came from which file of the source: key, name, labels, sha256."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("key", "source", "labels", "sha256"))
    for record in records:
        for image in record.kept:
            rows.writerow((image.key, image.name, " ".join(map(str, image.labels)), image.sha256))
    return table.getvalue().encode()


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
            self._watch(Progress(self._done, self._total, "images"))
