"""What the commands print: tables and JSON objects from the values of the library."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from linprobe_store.canonical import JsonValue
from linprobe_store.copying import CopiedSplit
from linprobe_store.encoders import StoredEncoder
from linprobe_store.inventory import DatasetEntry, SplitEntry, list_encoder
from linprobe_store.layout import short_id
from linprobe_store.splits import Split
from linprobe_store.tables import human_age, text_table
from linprobe_store.terminal import human_bytes
from linprobe_store.verification import UnitReport

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
    for run in runs[-1:]:
        versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
        lines.append(f"runs           {len(runs)}, the last {run.time} on {run.host}, {run.device}")
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
            f"{split.encoder.names.slug} {split.encoder.short_id}",
            f"{split.dataset.name} {split.dataset.short_id}",
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
        "encoder_id": splits[0].encoder.encoder_id,
        "dataset_id": splits[0].dataset.dataset_id,
        "splits": [
            {"name": split.name, "rows": split.n, "digest": split.digest, "path": str(split.path)}
            for split in splits
        ],
    }


def copies_json_report(copies: Sequence[CopiedSplit]) -> JsonValue:
    """The splits in the object of ``copy --json``."""
    return [
        {
            "encoder_id": copied.source.spec.encoder_id,
            "dataset_id": copied.source.dataset.dataset_id,
            "split": copied.source.name,
            "digest": copied.source.commit.digest,
            "outcome": copied.outcome,
            "bytes": copied.bytes,
        }
        for copied in copies
    ]
