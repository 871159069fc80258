"""The sealed splits of a store at any place, found through its small files alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from linprobe.disk import STAGING_PREFIX
from linprobe.errors import NotFoundError
from linprobe.records import parse
from linprobe_store.care.packed import parse_packed
from linprobe_store.care.place import Place
from linprobe_store.format.checksums import FileDigest
from linprobe_store.format.commit import SplitCommit, parse_signed
from linprobe_store.format.layout import (
    COMMIT_FILE,
    DATASET_FILE,
    DATASET_PREFIX,
    ENCODER_FILE,
    ENCODER_PREFIX,
    FORMAT_FILE,
    NAMES_FILE,
    PACKED_FILE,
    SETS_FOLDER,
)
from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    EncoderNames,
    EncoderSpec,
    Spec,
    parse_spec,
)
from linprobe_store.handles.lookup import choose, folder_digits
from linprobe_store.handles.store import check_format_line

Names = TypeVar("Names", EncoderNames, DatasetNames)


@dataclass(frozen=True)
class Marker:
    """The file that says that a split is complete, and what it says."""

    name: str
    """``COMMIT.json``, or ``PACKED.json`` of a packed split."""
    data: bytes
    """Its content."""
    commit: SplitCommit
    """Commit of the sealed split, which a packed one carries too."""
    files: Mapping[str, FileDigest]
    """Files of the split by path below its folder: those of the commit, or the packed ones."""

    @property
    def is_packed(self) -> bool:
        """Whether the split is packed."""
        return self.name == PACKED_FILE


@dataclass(frozen=True)
class SourceEncoder:
    """An encoder at some place."""

    spec: EncoderSpec
    """What its features are a function of."""
    names: EncoderNames
    """What people call it."""
    folder: str
    """Its folder, relative to the place."""


@dataclass(frozen=True)
class SourceSplit:
    """A sealed or packed split at some place."""

    place: Place
    """Where it lies."""
    encoder: SourceEncoder
    """Encoder that made the features."""
    dataset: DatasetSpec
    """Dataset."""
    dataset_names: DatasetNames
    """What is declared about the dataset."""
    dataset_folder: str
    """Folder of the dataset, relative to the place."""
    name: str
    """``train``, ``val`` or ``test``."""
    folder: str
    """Folder of the split, relative to the place."""
    marker: Marker
    """What says that it is complete."""

    def packed_in(self, folder: Path) -> "SourceSplit":
        """The same split in the packed form that lies in a local ``folder``."""
        place = Place(str(folder))
        return replace(self, place=place, folder="", marker=_read_marker(place, "", PACKED_FILE))


def list_splits(
    place: Place, encoder: str | None = None, dataset: str | None = None
) -> tuple[SourceSplit, ...]:
    """Sealed and packed splits of a store.

    Parameters
    ----------
    encoder, dataset : by name or id; None means all.

    Raises
    ------
    NotFoundError : not a store, or nothing matches.
    IntegrityError : a spec or commit is damaged.
    MismatchError : the store is of another version of the format.
    """
    line = place.read(FORMAT_FILE).decode(errors="replace")
    check_format_line(line, f"{place.label}/{FORMAT_FILE}")
    encoders = tuple(_encoders(place))
    if encoder is not None:
        chosen = choose(
            encoders,
            encoder,
            what="encoder",
            place=place.label,
            names=lambda e: (e.spec.encoder_id, e.names.slug, e.names.model),
        )
        encoders = (chosen,)
    splits = tuple(split for source in encoders for split in _splits(place, source, dataset))
    if not splits:
        raise NotFoundError(
            f"{place.label}: no sealed split{f' of dataset {dataset!r}' if dataset else ''}",
            hint="look what is there with 'linprobe store ls'",
        )
    return splits


def find_marker(place: Place, folder: str) -> Marker | None:
    """The marker of a complete split, sealed before packed; None where there is neither.

    Raises
    ------
    IntegrityError : it is damaged.
    """
    for name in (COMMIT_FILE, PACKED_FILE):
        if place.size(f"{folder}/{name}") is not None:
            return _read_marker(place, folder, name)
    return None


def _read_marker(place: Place, folder: str, name: str) -> Marker:
    path = f"{folder}/{name}".lstrip("/")
    data, label = place.read(path), f"{place.label}/{path}"
    if name == PACKED_FILE:
        packed = parse_packed(data, label)
        return Marker(name, data, packed.commit, packed.files)
    commit = parse_signed(SplitCommit, data, label)
    return Marker(name, data, commit, commit.files)


def _encoders(place: Place) -> Iterator[SourceEncoder]:
    for folder in _folders(place, "", ENCODER_PREFIX):
        spec = _read_spec(EncoderSpec, place, folder, ENCODER_FILE)
        names = _read_names(EncoderNames, place, folder)
        yield SourceEncoder(spec, names, folder)


def _splits(place: Place, encoder: SourceEncoder, dataset: str | None) -> Iterator[SourceSplit]:
    for folder in _folders(place, f"{encoder.folder}/{SETS_FOLDER}", DATASET_PREFIX):
        spec = _read_spec(DatasetSpec, place, folder, DATASET_FILE)
        names = _read_names(DatasetNames, place, folder)
        if dataset not in (None, names.name) and not spec.dataset_id.startswith(str(dataset)):
            continue
        for split in place.folders(folder):
            if not split.startswith((STAGING_PREFIX, ".")):
                path = f"{folder}/{split}"
                marker = find_marker(place, path) or _read_marker(place, path, COMMIT_FILE)
                yield SourceSplit(place, encoder, spec, names, folder, split, path, marker)


def _folders(place: Place, parent: str, prefix: str) -> Iterator[str]:
    for name in place.folders(parent):
        if name.startswith(prefix):
            yield f"{parent}/{name}".lstrip("/")


def _read_spec(kind: type[Spec], place: Place, folder: str, file: str) -> Spec:
    name = f"{folder}/{file}"
    digits = folder_digits(PurePosixPath(folder))
    return parse_spec(kind, place.read(name), f"{place.label}/{name}", digits)


def _read_names(kind: type[Names], place: Place, folder: str) -> Names:
    name = f"{folder}/{NAMES_FILE}"
    return parse(kind, place.read(name), f"{place.label}/{name}")
