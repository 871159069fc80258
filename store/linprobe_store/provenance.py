"""Provenance: what is recorded about a run and never hashed."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from linprobe_store.canonical import canonical_json
from linprobe_store.jsonread import parse_json
from linprobe_store.layout import PROVENANCE_FILE
from linprobe_store.staging import told_as_store_error


@dataclass(frozen=True)
class Provenance:
    """One run that wrote features of an encoder."""

    time: str
    """Start of the run, ISO 8601 with its offset from UTC."""
    host: str
    """Name of the machine."""
    device: str
    """Where the encoder ran, such as ``cpu`` or the name of the GPU."""
    argv: tuple[str, ...]
    """Command line."""
    versions: Mapping[str, str]
    """Versions of Python and of the libraries that features depend on."""
    batch_size: int
    """Images per forward pass; 0 for imported features."""


def append_provenance(encoder_path: Path, entry: Provenance) -> None:
    """Append one line; lines of concurrent writers do not mix."""
    path = encoder_path / PROVENANCE_FILE
    line = canonical_json(asdict(entry)) + b"\n"
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        line = b"\n" + line  # ends the line that a crash cut short
    with told_as_store_error(path):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)


def merge_provenance(encoder_path: Path, lines: bytes) -> None:
    """Append the whole lines of another store's file that are not here yet."""
    there = read_provenance(encoder_path)
    for entry in _entries(lines, "provenance of the source"):
        if entry not in there:
            append_provenance(encoder_path, entry)


def read_provenance(encoder_path: Path) -> tuple[Provenance, ...]:
    """All entries, oldest first.

    A line cut short by a crash is left out; the features do not depend on it.

    Raises
    ------
    IntegrityError : a whole line is damaged.
    """
    path = encoder_path / PROVENANCE_FILE
    return tuple(_entries(path.read_bytes() if path.exists() else b"", str(path)))


def _entries(data: bytes, place: str) -> Iterator[Provenance]:
    for i, line in enumerate(data.splitlines(), 1):
        if line.endswith(b"}"):
            yield _entry(line, f"{place}:{i}")


def _entry(line: bytes, place: str) -> Provenance:
    fields = parse_json(line, place)
    versions = fields.object("versions")
    return Provenance(
        time=fields.text("time"),
        host=fields.text("host"),
        device=fields.text("device"),
        argv=fields.texts("argv"),
        versions={name: versions.text(name) for name in versions.fields},
        batch_size=fields.integer("batch_size"),
    )
