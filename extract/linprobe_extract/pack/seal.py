"""The end of packing: counts checked, duplicates found, tree assembled, card written."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from linprobe.disk import Staging, write_atomic
from linprobe.errors import PackError
from linprobe.names import SPLITS, csv_cell, first_few
from linprobe_extract.pack.listing import Listing, PackOptions
from linprobe_extract.pack.plan import PackPlan
from linprobe_extract.pack.shard import LABELS_FIELD, PackedImage, ShardRecord
from linprobe_extract.pack.workspace import Workspace
from linprobe_extract.shards.card import DatasetCard, DuplicateImage, ShardCard, SplitCard

FEW = 5
"""Images of a class below which it is named: C is chosen on five folds, and test needs some too."""


def check_counts(listing: Listing, records: Sequence[ShardRecord] = ()) -> None:
    """Raise PackError where what is readable of a known dataset has not its published sizes."""
    counts = Counter({split: len(samples) for split, samples in listing.splits.items()})
    unreadable = [image for record in records for image in record.unreadable]
    counts.subtract(image.split for image in unreadable)
    if listing.expected is None or listing.expected == counts:
        return
    expected, present = (
        ", ".join(f"{sizes[split]:,} {split}" for split in SPLITS if split in sizes)
        for sizes in (listing.expected, counts)
    )
    names = first_few(image.name for image in unreadable)
    because = f"; {len(unreadable)} unreadable: {names}" if unreadable else ""
    hint = "get the files again; or pass --any-counts to pack what is there"
    raise PackError(f"{listing.name}: expected {expected}, found {present}{because}", hint=hint)


def write_tree(
    workspace: Workspace,
    plan: PackPlan,
    source: str,
    options: PackOptions,
    records: Sequence[ShardRecord],
) -> DatasetCard:
    """Assemble the finished layout in the workspace and show it; the card is written last.

    ``source`` and the seed are for the card; ``records`` has one for every planned shard, in the
    order of the plan. PackError where a split has no image left.
    """
    listing = plan.listing
    splits: dict[str, SplitCard] = {}
    with Staging(workspace.folder) as tree:
        names = "".join(f"{name}\n" for name in listing.classes)
        write_atomic(tree.path / "classnames.txt", names.encode())
        for split in (split for split in SPLITS if split in listing.splits):
            filled = [record for record in records if record.split == split and record.kept]
            if not filled:
                hint = "check one of the files; without --drop-leaks, leaks stay in train"
                trouble = (
                    f"no image of the {split} split is left: all are unreadable or were dropped"
                )
                raise PackError(f"{listing.name}: {trouble}", hint=hint)
            splits[split] = _write_split(
                workspace, tree.path / split, filled, guard=options.csv_guard
            )
        card = DatasetCard(
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
            duplicates=_find_duplicates(records),
            notes=listing.notes,
            warnings=(*listing.warnings, *_small_classes(listing, records)),
            upright=bool(options.upright),
            rotated=sum(len(record.rotated) for record in records),
        )
        card.save(tree.path)
        workspace.publish(tree)
    return card


def _small_classes(listing: Listing, records: Sequence[ShardRecord]) -> list[str]:
    """Name the classes with fewer images than a probe can be chosen and tested on."""
    rows = Counter(label for record in records for image in record.kept for label in image.labels)
    small = [f"{name} ({rows[i]})" for i, name in enumerate(listing.classes) if rows[i] < FEW]
    return [f"fewer than {FEW} images of {first_few(small, 20)}"] if small else []


def _write_split(
    workspace: Workspace, folder: Path, records: Sequence[ShardRecord], *, guard: bool
) -> SplitCard:
    """Fill the folder of a split; ``samples.csv`` says which file of the source a sample was."""
    folder.mkdir()
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("key", "source", "labels", "sha256"))
    shards = []
    for number, record in enumerate(records):
        shards.append(ShardCard(f"{number}.tar", record.bytes, record.sha256, len(record.kept)))
        tar, final = workspace.tar_path(record), folder / f"{number}.tar"
        try:  # a link keeps the tar, so that a failure from here on costs no work
            final.hardlink_to(tar)
        except OSError:
            tar.rename(final)
        for image in record.kept:
            key, name = (csv_cell(text, guard=guard) for text in (image.key, image.name))
            rows.writerow((key, name, " ".join(map(str, image.labels)), image.sha256))
    write_atomic(folder / "nshards.txt", f"{len(shards)}\n".encode())
    write_atomic(folder / "samples.csv", table.getvalue().encode())
    return SplitCard(sum(shard.samples for shard in shards), tuple(shards))


def _find_duplicates(records: Sequence[ShardRecord]) -> tuple[DuplicateImage, ...]:
    """Every image with copies of the same bytes, dropped ones too, in the order of packing."""
    times = Counter(image.sha256 for record in records for image in (*record.kept, *record.dropped))
    copies: dict[str, list[tuple[PackedImage, ShardRecord]]] = defaultdict(list)
    for record in records:
        for image in (*record.kept, *record.dropped):
            if times[image.sha256] > 1:
                copies[image.sha256].append((image, record))
    return tuple(
        DuplicateImage(
            sha256=sha256,
            splits=tuple(record.split for _, record in same),
            names=tuple(image.name for image, _ in same),
            labels=tuple(image.labels for image, _ in same),
            dropped=tuple(image.name for image, record in same if image in record.dropped),
        )
        for sha256, same in copies.items()
    )
