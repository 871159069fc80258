"""What the commands of the store print: text from the values of the library."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from linprobe.names import short_id
from linprobe.terminal import human_age, human_bytes, text_table
from linprobe_store.care.inventory import DatasetEntry, SplitEntry, list_encoder
from linprobe_store.care.verify import UnitReport
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.split import Split


def listing_text(entries: Sequence[DatasetEntry]) -> str:
    """The table of ``ls``: one line per split, and one per encoder or dataset without any."""
    header = ("encoder", "id", "dataset", "split", "rows", "dims", "dtype", "size", "age")
    rows = [row for entry in entries for row in _listing_rows(entry)]
    return text_table(header, rows, "<<<<><<>>")


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
    lines = [
        f"encoder        {encoder.names.model}  ({encoder.names.slug})",
        f"id             {encoder.encoder_id}",
        f"folder         {encoder.path}",
        f"architecture   {spec.architecture}, activation {spec.activation}",
        f"weights        sha256 {spec.weights_sha256}",
        f"taps           {', '.join(f'{tap.name} {tap.dim}' for tap in spec.taps)}",
        f"arithmetic     {spec.precision}, stored as {spec.storage_dtype}",
        f"preprocessing  {_preprocess_text(encoder)}",
        f"canary         {'none yet' if encoder.canary() is None else 'stored'}",
        f"parts          {entries[0].n_parts}",
        *_run_lines(encoder),
    ]
    for entry in entries:
        if entry.dataset_id is not None:
            lines += ["", f"dataset        {entry.dataset_name}  ({entry.dataset_id})"]
            lines += [f"metric         {entry.metric}"] if entry.metric else []
            lines += [f"  {split.name:<12} {_split_text(split)}" for split in entry.splits]
    return "\n".join(lines)


def _preprocess_text(encoder: StoredEncoder) -> str:
    preprocess = encoder.spec.preprocess
    if preprocess is None:
        return "unknown: features imported from elsewhere"
    return (
        f"{preprocess.path}, {preprocess.image_size} px, {preprocess.interpolation}, "
        f"{preprocess.resize_mode}, crop {preprocess.crop_pct:g}"
    )


def _run_lines(encoder: StoredEncoder) -> Iterator[str]:
    runs = encoder.provenance()
    for last in runs[-1:]:
        yield f"runs           {len(runs)}, the last {last.time} on {last.host}, {last.device}"
        yield " " * 15 + ", ".join(f"{name} {release}" for name, release in last.versions.items())


def _split_text(split: SplitEntry) -> str:
    if split.problem:
        return f"{split.state}: {split.problem}"
    return (
        f"{split.rows:,} rows, {split.skipped:,} skipped, {human_bytes(split.bytes)}, "
        f"digest {short_id(split.digest)}, {human_age(split.age_s)} old"
    )


def verification_text(units: Sequence[UnitReport], root: Path) -> str:
    """The table of ``verify``: every split, and whatever has a problem; the rest is counted."""
    rows = []
    for unit in units:
        if unit.problem or unit.kind == "split":
            place = unit.path.relative_to(root).as_posix()
            size = human_bytes(unit.bytes)
            rows.append((unit.kind, place, f"{unit.rows:,}", size, unit.problem or "ok"))
    table = text_table(("kind", "unit", "rows", "size", "state"), rows, "<<>><")
    sound = Counter(unit.kind for unit in units if not unit.problem)
    summary = ", ".join(f"{count} {kind}s" for kind, count in sound.items()) or "nothing"
    total = human_bytes(sum(unit.bytes for unit in units))
    return f"{table}\n\nsound: {summary}, {total}"


def imported_text(splits: Sequence[Split]) -> str:
    """The table of ``import``."""
    header = ("encoder", "dataset", "split", "rows", "dim", "classes", "digest")
    rows = [
        (
            f"{split.encoder_names.slug} {short_id(split.encoder_id)}",
            f"{split.dataset_names.name} {short_id(split.dataset_id)}",
            split.name,
            f"{split.n:,}",
            str(split.taps[0].dim),
            str(len(split.classes)),
            short_id(split.digest),
        )
        for split in splits
    ]
    return text_table(header, rows, "<<<>>><")
