"""The sealed splits of a store at any place, found through its small files alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from linprobe.disk import STAGING_PREFIX
from linprobe.errors import NotFoundError
from linprobe.records import parse
from linprobe.terminal import command
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
class SourceFolder(Generic[Spec, Names]):
    """The folder of an encoder or dataset at some place."""

    path: str
    """Relative to the place."""
    spec: Spec
    """What is hashed into its id."""
    names: Names
    """What people call it."""


@dataclass(frozen=True)
class SourceSplit:
    """A sealed or packed split at some place."""

    place: Place
    """Where it lies."""
    encoder: SourceFolder[EncoderSpec, EncoderNames]
    """Encoder that made the features."""
    dataset: SourceFolder[DatasetSpec, DatasetNames]
    """Dataset that it belongs to."""
    name: str
    """``train``, ``val`` or ``test``."""
    folder: str
    """Its folder, relative to the place."""
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
    encoders = tuple(_folders(place, "", ENCODER_FILE, EncoderSpec, EncoderNames))
    if encoder is not None:
        chosen = choose(
            encoders,
            encoder,
            what="encoder",
            place=place.label,
            names=lambda e: (e.spec.encoder_id, e.names.slug, e.names.model),
        )
        encoders = (chosen,)
    splits = tuple(split for folder in encoders for split in _splits(place, folder, dataset))
    if not splits:
        raise NotFoundError(
            f"{place.label}: no sealed split{f' of dataset {dataset!r}' if dataset else ''}",
            hint=f"'{command('store ls', store=place.label)}' lists a local store",
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


def _splits(
    place: Place, encoder: SourceFolder[EncoderSpec, EncoderNames], query: str | None
) -> Iterator[SourceSplit]:
    """Splits of an encoder, of the dataset with the name or id of the query, or of all."""
    sets = f"{encoder.path}/{SETS_FOLDER}"
    for dataset in _folders(place, sets, DATASET_FILE, DatasetSpec, DatasetNames):
        is_wanted = query is None or query == dataset.names.name
        if not is_wanted and not dataset.spec.dataset_id.startswith(str(query)):
            continue
        for split in place.folders(dataset.path):
            if not split.startswith((STAGING_PREFIX, ".")):
                path = f"{dataset.path}/{split}"
                marker = find_marker(place, path) or _read_marker(place, path, COMMIT_FILE)
                yield SourceSplit(place, encoder, dataset, split, path, marker)


def _folders(
    place: Place, parent: str, spec_file: str, spec_kind: type[Spec], names_kind: type[Names]
) -> Iterator[SourceFolder[Spec, Names]]:
    """The encoders of a store, or the datasets of an encoder."""
    prefix = ENCODER_PREFIX if spec_file == ENCODER_FILE else DATASET_PREFIX
    for name in place.folders(parent):
        if name.startswith(prefix):
            path = f"{parent}/{name}".lstrip("/")
            files = f"{path}/{spec_file}", f"{path}/{NAMES_FILE}"
            labels = [f"{place.label}/{file}" for file in files]
            digits = folder_digits(PurePosixPath(name))
            spec = parse_spec(spec_kind, place.read(files[0]), labels[0], digits)
            yield SourceFolder(path, spec, parse(names_kind, place.read(files[1]), labels[1]))
