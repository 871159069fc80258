"""``linprobe pack`` and ``linprobe datasets``: labelled images to shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linprobe.benchmarks import KnownDataset, known_datasets
from linprobe.names import first_few
from linprobe.options import JsonOption
from linprobe.records import JsonValue
from linprobe.terminal import command, emit, emit_json, human_bytes, text_table, watching
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.registry import forms
from linprobe_extract.shards.card import DatasetCard, DuplicateImage, UnreadableImage

if TYPE_CHECKING:
    from linprobe_extract.pack.pack import PackReport

DEFAULTS = PackOptions()
Source = Annotated[
    str,
    typer.Argument(help=f"{forms()} | a known dataset (see the command datasets)"),
]
Out = Annotated[Path, typer.Option(help="Folder for the shards and the card.")]
Name = Annotated[str | None, typer.Option(help="Name to record. [default: of the source]")]
Root = Annotated[
    Path | None,
    typer.Option(help="Where a known dataset's files are, or go to. [default: OUT.source]"),
]
Download = Annotated[bool, typer.Option(help="Download missing files.")]
Seed = Annotated[int, typer.Option(help="Seed of the split rule.")]
TestFraction = Annotated[
    float, typer.Option(help="Share of each class for test, where nothing is split.")
]
ValFraction = Annotated[
    float, typer.Option(help="Share of each class for val, where nothing is split.")
]
LabelSeparator = Annotated[
    str | None, typer.Option(help="Separates several labels of one image in a csv file.")
]
DropLeaks = Annotated[
    bool, typer.Option("--drop-leaks", help="Leave images of test and val out of train.")
]
ShardSamples = Annotated[
    int | None, typer.Option(min=1, help="Most images in a shard. [default: 1000]")
]
ShardBytes = Annotated[int, typer.Option(min=1, help="Most bytes in a shard.")]
AnyCounts = Annotated[
    bool, typer.Option("--any-counts", help="Pack a known dataset whatever its size.")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Threads. [default: cores, at most 16]")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the dataset that --out holds.")
]


def pack(
    source: Source,
    out: Out,
    name: Name = None,
    root: Root = None,
    download: Download = True,
    seed: Seed = DEFAULTS.seed,
    test_fraction: TestFraction = DEFAULTS.test_fraction,
    val_fraction: ValFraction = DEFAULTS.val_fraction,
    label_separator: LabelSeparator = None,
    drop_leaks: DropLeaks = False,
    shard_samples: ShardSamples = None,
    shard_bytes: ShardBytes = DEFAULTS.shard_bytes,
    any_counts: AnyCounts = False,
    jobs: Jobs = None,
    overwrite: Overwrite = False,
    as_json: JsonOption = False,
) -> None:
    """Pack labelled images into tar shards with splits and a card."""
    from linprobe_extract.pack.pack import pack as pack_source

    options = PackOptions(
        name=name,
        shard_samples=shard_samples,
        shard_bytes=shard_bytes,
        seed=seed,
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        drop_leaks=drop_leaks,
        label_separator=label_separator,
        root=root,
        download=download,
        check_counts=not any_counts,
        jobs=jobs,
        overwrite=overwrite,
    )
    with watching("packing") as watch:
        report = pack_source(source, out, options, watch)
    if as_json:
        emit_json(report_json(report))
    else:
        emit(report_text(report))


def report_json(report: "PackReport") -> JsonValue:
    """The report as one JSON object."""
    card = report.card
    return {
        "out": str(report.out),
        "name": card.name,
        "classes": len(card.classes),
        "headline_metric": card.headline_metric,
        "splits": {name: split.samples for name, split in card.splits.items()},
        "shards": {name: len(split.shards) for name, split in card.splits.items()},
        "bytes": _total_bytes(card),
        "unreadable": len(card.unreadable),
        "duplicates": len(card.duplicates),
        "leaks": len(card.leaks),
        "dropped": sum(len(image.dropped) for image in card.duplicates),
        "is_new": report.is_new,
        "packed_shards": report.n_packed,
        "seconds": round(report.seconds, 3),
    }


def datasets(as_json: JsonOption = False) -> None:
    """List the datasets that pack knows by name."""
    if as_json:
        emit_json({"datasets": [row_json(row) for row in known_datasets()]})
    else:
        emit(datasets_table())


def row_json(row: KnownDataset) -> JsonValue:
    """A row of the table as one JSON object."""
    return {
        "name": row.slug,
        "title": row.title,
        "classes": row.n_classes,
        "headline_metric": row.metric,
        "sizes": dict(row.sizes) if row.sizes else None,
        "paper_sizes": dict(zip(("train", "test"), row.paper_sizes, strict=True))
        if row.paper_sizes
        else None,
        "split": row.split,
        "provider": row.provider,
        "torchvision": row.torchvision.name if row.torchvision else None,
        "files": row.files,
        "citation": row.citation,
        "note": row.note,
    }


def datasets_table() -> str:
    """The known datasets as a table for a person."""
    header = ("name", "classes", "train", "val", "test", "metric", "files", "split")
    return text_table(header, [_cells(row) for row in known_datasets()], "<>>>><<<")


def _cells(row: KnownDataset) -> tuple[str, ...]:
    """One line of the table."""
    sizes = row.sizes or {}
    counts = (f"{sizes[split]:,}" if split in sizes else "-" for split in ("train", "val", "test"))
    return (row.slug, str(row.n_classes), *counts, row.metric, row.provider, row.split)


def report_text(report: "PackReport") -> str:
    """The report as a few lines for a person."""
    card = report.card
    lines = [f"{card.name}: {len(card.classes)} classes, headline metric {card.headline_metric}"]
    for name, split in card.splits.items():
        shards = "1 shard" if len(split.shards) == 1 else f"{len(split.shards)} shards"
        lines.append(f"  {name:<5} {split.samples:>9,} images  {shards}")
    lines += [f"  {note}" for note in card.notes]
    lines += _trouble(card)
    if report.is_new:
        earlier = f" ({report.n_kept} shards from an earlier run)" if report.n_kept else ""
        size = human_bytes(_total_bytes(card))
        lines.append(f"packed {size} in {report.seconds:.1f} s{earlier}: {report.out}")
    else:
        lines.append(f"nothing to do: {report.out} holds it already")
    following = command("extract", model="ViT-B/16", data=report.out, store="features")
    return "\n".join([*lines, f"next: {following}"])


def _trouble(card: DatasetCard) -> list[str]:
    """What is wrong with the images, one line each: unreadable, leaking, twice, contradictory."""
    lines = []
    if card.unreadable:
        names = first_few(f"{image.name} ({image.reason})" for image in card.unreadable)
        lines.append(f"warning: {_images(card.unreadable)} kept out: {names}")
    if card.leaks:
        n_dropped = sum(len(image.dropped) for image in card.leaks)
        what = f"{n_dropped:,} dropped" if n_dropped else "kept; --drop-leaks leaves them out"
        verb = "leaks" if len(card.leaks) == 1 else "leak"
        lines.append(f"warning: {_copies(card.leaks, f'{verb} across splits ({what})')}")
    within = [image for image in card.duplicates if not image.is_leak]
    if within:
        verb = "occurs" if len(within) == 1 else "occur"
        lines.append(f"note: {_copies(within, f'{verb} more than once within a split')}")
    contradictions = [image for image in card.duplicates if image.is_contradiction]
    if contradictions:
        verb = "has" if len(contradictions) == 1 else "have"
        lines.append(f"warning: {_copies(contradictions, f'{verb} more than one label')}")
    return lines


def _images(images: Sequence[UnreadableImage]) -> str:
    """So many unreadable images."""
    return f"{len(images):,} unreadable image{'' if len(images) == 1 else 's'}"


def _copies(images: Sequence[DuplicateImage], what: str) -> str:
    """So many images, what is the matter with them, and the names of a few."""
    names = first_few(" = ".join(image.names) for image in images)
    return f"{len(images):,} image{'' if len(images) == 1 else 's'} {what}: {names}"


def _total_bytes(card: DatasetCard) -> int:
    """Bytes in all shards."""
    return sum(shard.bytes for split in card.splits.values() for shard in split.shards)
