"""``linprobe``: images to stored features.

The commands ``linprobe pack`` and ``linprobe datasets``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from linprobe.benchmarks import KnownDataset, known_datasets
from linprobe.machine import Device
from linprobe.records import JsonValue
from linprobe.terminal import emit, emit_json, human_bytes, note, text_table, watching
from linprobe_extract.encoders.family import EncoderChoice, Precision, PreprocessPath
from linprobe_extract.pack.listing import some_names
from linprobe_extract.pack.pack import PackReport
from linprobe_extract.pack.plan import PackOptions
from linprobe_extract.shards.card import DatasetCard, DuplicateImage, UnreadableImage
from linprobe_store.format.spec import StorageDtype

DEFAULTS = PackOptions()
NEXT_COMMAND = "linprobe extract --model ViT-B/16 --data {out} --store features"


Source = Annotated[
    str,
    typer.Argument(
        help="digits | imagefolder:DIR | csv:FILE | torchvision:NAME[:key=value,...] | "
        "hf:NAME[:key=value,...] | a known dataset (see the command datasets)"
    ),
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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


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
    as_json: AsJson = False,
) -> None:
    """Pack labelled images into tar shards with splits and a card."""
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
    from linprobe_extract.pack.pack import pack as pack_source

    with watching("packing") as watch:
        report = pack_source(source, out, options, watch)
    if as_json:
        emit_json(report_json(report))
    else:
        emit(report_text(report))


def report_json(report: PackReport) -> JsonValue:
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


def datasets(as_json: AsJson = False) -> None:
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


def report_text(report: PackReport) -> str:
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
        lines.append(
            f"packed {_total_bytes_text(card)} in {report.seconds:.1f} s{earlier}: {report.out}"
        )
    else:
        lines.append(f"nothing to do: {report.out} holds it already")
    lines.append(f"next: linprobe extract --model ViT-B/16 --data {report.out} --store features")
    return "\n".join(lines)


def _trouble(card: DatasetCard) -> list[str]:
    """What is wrong with the images, one line each: unreadable, leaking, twice, contradictory."""
    lines = []
    if card.unreadable:
        names = some_names(f"{image.name} ({image.reason})" for image in card.unreadable)
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
    names = some_names(" = ".join(image.names) for image in images)
    return f"{len(images):,} image{'' if len(images) == 1 else 's'} {what}: {names}"


def _total_bytes(card: DatasetCard) -> int:
    """Bytes in all shards."""
    return sum(shard.bytes for split in card.splits.values() for shard in split.shards)


def _total_bytes_text(card: DatasetCard) -> str:
    """Bytes in all shards, for people."""
    return human_bytes(_total_bytes(card))


LabelFrom = Literal["cls", "folder"]


def extract(
    model: Annotated[str, typer.Option(help="ViT-B/16, ARCH:TAG, hf-hub:ORG/REPO, timm:NAME.")],
    data: Annotated[
        str | None, typer.Option(help="Folder of SPLIT/*.tar, its URL, or a known dataset.")
    ] = None,
    store: Annotated[Path, typer.Option(help="The feature store.")] = Path("features"),
    shards: Annotated[
        list[str] | None,
        typer.Option(help="SPLIT=PATTERN with braces, globs, URLs or pipe:, instead of --data."),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split; may be repeated.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Local checkpoint (.pt, .safetensors), not a download."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the dataset.")] = None,
    label_key: Annotated[
        str | None, typer.Option(help="Take labels from this field of the samples' .json.")
    ] = None,
    label_from: Annotated[
        LabelFrom | None, typer.Option(help="Where labels come from, if not from a JSON field.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class names, one a line, instead of classnames.txt.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a batch; default: 256 on CUDA, 16 on a CPU.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Decode threads; default: from the cores available.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the encoder runs.")] = "auto",
    precision: Annotated[
        Precision, typer.Option(help="auto: bf16 on CUDA, fp32 on a CPU.")
    ] = "auto",
    preprocess: Annotated[
        PreprocessPath, typer.Option(help="exact: the model's own transform, bit for bit.")
    ] = "fast",
    storage_dtype: Annotated[
        StorageDtype, typer.Option(help="float32 where features exceed float16.")
    ] = "float16",
    max_skipped: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of a shard that may be skipped.")
    ] = 0.01,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a dataset through a frozen encoder into the store."""
    from linprobe_extract.pack.by_name import data_folder
    from linprobe_extract.run.ranks import ranks_from_environment
    from linprobe_extract.run.report import (
        forecast_json,
        forecast_text,
        report_json,
        report_text,
        run_text,
    )
    from linprobe_extract.run.run import Extraction
    from linprobe_extract.shards.locate import plan_dataset

    if label_key is not None and label_from is not None:
        raise typer.BadParameter("give --label-key or --label-from, not both")
    if data is not None and shards:
        raise typer.BadParameter("give --data or --shards, not both")
    ranks = ranks_from_environment()
    plan = plan_dataset(
        data_folder(data, may_pack=not dry_run and ranks.world_size == 1),
        shards=shards or (),
        name=name,
        label_source=f"json:{label_key}" if label_key else label_from,
        classes_file=classes,
    )
    choice = EncoderChoice(model, weights, device, precision, preprocess, storage_dtype)
    extraction = Extraction(
        choice, plan, store, tuple(split or ()), batch_size, threads, max_skipped
    )
    if dry_run:
        forecast = extraction.forecast()
        _show(forecast_text(forecast), forecast_json(forecast), as_json=as_json)
        return
    with watching(f"{model}: {plan.name}", visible=ranks.rank == 0) as watch:
        report = extraction.run(watch, until_signal=True)
    note(run_text(report.run))
    if ranks.world_size == 1 or (report.sealed if report.run else ranks.rank == 0):
        _show(report_text(report), report_json(report), as_json=as_json)
    report.check()
    raise typer.Exit(report.exit_code)


def _show(text: str, json: JsonValue, *, as_json: bool) -> None:
    """Print a result for a person or for a program."""
    if as_json:
        emit_json(json)
    else:
        emit(text)


def doctor(
    model: Annotated[str, typer.Option(help="The model to time.")] = "ViT-B/16",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what this machine has and how fast it will extract."""
    from linprobe_extract.doctor import diagnose

    diagnosis = diagnose(model)
    if as_json:
        emit_json(diagnosis.as_json())
    else:
        emit("\n".join(diagnosis.lines()))


def models() -> None:
    """List the models that can be named."""
    from linprobe_extract.encoders.family import known_models

    emit("\n".join(f"{model.name:<50} {model.origin}" for model in known_models()))
