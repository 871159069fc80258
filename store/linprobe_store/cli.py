"""``linprobe-store``: list, verify, clean, import, export and copy feature stores.

What the commands print: tables and JSON objects from the values of the library.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from linprobe.errors import IntegrityError
from linprobe.names import short_id
from linprobe.records import JsonValue
from linprobe.terminal import (
    emit,
    emit_json,
    human_age,
    human_bytes,
    note,
    text_table,
)
from linprobe_store.care.copy import CopiedSplit, copy_store
from linprobe_store.care.export import export_split
from linprobe_store.care.importing import ImportRequest, import_features, parse_splits, read_classes
from linprobe_store.care.inventory import DatasetEntry, SplitEntry, list_encoder, list_store
from linprobe_store.care.remove import (
    Leftover,
    find_damaged,
    find_leftovers,
    find_removal,
    folder_bytes,
    remove_folder,
    remove_leftovers,
)
from linprobe_store.care.verify import UnitReport, verify_store
from linprobe_store.format.spec import StorageDtype
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

_LISTING = ("encoder", "id", "dataset", "split", "rows", "dims", "dtype", "size", "age")
_UNITS = ("kind", "unit", "rows", "size", "state")


def listing(entries: Sequence[DatasetEntry]) -> str:
    """The table of ``ls``: one line per split, and one per encoder or dataset without any."""
    rows = [row for entry in entries for row in _listing_rows(entry)]
    return text_table(_LISTING, rows, "<<<<><<>>")


def _listing_rows(entry: DatasetEntry) -> Iterator[tuple[str, ...]]:
    head = (entry.encoder_slug, short_id(entry.encoder_id), entry.dataset_name or "-")
    dims = ", ".join(f"{tap.name} {tap.dim}" for tap in entry.taps)
    if not entry.splits:
        state = f"{entry.n_parts} parts, not sealed"
        yield (*head, state, "-", dims, entry.dtype, "-", "-")
    for split in entry.splits:
        if split.state != "sealed":
            yield (*head, split.name, split.state, dims, entry.dtype, "-", "-")
        else:
            size, age = human_bytes(split.bytes), human_age(split.age_s)
            yield (*head, split.name, f"{split.rows:,}", dims, entry.dtype, size, age)


def encoder_text(encoder: StoredEncoder) -> str:
    """The text of ``show``."""
    spec = encoder.spec
    entries = tuple(list_encoder(encoder))
    runs = encoder.provenance()
    canary = encoder.canary()
    lines = [
        f"encoder        {encoder.names.model}  ({encoder.names.slug})",
        f"id             {encoder.encoder_id}",
        f"folder         {encoder.path}",
        f"architecture   {spec.architecture}, activation {spec.activation}",
        f"weights        sha256 {spec.weights_sha256}",
        f"taps           {', '.join(f'{tap.name} {tap.dim}' for tap in spec.taps)}",
        f"arithmetic     {spec.precision}, stored as {spec.storage_dtype}",
        f"preprocessing  {_preprocess_text(encoder)}",
        f"canary         {'stored' if canary is not None else 'none yet'}",
        f"parts          {entries[0].n_parts}",
    ]
    for last in runs[-1:]:
        versions = ", ".join(f"{name} {version}" for name, version in last.versions.items())
        lines.append(
            f"runs           {len(runs)}, the last {last.time} on {last.host}, {last.device}"
        )
        lines.append(f"               {versions}")
    for entry in entries:
        if entry.dataset_id is not None:
            lines += _dataset_lines(entry)
    return "\n".join(lines)


def _preprocess_text(encoder: StoredEncoder) -> str:
    preprocess = encoder.spec.preprocess
    if preprocess is None:
        return "unknown: features imported from elsewhere"
    return (
        f"{preprocess.path}, {preprocess.image_size} px, {preprocess.interpolation}, "
        f"{preprocess.resize_mode}, crop {preprocess.crop_pct:g}"
    )


def _dataset_lines(entry: DatasetEntry) -> Iterator[str]:
    yield ""
    yield f"dataset        {entry.dataset_name}  ({entry.dataset_id})"
    for split in entry.splits:
        yield f"  {split.name:<12} {_split_text(split)}"


def _split_text(split: SplitEntry) -> str:
    if split.problem:
        return f"{split.state}: {split.problem}"
    return (
        f"{split.rows:,} rows, {split.skipped:,} skipped, {human_bytes(split.bytes)}, "
        f"digest {short_id(split.digest)}, {human_age(split.age_s)} old"
    )


def encoder_json_report(encoder: StoredEncoder) -> JsonValue:
    """The object of ``show --json``."""
    return {
        "encoder_id": encoder.encoder_id,
        "path": str(encoder.path),
        "names": asdict(encoder.names),
        "spec": asdict(encoder.spec),
        "has_canary": encoder.canary() is not None,
        "provenance": [asdict(run) for run in encoder.provenance()],
        "datasets": [asdict(e) for e in list_encoder(encoder) if e.dataset_id is not None],
    }


def verification(units: Sequence[UnitReport], root: Path) -> str:
    """The table of ``verify``: parts in one line unless damaged, everything else by name."""
    rows = []
    for unit in units:
        if unit.problem or unit.kind == "split":
            place = unit.path.relative_to(root).as_posix()
            size = human_bytes(unit.bytes)
            rows.append((unit.kind, place, f"{unit.rows:,}", size, unit.problem or "ok"))
    sound = Counter(unit.kind for unit in units if not unit.problem)
    total = human_bytes(sum(unit.bytes for unit in units))
    summary = ", ".join(f"{count} {kind}s" for kind, count in sound.items()) or "nothing"
    return "\n".join([text_table(_UNITS, rows, "<<>><"), "", f"sound: {summary}, {total}"])


def imported(splits: Sequence[Split]) -> str:
    """The table of ``import``."""
    header = ("encoder", "dataset", "split", "rows", "dim", "classes", "digest")
    rows = [
        (
            f"{split.encoder_names.slug} {short_id(split.encoder_id)}",
            f"{split.dataset_name} {short_id(split.dataset_id)}",
            split.name,
            f"{split.n:,}",
            str(split.taps[0].dim),
            str(len(split.classes)),
            short_id(split.digest),
        )
        for split in splits
    ]
    return text_table(header, rows, "<<<>>><")


def import_json_report(splits: Sequence[Split]) -> JsonValue:
    """The object of ``import --json``."""
    return {
        "encoder_id": splits[0].encoder_id,
        "dataset_id": splits[0].dataset_id,
        "splits": [
            {"name": split.name, "rows": split.n, "digest": split.digest, "path": str(split.path)}
            for split in splits
        ],
    }


def copies_json_report(copies: Sequence[CopiedSplit]) -> JsonValue:
    """The splits in the object of ``copy --json``."""
    return [
        {
            "encoder_id": copied.source.encoder.spec.encoder_id,
            "dataset_id": copied.source.dataset.dataset_id,
            "split": copied.source.name,
            "digest": copied.source.marker.commit.digest,
            "outcome": copied.outcome,
            "bytes": copied.bytes,
        }
        for copied in copies
    ]


StoreOption = Annotated[Path, typer.Option("--store", help="Folder of the feature store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
EncoderOption = Annotated[
    str | None, typer.Option("--encoder", help="Model name, slug, or beginning of the id.")
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Name, or beginning of the id.")
]
DEFAULT_STORE = Path("features")


def ls(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List encoders, datasets and splits."""
    entries = list_store(FeatureStore(store))
    if as_json:
        emit_json({"store": str(store), "datasets": [asdict(entry) for entry in entries]})
    elif entries:
        emit(listing(entries))
    else:
        note(f"{store}: empty; fill it with linprobe extract, or linprobe store import")


def show(
    encoder: Annotated[
        str | None, typer.Argument(help="Model name, slug, or beginning of the id.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Show everything known about an encoder and its datasets."""
    stored = FeatureStore(store).encoder(encoder)
    if as_json:
        emit_json(encoder_json_report(stored))
    else:
        emit(encoder_text(stored))


def verify(
    store: StoreOption = DEFAULT_STORE,
    deep: Annotated[bool, typer.Option("--deep", help="Read and check every byte.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every unit of a store."""
    units = tuple(verify_store(FeatureStore(store), deep=deep))
    if as_json:
        emit_json({"store": str(store), "deep": deep, "units": _jsonable_reports(units)})
    else:
        emit(verification(units, store))
    problems = [unit for unit in units if unit.problem]
    if problems:
        raise IntegrityError(
            f"{store}: {len(problems)} of {len(units)} units have a problem",
            hint="copy them again from where they are whole, or remove the damaged parts and "
            "splits with 'linprobe store gc --damaged' and make them again",
        )


def gc(
    store: StoreOption = DEFAULT_STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell.")] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Also remove parts and splits that fail verify.")
    ] = False,
    deep: Annotated[bool, typer.Option("--deep", help="With --damaged: check every byte.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what killed writers left behind."""
    opened = FeatureStore(store)
    leftovers = (*find_leftovers(opened), *(find_damaged(opened, deep=deep) if damaged else ()))
    if not dry_run:
        remove_leftovers(leftovers)
    if as_json:
        removed = [{**asdict(item), "path": str(item.path)} for item in leftovers]
        emit_json({"store": str(store), "dry_run": dry_run, "leftovers": removed})
    else:
        _tell_leftovers(leftovers, dry_run=dry_run)


def _tell_leftovers(leftovers: Sequence[Leftover], *, dry_run: bool) -> None:
    for item in leftovers:
        emit(f"{item.path}  {human_bytes(item.bytes)}  {item.why}")
    total = human_bytes(sum(item.bytes for item in leftovers))
    note(f"{'would remove' if dry_run else 'removed'} {len(leftovers)}, {total}")


def rm(
    encoder: Annotated[str, typer.Argument(help="Model name, slug, or beginning of the id.")],
    store: StoreOption = DEFAULT_STORE,
    dataset: DatasetOption = None,
    split: Annotated[str | None, typer.Option("--split", help="Only this split.")] = None,
    parts: Annotated[bool, typer.Option("--parts", help="Only the parts; splits stay.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove an encoder, a dataset, a split, or the parts."""
    stored = FeatureStore(store).encoder(encoder)
    path = find_removal(stored, dataset=dataset, split=split, parts=parts)
    n_bytes = folder_bytes(path)
    if not yes:
        typer.confirm(f"remove {path} ({human_bytes(n_bytes)})?", abort=True, err=True)
    remove_folder(path)
    if as_json:
        emit_json({"store": str(store), "removed": str(path), "bytes": n_bytes})
    else:
        emit(f"removed {path}  {human_bytes(n_bytes)}")


def import_(
    split: Annotated[
        list[str],
        typer.Option(
            "--split",
            help="NAME=FILE.npz, NAME=FILE.npz:FEATURES,LABELS, or NAME=FEATURES.npy,LABELS.npy; "
            "give all splits in one command.",
        ),
    ],
    encoder_name: Annotated[str, typer.Option("--encoder-name", help="Name of the encoder.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Name of the dataset.")],
    store: StoreOption = DEFAULT_STORE,
    tap: Annotated[str, typer.Option("--tap", help="Where the features come from.")] = "embedding",
    classes: Annotated[
        Path | None, typer.Option("--classes", help="Class names by label, one a line.")
    ] = None,
    storage_dtype: Annotated[
        StorageDtype | None, typer.Option("--storage-dtype", help="Default: as the files.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import features made elsewhere: .npy or .npz arrays."""
    sources = parse_splits(split)
    names = read_classes(classes, sources)
    request = ImportRequest(encoder_name, dataset, tap, sources, names, storage_dtype)
    opened = FeatureStore(store)
    before = {encoder.encoder_id for encoder in opened.encoders()}
    sealed = import_features(opened, request)
    encoder_id, encoder_names = sealed[0].encoder_id, sealed[0].encoder_names
    namesakes = [
        other
        for other in opened.encoders()
        if other.names == encoder_names and other.encoder_id != encoder_id
    ]
    if namesakes and encoder_id not in before:
        note(
            f"{encoder_name!r} is already the name of other features "
            f"({', '.join(e.short_id for e in namesakes)}); these are {short_id(encoder_id)}"
        )
    if as_json:
        emit_json(import_json_report(sealed))
    else:
        emit(imported(sealed))


def export(
    out: Annotated[Path, typer.Argument(help="File to write: .npz, .npy (and .csv), .parquet.")],
    split: Annotated[str, typer.Option("--split", help="Split, such as train.")],
    store: StoreOption = DEFAULT_STORE,
    encoder: EncoderOption = None,
    dataset: DatasetOption = None,
    tap: Annotated[str, typer.Option("--tap", help="Which features.")] = "embedding",
    as_json: JsonOption = False,
) -> None:
    """Export a split for other programs."""
    opened = FeatureStore(store).split(split, encoder=encoder, dataset=dataset)
    exported = export_split(opened, tap, out)
    if as_json:
        paths = [str(path) for path in exported.paths]
        emit_json({"paths": paths, "rows": exported.rows, "bytes": exported.bytes})
    else:
        for path in exported.paths:
            emit(str(path))


def copy(
    source: Annotated[str, typer.Argument(help="Store: a folder, or a URL such as s3://...")],
    target: Annotated[str, typer.Argument(help="The same; made if it is not there.")],
    encoder: EncoderOption = None,
    dataset: DatasetOption = None,
    pack: Annotated[
        bool, typer.Option("--pack", help="Compress for a slow link; copy from there unpacks.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy sealed splits between stores."""
    done = []
    for copied in copy_store(source, target, encoder=encoder, dataset=dataset, pack=pack):
        note(f"{copied.outcome}: {copied.source.folder}  {human_bytes(copied.bytes)}")
        done.append(copied)
    if as_json:
        emit_json({"source": source, "target": target, "splits": copies_json_report(done)})
    else:
        n_new = sum(item.outcome == "copied" for item in done)
        total = human_bytes(sum(item.bytes for item in done))
        emit(f"{n_new} splits copied ({total}), {len(done) - n_new} there already: {target}")


def _jsonable_reports(units: Sequence[UnitReport]) -> list[dict[str, str | int | None]]:
    return [{**asdict(unit), "path": str(unit.path)} for unit in units]
