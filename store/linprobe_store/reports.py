"""What the commands of the store tell: rows of a listing, and the text of every report."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linprobe.errors import StoreError
from linprobe.names import short_id
from linprobe.terminal import human_age, human_bytes, one_line, text_table
from linprobe_store.care.importing import ASSERTED
from linprobe_store.care.verify import UnitReport
from linprobe_store.format.layout import COMMIT_FILE, PART_PREFIX, PARTS_FOLDER
from linprobe_store.format.spec import EncoderSpec, Tap
from linprobe_store.handles.dataset import StoredDataset, is_packed_split
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.lookup import Broken, Listing, list_folders, reading
from linprobe_store.handles.split import Split


@dataclass(frozen=True)
class SplitEntry:
    """A split in a listing; of one that cannot be read, only its state and problem are known."""

    name: str
    rows: int = 0
    bytes: int = 0
    skipped: int = 0
    """Samples of its source tars that have no row."""
    digest: str = ""
    age_s: float = 0.0
    """Seconds since it was sealed or copied into this store."""
    state: Literal["sealed", "packed", "damaged"] = "sealed"
    """Only a sealed split can be read."""
    problem: str | None = None


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset of an encoder in a listing, or an encoder without any; ids are 64 hex digits."""

    encoder_id: str
    encoder_slug: str
    taps: tuple[Tap, ...]
    dtype: str
    """Dtype of the features."""
    n_parts: int
    """Parts of the encoder, of this or any other dataset."""
    dataset_id: str | None = None
    dataset_name: str = ""
    metric: str | None = None
    """Headline metric that was declared for it, or None."""
    splits: tuple[SplitEntry, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What a store, or one encoder of it, holds."""

    entries: tuple[DatasetEntry, ...]
    """The datasets, damaged splits too; one entry for an encoder without any."""
    broken: tuple[Broken, ...]
    """What cannot be opened or listed, and was left out."""


def list_store(encoders: Listing[StoredEncoder]) -> Contents:
    """What the encoders of a store hold, and what of it cannot be opened."""
    listed = [list_encoder(encoder) for encoder in encoders.sound]
    entries = tuple(entry for contents in listed for entry in contents.entries)
    broken = tuple(item for contents in listed for item in contents.broken)
    return Contents(entries, encoders.broken + broken)


def list_encoder(encoder: StoredEncoder) -> Contents:
    """What an encoder holds, and what of it cannot be opened."""
    parts, datasets = encoder.path / PARTS_FOLDER, encoder.listing()
    entries, broken, n_parts = [], [*datasets.broken], 0
    try:
        n_parts = len(list_folders(parts, PART_PREFIX))
    except StoreError as error:
        broken.append(Broken(parts, "part", error))
    own = (encoder.encoder_id, encoder.names.slug, encoder.spec.taps, encoder.spec.storage_dtype)
    for dataset in datasets.sound:
        try:
            splits = tuple(_split_entry(dataset, name) for name in dataset.splits)
        except StoreError as error:
            broken.append(Broken(dataset.path, "dataset", error))
            continue
        names = (dataset.dataset_id, dataset.name, dataset.metric)
        entries.append(DatasetEntry(*own, n_parts, *names, splits))
    return Contents(tuple(entries) or (DatasetEntry(*own, n_parts),), tuple(broken))


def broken_json(broken: Sequence[Broken]) -> list[dict[str, str]]:
    """What was left out, as a listing prints it in JSON."""
    return [
        {"path": str(item.path), "kind": item.kind, "reason": item.reason, "next": item.error.hint}
        for item in broken
    ]


def _split_entry(dataset: StoredDataset, name: str) -> SplitEntry:
    path = dataset.path / name
    try:
        commit = dataset.commit(name)
        with reading(path):
            age_s = max(0.0, time.time() - (path / COMMIT_FILE).stat().st_mtime)
    except StoreError as error:
        is_packed = is_packed_split(path)
        state: Literal["packed", "damaged"] = "packed" if is_packed else "damaged"
        return SplitEntry(name, state=state, problem=error.message)
    skipped = sum(len(part.skipped) for part in commit.parts)
    return SplitEntry(name, commit.rows, commit.n_bytes, skipped, commit.digest, age_s)


def listing_text(contents: Contents) -> str:
    """The table of ``ls``: one line per split, and one per encoder or dataset without any.

    What cannot be opened stands below it.
    """
    header = ("encoder", "id", "dataset", "id", "split", "rows", "dims", "dtype", "size", "age")
    rows = []
    for entry in contents.entries:
        encoder = (entry.encoder_slug, short_id(entry.encoder_id))
        head = (*encoder, entry.dataset_name or "-", short_id(entry.dataset_id or "-"))
        kind = (_dims_text(entry.taps), entry.dtype)
        if not entry.splits:
            rows.append((*head, f"{entry.n_parts} parts, not sealed", "-", *kind, "-", "-"))
        for split in entry.splits:
            if split.state == "sealed":
                size, age = human_bytes(split.bytes), human_age(split.age_s)
                rows.append((*head, split.name, f"{split.rows:,}", *kind, size, age))
            else:
                rows.append((*head, split.name, split.state, *kind, "-", "-"))
    lines = [item.line for item in contents.broken]
    table = [text_table(header, rows, "<<<<<><<>>")] if rows else []
    return "\n".join([*table, *([""] if table and lines else []), *lines])


def _dims_text(taps: Sequence[Tap]) -> str:
    return ", ".join(f"{tap.name} {tap.dim}" for tap in taps)


def encoder_text(encoder: StoredEncoder, contents: Contents) -> str:
    """The text of ``show``."""
    spec, preprocess, runs = encoder.spec, encoder.spec.preprocess, encoder.provenance()
    pixels = "unknown: features imported from elsewhere"
    if preprocess is not None:
        pixels = (
            f"{preprocess.path}, {preprocess.image_size} px, {preprocess.interpolation}, "
            f"{preprocess.resize_mode}, crop {preprocess.crop_pct:g}"
        )
    entries = contents.entries
    lines = [
        f"encoder        {encoder.names.model}  ({encoder.names.slug})",
        f"id             {encoder.encoder_id}",
        f"folder         {encoder.path}",
        f"architecture   {spec.architecture}, activation {spec.activation}",
        f"weights        {_weights_text(spec)}",
        f"taps           {_dims_text(spec.taps)}",
        f"arithmetic     {spec.precision}, stored as {spec.storage_dtype}",
        f"preprocessing  {pixels}",
        f"canary         {'none yet' if encoder.canary() is None else 'stored'}",
        f"parts          {entries[0].n_parts}",
    ]
    for run in runs[-1:]:
        versions = ", ".join(f"{name} {release}" for name, release in run.versions.items())
        lines.append(f"runs           {len(runs)}, the last {run.time} on {run.host}, {run.device}")
        lines.append(f"               {versions}")
    for entry in entries:
        if entry.dataset_id is not None:
            lines += ["", f"dataset        {entry.dataset_name}  ({entry.dataset_id})"]
            lines += [f"metric         {entry.metric}"] if entry.metric else []
            lines += [f"  {split.name:<12} {_split_text(split)}" for split in entry.splits]
    return "\n".join(map(one_line, lines))


def _weights_text(spec: EncoderSpec) -> str:
    asserted = spec.config.get(ASSERTED)
    return f"asserted: {asserted}" if asserted else f"sha256 {spec.weights_sha256}"


def _split_text(split: SplitEntry) -> str:
    if split.problem:
        return f"{split.state}: {split.problem}"
    size, age = human_bytes(split.bytes), human_age(split.age_s)
    content = f"{split.rows:,} rows, {split.skipped:,} skipped, {size}"
    return f"{content}, digest {short_id(split.digest)}, {age} old"


def verification_text(units: Sequence[UnitReport], root: Path) -> str:
    """The table of ``verify``: every split, and whatever has a problem; the rest is counted."""
    rows = []
    for unit in units:
        if unit.problem or unit.kind == "split":
            place, size = unit.path.relative_to(root).as_posix(), human_bytes(unit.bytes)
            rows.append((unit.kind, place, f"{unit.rows:,}", size, unit.problem or "ok"))
    table = text_table(("kind", "unit", "rows", "size", "state"), rows, "<<>><")
    sound = Counter(unit.kind for unit in units if not unit.problem)
    summary = ", ".join(f"{count} {kind}s" for kind, count in sound.items()) or "nothing"
    return f"{table}\n\nsound: {summary}, {human_bytes(sum(unit.bytes for unit in units))}"


def imported_text(splits: Sequence[Split]) -> str:
    """The table of ``import``."""
    header = ("encoder", "dataset", "split", "rows", "dim", "classes", "digest")
    rows = []
    for split in splits:
        encoder = f"{split.encoder_names.slug} {short_id(split.encoder_id)}"
        dataset = f"{split.dataset_name} {short_id(split.dataset_id)}"
        numbers = (f"{split.n:,}", str(split.taps[0].dim), str(len(split.classes)))
        rows.append((encoder, dataset, split.name, *numbers, short_id(split.digest)))
    return text_table(header, rows, "<<<>>><")
