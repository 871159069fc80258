"""The sealed splits of a store at any place, found through its small files alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import basename, join
from typing import Generic

from linprobe.disk import STAGING_PREFIX
from linprobe.errors import REPAIR, IntegrityError, NotFoundError, StoreError
from linprobe.records import MAX_BYTES, digest_json, plain
from linprobe.terminal import command
from linprobe_store.care.packed import parse_packed
from linprobe_store.care.place import Place
from linprobe_store.format import layout, spec
from linprobe_store.format.checksums import FileDigest
from linprobe_store.format.commit import SplitCommit, check_origin, parse_signed
from linprobe_store.format.names import Names, parse_names
from linprobe_store.format.spec import Spec, parse_spec
from linprobe_store.handles.lookup import (
    Broken,
    BrokenKind,
    Listing,
    choose,
    folder_digits,
    is_meant,
    reading,
)
from linprobe_store.handles.store import MAX_FORMAT_BYTES, check_format_line

_FILE = re.compile(rf"{layout.DATA_FOLDER}(/\w[\w-]*)*/(\d+|zarr\.json)", re.ASCII)
"""Path of a file of a sealed split."""
_FOLDER = re.compile(r"[a-z]+-[\w.-]+", re.ASCII)
"""Name of the folder of an encoder or a dataset."""


@dataclass(frozen=True)
class Marker:
    """The file that says that a split is complete, and what it says."""

    name: str
    """``COMMIT.json``, or ``PACKED.json`` of a packed split."""
    data: bytes
    commit: SplitCommit
    """Commit of the sealed split, which a packed one carries too."""
    files: Mapping[str, FileDigest]
    """Files of the split by path below its folder: those of the commit, or the packed ones."""


@dataclass(frozen=True)
class SourceFolder(Generic[Spec, Names]):
    """The folder of an encoder or dataset at some place."""

    path: str
    """Relative to the place."""
    spec: Spec
    names: Names


@dataclass(frozen=True)
class SourceSplit:
    """A sealed or packed split at some place."""

    place: Place
    encoder: SourceFolder[spec.EncoderSpec, spec.EncoderNames]
    dataset: SourceFolder[spec.DatasetSpec, spec.DatasetNames]
    name: str
    folder: str
    """Its folder, relative to the place."""
    marker: Marker


def list_splits(place: Place, encoder: str | None, dataset: str | None) -> Listing[SourceSplit]:
    """Sealed and packed splits of a store; of an encoder and a dataset, by name or id, or of all.

    Raises NotFoundError where it is not a store or nothing matches, and the error of the first that
    is broken where there is nothing else.
    """
    line = place.read(layout.FORMAT_FILE, MAX_FORMAT_BYTES).decode(errors="replace")
    check_format_line(line, f"{place.label}/{layout.FORMAT_FILE}")
    encoders = _folders(place, "", spec.EncoderSpec, spec.EncoderNames)
    if encoder is not None:

        def names(entry: SourceFolder[spec.EncoderSpec, spec.EncoderNames]) -> tuple[str, ...]:
            called = entry.names
            return entry.spec.encoder_id, called.slug, called.model, basename(entry.path)

        wanted = choose(encoders, encoder, what="encoder", place=place.label, names=names)
        encoders = Listing((wanted,), ())
    splits: list[SourceSplit] = []
    broken = [*encoders.broken]
    for source in encoders.sound:
        sets = f"{source.path}/{layout.SETS_FOLDER}"
        datasets = _folders(place, sets, spec.DatasetSpec, spec.DatasetNames)
        broken += datasets.broken
        for stored in datasets.sound:
            own = stored.spec.dataset_id, stored.names.name, basename(stored.path)
            is_wanted = dataset is None or is_meant(dataset, *own)
            for name in place.folders(stored.path) if is_wanted else ():
                if name.startswith((STAGING_PREFIX, ".")):
                    continue
                folder = f"{stored.path}/{name}"
                try:
                    layout.check_split_name(name)
                    with reading(Path(place.label, folder)):
                        marker = find_marker(place, folder)
                        marker = marker or read_marker(place, folder, layout.COMMIT_FILE)
                    _check_origin(f"{place.label}/{folder}", source, stored, name, marker)
                except StoreError as error:
                    broken.append(Broken(Path(place.label, folder), "split", error))
                else:
                    splits.append(SourceSplit(place, source, stored, name, folder, marker))
    if not splits:
        if broken:
            raise broken[0].error
        raise NotFoundError(
            f"{place.label}: no sealed split{f' of dataset {dataset!r}' if dataset else ''}",
            hint=f"'{command('store ls', store=place.label)}' lists a local store",
        )
    return Listing(tuple(splits), tuple(broken))


def find_marker(place: Place, folder: str) -> Marker | None:
    """The marker of a complete split, sealed before packed, or None; IntegrityError if damaged."""
    for name in (layout.COMMIT_FILE, layout.PACKED_FILE):
        if place.size(join(folder, name)) is not None:
            return read_marker(place, folder, name)
    return None


def read_marker(place: Place, folder: str, name: str) -> Marker:
    """The marker of a split; NotFoundError where there is none, IntegrityError if damaged."""
    path = join(folder, name)
    data, label = place.read(path), f"{place.label}/{path}"
    if name == layout.PACKED_FILE:
        packed = parse_packed(data, label)
        return Marker(name, data, packed.commit, packed.files)
    commit = parse_signed(SplitCommit, data, label)
    for file in commit.files:
        if not _FILE.fullmatch(file):
            raise IntegrityError(f"{label}: bad path {file!r} among its files", hint=REPAIR)
    return Marker(name, data, commit, commit.files)


def _check_origin(
    place: str,
    encoder: SourceFolder[spec.EncoderSpec, spec.EncoderNames],
    dataset: SourceFolder[spec.DatasetSpec, spec.DatasetNames],
    name: str,
    marker: Marker,
) -> None:
    """Refuse, by a MismatchError, a split of another origin than its folders say."""
    check_origin(
        Path(place),
        ("encoder", encoder.spec.encoder_id, marker.commit.encoder_id),
        ("dataset", dataset.spec.dataset_id, marker.commit.dataset_id),
        ("split", name, marker.commit.split),
    )


def _folders(
    place: Place, parent: str, spec_kind: type[Spec], names_kind: type[Names]
) -> Listing[SourceFolder[Spec, Names]]:
    kind: BrokenKind = "dataset"
    prefix, spec_file, limit = layout.DATASET_PREFIX, layout.DATASET_FILE, MAX_BYTES
    if spec_kind is spec.EncoderSpec:
        kind = "encoder"
        prefix, spec_file = layout.ENCODER_PREFIX, layout.ENCODER_FILE
        limit = layout.MAX_ENCODER_BYTES
    folders, broken = [], []
    for name in place.folders(parent):
        if not name.startswith(prefix):
            continue
        path = join(parent, name)
        file, names_file = f"{path}/{spec_file}", f"{path}/{layout.NAMES_FILE}"
        digits = folder_digits(PurePosixPath(name))
        try:
            if not _FOLDER.fullmatch(name):
                message = f"{place.label}: a folder cannot be called {name!r}"
                raise IntegrityError(message, hint=f"rename it, or remove it from {place.label}")
            with reading(Path(place.label, path)):
                data = place.read(file, limit)
                identity = parse_spec(spec_kind, data, f"{place.label}/{file}", digits)
                data = place.read(names_file, layout.MAX_NAMES_BYTES)
                label, full_id = f"{place.label}/{names_file}", digest_json(plain(identity))
                names = parse_names(names_kind, data, label, full_id)
        except StoreError as error:
            broken.append(Broken(Path(place.label, path), kind, error))
        else:
            folders.append(SourceFolder(path, identity, names))
    return Listing(tuple(folders), tuple(broken))
