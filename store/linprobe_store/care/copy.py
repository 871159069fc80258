"""Copying sealed splits between stores, local or behind URLs: verified, resumable, never half.

Both ways the files of a split are moved first, each checked against the sha256 of its commit, and
the marker that says that the split is complete is written last. A split for a local store is
moved into a staging folder that survives an interruption, and renamed once. Parts are not copied:
they serve the machine that extracts.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linprobe.disk import Staging, told_as_store_error
from linprobe.errors import REPAIR, IntegrityError, MismatchError, StoreError
from linprobe_store.care.packed import pack_split, unpack_split
from linprobe_store.care.place import Place
from linprobe_store.care.remote_splits import SourceSplit, find_marker, list_splits
from linprobe_store.format.checksums import FileDigest, FileHasher, digest_stream
from linprobe_store.format.layout import (
    CANARY_FOLDER,
    DATASET_FILE,
    ENCODER_FILE,
    FORMAT_FILE,
    FORMAT_LINE,
    NAMES_FILE,
    PROVENANCE_FILE,
    SETS_FOLDER,
)
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.lookup import folder_digits
from linprobe_store.handles.store import FeatureStore, check_format_line
from linprobe_store.handles.witness import merge_provenance

_CHUNK_BYTES = 4 << 20
_CANARY = f"{CANARY_FOLDER}/canary.npz"

Outcome = Literal["copied", "there already"]


@dataclass(frozen=True)
class CopiedSplit:
    """What happened to one split."""

    encoder_id: str
    """Encoder, 64 hex digits."""
    dataset_id: str
    """Dataset, 64 hex digits."""
    split: str
    """``train``, ``val`` or ``test``."""
    digest: str
    """Sha256 of its commit, 64 hex digits."""
    folder: str
    """Its folder in the source."""
    outcome: Outcome
    """Whether anything had to be done."""
    bytes: int
    """Bytes moved; 0 where it was there already, and less than its size after a resume."""


def copy_store(
    source: str,
    target: str,
    *,
    encoder: str | None = None,
    dataset: str | None = None,
    pack: bool = False,
) -> Iterator[CopiedSplit]:
    """Copy the sealed splits of a store; yields each one when it is done.

    Parameters
    ----------
    source, target : local folders or fsspec URLs; the target is made if it is not there.
    encoder, dataset : by name or id; None means all.
    pack : compress for the wire. Without it, what is packed is unpacked into a local target.

    Raises
    ------
    NotFoundError : the source has no such encoder or dataset.
    IntegrityError : the source is damaged, or bytes changed on the way.
    MismatchError : the target holds other content under the same ids.
    StoreError : the disk or the remote refuses.
    """
    for split in list_splits(Place(source), encoder, dataset):
        with told_as_store_error(target):
            place = Place(target)
            if place.local is None:
                moved = _send(split, place, pack=pack)
            else:
                moved = _receive(split, FeatureStore(place.local), pack=pack)
        yield CopiedSplit(
            encoder_id=split.encoder.spec.encoder_id,
            dataset_id=split.dataset.spec.dataset_id,
            split=split.name,
            digest=split.marker.commit.digest,
            folder=split.folder,
            outcome="there already" if moved is None else "copied",
            bytes=moved or 0,
        )


def _receive(split: SourceSplit, store: FeatureStore, *, pack: bool) -> int | None:
    """Copy a split into a local store; gives the bytes moved, or None if it was there."""
    encoder = store.register_encoder(split.encoder.spec, split.encoder.names)
    _receive_beside(split, encoder)
    stored = encoder.register_dataset(split.dataset.spec, split.dataset.names)
    final = stored.path / split.name
    moved = None if final.exists() else _fetch(split, final, pack=pack)
    marker = find_marker(Place(str(final)), "") if pack else None
    digest = marker.commit.digest if marker else stored.split(split.name).digest
    _check_digest(split, digest, str(final))
    return moved


def _fetch(split: SourceSplit, final: Path, *, pack: bool) -> int:
    """Fetch a split into a staging folder, unpack it if need be, and rename it."""
    with _in_form(split, pack=pack) as wanted:
        form = "packed-" if wanted.marker.is_packed else ""
        resume_as = f"copy-{form}{split.name}-{split.marker.commit.digest[:12]}"
        with Staging(final.parent, resume_as=resume_as) as fetched:
            moved = _move(wanted, Place(str(fetched.path)), "")
            if wanted.marker.is_packed and not pack:
                with Staging(final.parent) as unpacked:
                    unpack_split(fetched.path, unpacked.path)
                    unpacked.publish(final)
            else:
                fetched.publish(final)
            fetched.drop()
    return moved


def _send(split: SourceSplit, target: Place, *, pack: bool) -> int | None:
    """Copy a split to a URL; gives the bytes moved, or None if it was there."""
    if target.size(FORMAT_FILE) is None:
        target.write(FORMAT_FILE, FORMAT_LINE)
    line = target.read(FORMAT_FILE).decode(errors="replace")
    check_format_line(line, f"{target.label}/{FORMAT_FILE}")
    encoder = _same_folder(target, "", split.encoder.path)
    dataset = _same_folder(target, f"{encoder}/{SETS_FOLDER}", split.dataset.path)
    _send_beside(split, target, encoder, dataset)
    folder = f"{dataset}/{split.name}"
    if marker := find_marker(target, folder):
        _check_digest(split, marker.commit.digest, f"{target.label}/{folder}")
        return None
    with _in_form(split, pack=pack) as wanted:
        return _move(wanted, target, folder)


@contextmanager
def _in_form(split: SourceSplit, *, pack: bool) -> Iterator[SourceSplit]:
    """The split as it will travel: packed now if it is to be and is not."""
    if not pack or split.marker.is_packed:
        yield split
        return
    if split.place.local is None:
        raise StoreError(
            f"{split.place.label}: only a local store can be packed",
            hint="copy it to a local store first, or leave out --pack",
        )
    encoder = FeatureStore(split.place.local).encoder(split.encoder.spec.encoder_id)
    sealed = encoder.dataset(split.dataset.spec.dataset_id).split(split.name)
    with tempfile.TemporaryDirectory(prefix="linprobe-pack-") as folder:
        pack_split(sealed, Path(folder))
        yield split.packed_in(Path(folder))


def _move(split: SourceSplit, target: Place, folder: str) -> int:
    """Write the files of a split, and then its marker, below a folder; gives the bytes moved."""
    moved = 0
    for name, digest in split.marker.files.items():
        own, its = _join(split.folder, name), _join(folder, name)
        moved += _move_file(split.place, own, target, its, digest)
    target.write(_join(folder, split.marker.name), split.marker.data)
    return moved


def _move_file(
    source: Place, name: str, target: Place, target_name: str, expected: FileDigest
) -> int:
    """Move a file unless it is there, whole; checks its bytes; gives how many were moved."""
    if target.size(target_name) == expected.bytes:
        with target.open_read(target_name) as stream:
            if digest_stream(stream, strong=True) == expected:
                return 0
    if source.size(name) is None:
        raise IntegrityError(f"{source.label}/{name}: missing", hint=REPAIR)
    hasher = FileHasher(strong=True)
    with source.open_read(name) as stream, target.open_write(target_name) as out:
        while data := stream.read(_CHUNK_BYTES):
            hasher.update(data)
            out.write(data)
    digest = hasher.digest()
    if digest != expected:
        raise IntegrityError(
            f"{source.label}/{name}: expected {expected}, found {digest}", hint=REPAIR
        )
    if (size := target.size(target_name)) != expected.bytes:
        raise IntegrityError(
            f"{target.label}/{target_name}: expected {expected.bytes} bytes, found {size}",
            hint="run the copy again",
        )
    return expected.bytes


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}".lstrip("/")


def _check_digest(split: SourceSplit, digest: str, place: str) -> None:
    expected = split.marker.commit.digest
    if digest != expected:
        raise MismatchError(
            f"{place}: expected digest {expected[:12]} as in the source, found {digest[:12]}",
            hint="the same encoder and dataset were extracted twice; remove one of the two splits",
        )


def _same_folder(target: Place, parent: str, source_folder: str) -> str:
    """Folder of the same id that is there, whatever its slug, or one named as in the source."""
    own = Path(source_folder).name
    for name in target.folders(parent):
        if name[0] != "." and folder_digits(Path(name)) == folder_digits(Path(own)):
            return _join(parent, name)
    return _join(parent, own)


def _receive_beside(split: SourceSplit, encoder: StoredEncoder) -> None:
    """Copy what is recorded beside an encoder: its canary features and its provenance."""
    canary = f"{split.encoder.path}/{_CANARY}"
    if encoder.canary() is None and split.place.size(canary) is not None:
        with Staging(encoder.path) as staging:
            (staging.path / "canary.npz").write_bytes(split.place.read(canary))
            staging.publish(encoder.path / CANARY_FOLDER)
    provenance = f"{split.encoder.path}/{PROVENANCE_FILE}"
    if split.place.size(provenance) is not None:
        merge_provenance(encoder.path, split.place.read(provenance))


def _send_beside(split: SourceSplit, target: Place, encoder: str, dataset: str) -> None:
    """Send what stands beside a split, where it is missing; provenance is joined line by line."""
    own = split.encoder.path
    pairs = [(f"{own}/{n}", f"{encoder}/{n}") for n in (ENCODER_FILE, NAMES_FILE, _CANARY)]
    pairs += [(f"{split.dataset.path}/{n}", f"{dataset}/{n}") for n in (DATASET_FILE, NAMES_FILE)]
    for name, target_name in pairs:
        if target.size(target_name) is None and split.place.size(name) is not None:
            target.write(target_name, split.place.read(name))
    name, target_name = f"{own}/{PROVENANCE_FILE}", f"{encoder}/{PROVENANCE_FILE}"
    runs, sent = (
        place.read(file).splitlines(keepends=True) if place.size(file) else []
        for place, file in ((split.place, name), (target, target_name))
    )
    if new := [line for line in runs if line not in sent]:
        target.write(target_name, b"".join([*sent, *new]))
