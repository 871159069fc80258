"""The end of packing: counts checked, duplicates found, card written, tree assembled."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from linprobe.disk import write_atomic
from linprobe.errors import PackError
from linprobe.names import SPLITS, first_few
from linprobe_extract.pack.listing import Listing, PackOptions
from linprobe_extract.pack.plan import PackPlan
from linprobe_extract.pack.shard import LABELS_FIELD, PackedImage, ShardRecord
from linprobe_extract.pack.workspace import Workspace
from linprobe_extract.shards.card import (
    DatasetCard,
    DuplicateImage,
    ShardCard,
    SplitCard,
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
    because = f"; {len(unreadable)} unreadable: {first_few(unreadable)}" if unreadable else ""
    raise PackError(
        f"{listing.name}: expected {_sizes(listing.expected)}, found {_sizes(counts)}{because}",
        hint="get the files again; or pass --any-counts to pack what is there",
    )


def counts_of(records: Iterable[ShardRecord]) -> Mapping[str, int]:
    """Samples by split that were kept, or dropped on purpose."""
    counts: Counter[str] = Counter()
    for record in records:
        counts[record.split] += len(record.kept) + len(record.dropped)
    return counts


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
    for split in (split for split in SPLITS if split in listing.splits):
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
    """Assemble the finished layout in the workspace and show it; the card is written last.

    Raises
    ------
    StoreError : the operating system refused.
    """
    with workspace.tree() as tree:
        names = "".join(f"{name}\n" for name in card.classes)
        write_atomic(tree.path / "classnames.txt", names.encode())
        for split, content in card.splits.items():
            folder = tree.path / split
            folder.mkdir()
            filled = _filled(records, split)
            for shard, record in zip(content.shards, filled, strict=True):
                workspace.place(split, record.index, folder / shard.name)
            write_atomic(folder / "nshards.txt", f"{len(filled)}\n".encode())
            write_atomic(folder / "samples.csv", _samples_csv(filled))
        card.save(tree.path)
        workspace.publish(tree)


def find_duplicates(records: Sequence[ShardRecord]) -> tuple[DuplicateImage, ...]:
    """Every image with more than one copy, in the order in which its first copy was packed.

    Copies are found by the sha256 of their bytes, those that ``--drop-leaks`` left out included.
    Re-encoded or resized copies have other bytes and are not found.
    """
    times = Counter(image.sha256 for _, image, _ in _all_images(records))
    copies: dict[str, list[tuple[str, PackedImage, bool]]] = defaultdict(list)
    for copy in _all_images(records):
        if times[copy[1].sha256] > 1:
            copies[copy[1].sha256].append(copy)
    return tuple(
        DuplicateImage(
            sha256=sha256,
            splits=tuple(split for split, _, _ in same),
            names=tuple(image.name for _, image, _ in same),
            labels=tuple(image.labels for _, image, _ in same),
            dropped=tuple(image.name for _, image, is_dropped in same if is_dropped),
        )
        for sha256, same in copies.items()
    )


def _all_images(records: Iterable[ShardRecord]) -> Iterable[tuple[str, PackedImage, bool]]:
    """Split, image, and whether it was dropped."""
    for record in records:
        for image in record.kept:
            yield record.split, image, False
        for image in record.dropped:
            yield record.split, image, True


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
