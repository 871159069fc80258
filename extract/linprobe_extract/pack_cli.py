"""``linprobe pack`` and ``linprobe datasets``: labelled images to shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from linprobe.benchmarks import known_datasets
from linprobe.names import SPLITS, first_few
from linprobe.options import JsonOption, NoCsvGuardOption
from linprobe.records import JsonValue
from linprobe.terminal import command, emit, emit_json, human_bytes, one_line, text_table, watching
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.registry import forms
from linprobe_extract.shards.card import DatasetCard

if TYPE_CHECKING:
    from linprobe_extract.pack.pack import PackReport

DEFAULTS = PackOptions()


def pack(
    source: Annotated[
        str, Argument(help=f"{forms()} | a known dataset (see the command datasets)")
    ],
    out: Annotated[Path, Option(help="Folder for the shards and the card.")],
    name: Annotated[str | None, Option(help="Name to record. [default: of the source]")] = None,
    root: Annotated[
        Path | None,
        Option(help="Where a known dataset's files are, or go to. [default: OUT.source]"),
    ] = None,
    download: Annotated[bool, Option(help="Download missing files.")] = True,
    seed: Annotated[int, Option(help="Seed of the split rule.")] = DEFAULTS.seed,
    test_fraction: Annotated[
        float, Option(help="Share of each class for test, where nothing is split.")
    ] = DEFAULTS.test_fraction,
    val_fraction: Annotated[
        float, Option(help="Share of each class for val, where nothing is split.")
    ] = DEFAULTS.val_fraction,
    limit: Annotated[
        int | None, Option(min=10, help="Most images, for a try; the name and results say so.")
    ] = None,
    label_separator: Annotated[
        str | None, Option(help="Separates several labels of one image in a csv file.")
    ] = None,
    drop_leaks: Annotated[
        bool, Option("--drop-leaks", help="Leave images of test and val out of train.")
    ] = False,
    shard_samples: Annotated[
        int | None, Option(min=1, help="Most images in a shard. [default: 1000]")
    ] = None,
    shard_bytes: Annotated[
        int, Option(min=1, help="Most bytes in a shard.")
    ] = DEFAULTS.shard_bytes,
    any_counts: Annotated[
        bool, Option("--any-counts", help="Pack a known dataset whatever its size.")
    ] = False,
    jobs: Annotated[int | None, Option(min=1, help="Threads. [default: cores, at most 16]")] = None,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace the dataset that --out holds.")
    ] = False,
    upright: Annotated[
        bool | None,
        Option(
            "--upright/--keep-bytes",
            help="Turn images as their EXIF says. [default: those of a folder or table]",
        ),
    ] = None,
    no_csv_guard: NoCsvGuardOption = False,
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
        limit=limit,
        label_separator=label_separator,
        root=root,
        download=download,
        check_counts=not any_counts,
        jobs=jobs,
        overwrite=overwrite,
        csv_guard=not no_csv_guard,
        upright=upright,
    )
    with watching("packing") as watch:
        report = pack_source(source, out, options, watch)
    if as_json:
        emit_json(_report_json(report))
    else:
        emit(_report_text(report))


def _report_json(report: "PackReport") -> JsonValue:
    card = report.card
    return {
        "out": str(report.out),
        "name": card.name,
        "classes": len(card.classes),
        "headline_metric": card.headline_metric,
        "splits": {name: split.samples for name, split in card.splits.items()},
        "shards": {name: len(split.shards) for name, split in card.splits.items()},
        "bytes": _total_bytes(card),
        "warnings": _trouble(card),
        "upright": card.upright,
        "rotated": card.rotated,
        "unreadable": len(card.unreadable),
        "duplicates": len(card.duplicates),
        "leaks": len(card.leaks),
        "dropped": sum(len(image.dropped) for image in card.duplicates),
        "is_new": report.is_new,
        "packed_shards": report.n_packed,
        "seconds": round(report.seconds, 3),
    }


def _report_text(report: "PackReport") -> str:
    card = report.card
    lines = [f"{card.name}: {len(card.classes)} classes, headline metric {card.headline_metric}"]
    for name, split in card.splits.items():
        lines.append(f"  {name:<5} {split.samples:>9,} images  {_counted(split.shards, 'shard')}")
    lines += [f"  {note}" for note in card.notes]
    lines += _trouble(card)
    if report.is_new:
        earlier = f" ({report.n_kept} shards from an earlier run)" if report.n_kept else ""
        size = human_bytes(_total_bytes(card))
        lines.append(f"packed {size} in {report.seconds:.1f} s{earlier}: {report.out}")
    else:
        lines.append(f"nothing to do: {report.out} holds it already")
    lines.append(f"next: {command('extract', model='ViT-B/16', data=report.out, store='features')}")
    return "\n".join(map(one_line, lines))


def _trouble(card: DatasetCard) -> list[str]:
    """What will hurt, one list: all of it is told before an extraction is spent."""
    lines = [f"warning: {line}" for line in card.warnings]
    if card.rotated:
        how = "turned" if card.upright else "not turned"
        lines.append(f"note: {card.rotated:,} images {how} as their EXIF says")
    if card.unreadable:
        names = first_few(f"{image.name} ({image.reason})" for image in card.unreadable)
        lines.append(f"warning: {_counted(card.unreadable, 'unreadable image')} kept out: {names}")
    n_dropped = sum(len(image.dropped) for image in card.leaks)
    what = f"{n_dropped:,} dropped" if n_dropped else "kept; --drop-leaks leaves them out"
    within = [image for image in card.duplicates if not image.is_leak]
    contradictions = [image for image in card.duplicates if image.is_contradiction]
    for level, images, singular, plural, trouble in (
        ("warning", card.leaks, "leaks", "leak", f"across splits ({what})"),
        ("note", within, "occurs", "occur", "more than once within a split"),
        ("warning", contradictions, "has", "have", "more than one label"),
    ):
        if images:
            verb = singular if len(images) == 1 else plural
            names = first_few(" = ".join(image.names) for image in images)
            lines.append(f"{level}: {_counted(images, 'image')} {verb} {trouble}: {names}")
    return lines


def _counted(things: Sequence[object], noun: str) -> str:
    return f"{len(things):,} {noun}{'' if len(things) == 1 else 's'}"


def _total_bytes(card: DatasetCard) -> int:
    return sum(shard.bytes for split in card.splits.values() for shard in split.shards)


def datasets(as_json: JsonOption = False) -> None:
    """List the datasets that pack knows by name."""
    if not as_json:
        emit(datasets_table())
        return
    rows: list[JsonValue] = [
        {
            "name": row.slug,
            "title": row.title,
            "classes": row.n_classes,
            "headline_metric": row.metric,
            "sizes": row.sizes,
            "paper_sizes": row.paper_sizes
            and dict(zip(("train", "test"), row.paper_sizes, strict=True)),
            "split": row.split,
            "provider": row.provider,
            "torchvision": row.torchvision.name if row.torchvision else None,
            "files": row.files,
            "citation": row.citation,
            "note": row.note,
        }
        for row in known_datasets()
    ]
    emit_json({"datasets": rows})


def datasets_table() -> str:
    """The known datasets as a table for a person."""
    rows = []
    for row in known_datasets():
        sizes = row.sizes or {}
        counts = (f"{sizes[split]:,}" if split in sizes else "-" for split in SPLITS)
        rows.append((row.slug, str(row.n_classes), *counts, row.metric, row.provider, row.split))
    header = ("name", "classes", "train", "val", "test", "metric", "files", "split")
    return text_table(header, rows, "<>>>><<<")
