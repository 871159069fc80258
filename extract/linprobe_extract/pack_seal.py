"""The end of packing: counts checked, tree assembled, card written."""

import csv
import io
from collections.abc import Mapping, Sequence

from linprobe_extract.dataset_card import DatasetCard, ShardCard, SplitCard, write_atomic
from linprobe_extract.pack_leaks import find_duplicates
from linprobe_extract.pack_listing import SPLITS, Listing, PackError, some_names
from linprobe_extract.pack_plan import PackOptions, PackPlan
from linprobe_extract.pack_tar import LABELS_FIELD, ShardRecord
from linprobe_extract.pack_workspace import Workspace, sync_folder


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
