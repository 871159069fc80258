"""What became of the images of a folder since it was packed, in words."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from linprobe.errors import LinprobeError
from linprobe.names import first_few
from linprobe.records import read_bytes
from linprobe_extract.pack.shard import ShardRecord
from linprobe_extract.shards.card import DatasetCard


def changes(
    out: Path, before: DatasetCard, classes: Sequence[str], records: Sequence[ShardRecord]
) -> str:
    """Compare what ``out`` holds with what takes its place."""
    try:
        earlier = dict(_packed(out, before))
    except (LinprobeError, csv.Error, LookupError, ValueError):
        return "packed again; what it held cannot be read"
    now = {
        image.sha256: frozenset(classes[label] for label in image.labels)
        for record in records
        for image in record.kept
    }
    counts = {
        "added": len(now.keys() - earlier.keys()),
        "removed": len(earlier.keys() - now.keys()),
        "in another class": sum(now[key] != earlier[key] for key in now.keys() & earlier.keys()),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    for what, names in (
        ("new classes", set(classes) - set(before.classes)),
        ("classes gone", set(before.classes) - set(classes)),
    ):
        told += [f"{what}: {first_few(sorted(names))}"] if names else []
    return f"packed again, its source has changed: {'; '.join(told) or 'names of images alone'}"


def _packed(out: Path, card: DatasetCard) -> Iterator[tuple[str, frozenset[str]]]:
    """Sha256 and class names of every packed image, as ``samples.csv`` has them."""
    for split in card.splits:
        text = read_bytes(out / split / "samples.csv", limit=1 << 30).decode()
        rows: Iterator[Mapping[str, str]] = csv.DictReader(io.StringIO(text, newline=""))
        for row in rows:
            labels = map(int, row["labels"].split())
            yield row["sha256"], frozenset(card.classes[label] for label in labels)
