"""What bears witness beside an encoder: its canary features, and who ran it where.

Features of one encoder are not bit-equal between devices, but their direction must agree: the
first machine stores what the encoder gives for the built-in canary images, and every later one
compares its own with that.
"""

import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import numpy as np
from msgspec import UNSET, UnsetType

from linprobe.disk import Staging, append_line, refuse_links, store_errors
from linprobe.errors import REPAIR, IntegrityError, MismatchError
from linprobe.records import MAX_BYTES, NonNegative, canonical_json, parse, plain, read_bytes
from linprobe_store.format.layout import CANARY_FOLDER, PROVENANCE_FILE
from linprobe_store.format.npy import read_npz
from linprobe_store.format.spec import EncoderSpec, FeatureArray

_FILE = "canary.npz"
_MIN_COSINE, _MIN_COSINE_BF16 = 0.9999, 0.999
"""Above what another model, activation or preprocessing gives; below what another GPU gives. In
bf16 two processors were 4.5e-5 from each other in 12 blocks, as either is from float32."""
_NORM, _NORM_16 = 0.01, 0.05
"""By how much a norm may differ: the angle that is allowed, as noise is no longer along the feature
than across it; a change of scale leaves every cosine as it is."""
_OTHER_MACHINE = (
    "this machine computes other features for the same encoder: compare the library versions in "
    "provenance.jsonl, or extract into another store"
)
_OTHER_MODULE = (
    "the module may have changed where its identity does not see it, as in a file that it imports: "
    "undo that, or give the module another attribute (self.version = 2) to make it another "
    "encoder; if it is the same, compare the library versions in provenance.jsonl"
)


def read_canary(encoder_path: Path) -> Mapping[str, FeatureArray] | None:
    """See ``StoredEncoder.canary``; the zip format of the file carries its checksums."""
    path = encoder_path / CANARY_FOLDER / _FILE
    if not path.parent.exists():
        return None
    arrays = read_npz(path, limit=MAX_BYTES)
    for tap, x in arrays.items():
        if x.ndim != 2 or x.dtype not in (np.float16, np.float32):
            found = f"found {x.shape} {x.dtype}"
            raise IntegrityError(f"{path}: {tap}: expected features (m, d), {found}", hint=REPAIR)
    return cast("Mapping[str, FeatureArray]", arrays)


def check_canary(
    encoder_path: Path, features: Mapping[str, FeatureArray], spec: EncoderSpec
) -> None:
    """See ``StoredEncoder.check_canary``; ``spec`` is the encoder's."""
    least = _MIN_COSINE_BF16 if spec.precision == "bf16" else _MIN_COSINE
    most = _NORM_16 if spec.precision in ("bf16", "fp16") else _NORM
    hint = _OTHER_MODULE if spec.architecture.startswith("module:") else _OTHER_MACHINE
    stored = read_canary(encoder_path)
    if stored is None:
        refuse_links(encoder_path)
        with store_errors(encoder_path), Staging(encoder_path) as staging:
            # The keys are taps, never one of savez's own parameters: those are no valid tap names.
            np.savez(staging.path / _FILE, **dict(features))  # type: ignore[arg-type]
            if staging.publish(encoder_path / CANARY_FOLDER):
                return
        stored = read_canary(encoder_path) or {}  # another machine was first
    expected = {tap: x.shape for tap, x in stored.items()}
    given = {tap: x.shape for tap, x in features.items()}
    if expected != given:
        raise MismatchError(
            f"{encoder_path}: expected canary features {expected}, found {given}",
            hint="the same encoder gives the same shapes: compare the versions in provenance.jsonl",
        )
    for tap, reference in stored.items():
        x, y = reference.astype(np.float64), features[tap].astype(np.float64)
        with np.errstate(all="ignore"):  # what is not finite has no cosine, and is refused
            norms, others = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
            cosines = np.einsum("ij,ij->i", x, y) / (norms * others)
            ratios = others / norms
        worst = int(cosines.argmin()) if len(cosines) else 0
        if len(cosines) and not cosines[worst] >= least:
            raise MismatchError(
                f"{encoder_path}: canary image {worst}, {tap}: expected a cosine of at least "
                f"{least} with the stored features, found {cosines[worst]:.6f}",
                hint=hint,
            )
        worst = int(np.abs(ratios - 1).argmax()) if len(ratios) else 0
        if len(ratios) and not abs(ratios[worst] - 1) <= most:
            raise MismatchError(
                f"{encoder_path}: canary image {worst}, {tap}: expected a norm within {most:.0%} "
                f"of that of the stored features, found {ratios[worst]:.4g} times it",
                hint=hint,
            )


@dataclass(frozen=True)
class TakenRows:
    """Rows of a part that no encoder made anew: they are those of the same images elsewhere."""

    part: str
    """Folder of the part."""
    unit: str
    """The part or sealed split that they are from, below the encoder's folder."""
    rows: str
    """Which rows of the part, such as ``0-249,251``."""


@dataclass(frozen=True)
class Provenance:
    """What wrote features of an encoder: a run, or rows that one took from the store.

    Or what gave the name of a dataset to another.
    """

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
    batch_size: NonNegative
    """Images per forward pass; 0 for imported features."""
    dataset_id: str | UnsetType = UNSET
    """The dataset that its name means from then on, 64 hex digits; absent from the entry of a run
    that wrote features."""
    taken: tuple[TakenRows, ...] | UnsetType = UNSET
    """Rows of a part that a run took from the store; absent from the entry of the run itself."""


def append_provenance(encoder_path: Path, entry: Provenance) -> None:
    """Append one line, durably; lines of concurrent writers do not mix."""
    refuse_links(encoder_path)
    append_line(encoder_path / PROVENANCE_FILE, canonical_json(plain(entry)))


def append_taken(encoder_path: Path, part: str, rows: Mapping[str, str]) -> None:
    """Append a line about the rows that a part has from other units, as text by unit."""
    taken = tuple(TakenRows(part, unit, ranges) for unit, ranges in rows.items())
    time = datetime.now(UTC).isoformat(timespec="seconds")
    entry = Provenance(time, platform.node(), "", tuple(sys.argv), {}, 0, taken=taken)
    append_provenance(encoder_path, entry)


def merge_provenance(encoder_path: Path, lines: bytes) -> None:
    """Append the whole lines of another store's file that are not here yet."""
    known, given = (
        [canonical_json(plain(entry)) for entry in entries]
        for entries in (read_provenance(encoder_path), _entries(lines, "provenance of the source"))
    )
    there = frozenset(known)  # of both there may be 100,000
    if new := [line for line in given if line not in there]:
        refuse_links(encoder_path)
        append_line(encoder_path / PROVENANCE_FILE, b"\n".join(new))


def read_provenance(encoder_path: Path) -> tuple[Provenance, ...]:
    """All entries, oldest first, but for a line that a crash cut short; damage is an error."""
    path = encoder_path / PROVENANCE_FILE
    return tuple(_entries(read_bytes(path) if path.exists() else b"", str(path)))


def read_runs(encoder_path: Path) -> tuple[Provenance, ...]:
    """The entries of runs that wrote features, oldest first."""
    entries = read_provenance(encoder_path)
    return tuple(entry for entry in entries if not (entry.dataset_id or entry.taken))


def _entries(data: bytes, place: str) -> Iterator[Provenance]:
    for i, line in enumerate(data.splitlines(), 1):
        if line.endswith(b"}"):
            yield parse(Provenance, line, f"{place}:{i}")
