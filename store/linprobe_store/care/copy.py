"""Copying sealed splits between stores, local or behind URLs: verified, resumable, never half.

Files are checked against the sha256 of their commit, and the marker that completes a split comes
last; a local copy is staged, resumed, and renamed once. Parts stay: they serve who extracts.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from posixpath import join
from typing import Literal

from linprobe.disk import Staging, refuse_links, store_errors
from linprobe.errors import REPAIR, IntegrityError, MismatchError, StoreError
from linprobe.names import short_id
from linprobe.terminal import Watch, ignore
from linprobe_store.care.packed import pack_split, unpack_split
from linprobe_store.care.place import Place
from linprobe_store.care.remote_splits import SourceSplit, find_marker, list_splits, read_marker
from linprobe_store.format import layout
from linprobe_store.format.checksums import FileDigest, FileHasher, digest_stream
from linprobe_store.handles.lookup import folder_digits
from linprobe_store.handles.store import FeatureStore, check_format_line
from linprobe_store.handles.witness import merge_provenance

Outcome = Literal["copied", "there already"]
_CHUNK_BYTES = 4 << 20
_CANARY = f"{layout.CANARY_FOLDER}/canary.npz"


@dataclass(frozen=True)
class CopiedSplit:
    """What happened to one split; ids and the digest of its commit are 64 hex digits."""

    encoder_id: str
    dataset_id: str
    split: str
    digest: str
    folder: str
    """Its folder in the source."""
    outcome: Outcome
    bytes: int
    """Bytes moved; 0 where it was there already, and less than its size after a resume."""


def copy_store(
    source: str,
    target: str,
    *,
    encoder: str | None = None,
    dataset: str | None = None,
    pack: bool = False,
    watch: Watch = ignore,
) -> Iterator[CopiedSplit]:
    """Copy the sealed splits of a store; yields each one when it is done.

    Source and target are local folders or fsspec URLs; the target is made if it is not there.
    Encoder and dataset are named by name or id; None means all. ``pack`` compresses for the wire;
    without it, what is packed is unpacked into a local target. What is damaged is told to
    ``watch`` and left out; once the rest is there, it is an IntegrityError. Raises NotFoundError
    for an unknown encoder or dataset, IntegrityError where bytes changed on the way, MismatchError
    for other content under the same ids, StoreError where disk or remote refuses.
    """
    listing = list_splits(Place(source), encoder, dataset)
    listing.tell(watch)
    for split in listing.sound:
        with store_errors(target):
            place = Place(target)
            local = place.local
            moved = _receive(split, local, pack) if local else _send(split, place, pack)
        ids = split.encoder.spec.encoder_id, split.dataset.spec.dataset_id, split.name
        outcome: Outcome = "there already" if moved is None else "copied"
        yield CopiedSplit(*ids, split.marker.commit.digest, split.folder, outcome, moved or 0)
    if listing.broken:
        first, count = listing.broken[0].error, len(listing.broken)
        message = f"{source}: {count} left out that cannot be read, the first: {first.message}"
        raise IntegrityError(message, hint=first.hint)


def _receive(split: SourceSplit, target: Path, pack: bool) -> int | None:
    """Copy a split, and what is beside its encoder; the bytes moved, or None if it was there."""
    encoder = FeatureStore(target).register_encoder(split.encoder.spec, split.encoder.names)
    source, own = split.place, split.encoder.path
    canary, provenance = f"{own}/{_CANARY}", f"{own}/{layout.PROVENANCE_FILE}"
    if encoder.canary() is None and source.size(canary) is not None:
        refuse_links(encoder.path)
        with Staging(encoder.path) as staging:
            (staging.path / Path(_CANARY).name).write_bytes(source.read(canary))
            staging.publish(encoder.path / layout.CANARY_FOLDER)
    if source.size(provenance) is not None:
        merge_provenance(encoder.path, source.read(provenance))
    stored = encoder.register_dataset(split.dataset.spec, split.dataset.names)
    final = stored.path / split.name
    moved = None if final.exists() else _fetch(split, final, pack)
    marker = find_marker(Place(str(final)), "") if pack else None
    digest = marker.commit.digest if marker else stored.split(split.name).digest
    _check_digest(split, digest, str(final))
    return moved


def _fetch(split: SourceSplit, final: Path, pack: bool) -> int:
    refuse_links(*final.parents[:3])  # the dataset, the sets, the encoder
    with _in_form(split, pack) as wanted:
        is_packed = wanted.marker.name == layout.PACKED_FILE
        form = f"copy-{'packed-' if is_packed else ''}{split.name}"
        resume_as = f"{form}-{short_id(split.marker.commit.digest)}.copy"
        with Staging(final.parent, resume_as=resume_as) as fetched:
            moved = _move(wanted, Place(str(fetched.path)), "")
            if is_packed and not pack:
                with Staging(final.parent) as unpacked:
                    unpack_split(fetched.path, unpacked.path)
                    unpacked.publish(final)
            else:
                fetched.publish(final)
            fetched.drop()
    return moved


def _send(split: SourceSplit, target: Place, pack: bool) -> int | None:
    if target.size(layout.FORMAT_FILE) is None:
        target.write(layout.FORMAT_FILE, layout.FORMAT_LINE)
    line = target.read(layout.FORMAT_FILE).decode(errors="replace")
    check_format_line(line, f"{target.label}/{layout.FORMAT_FILE}")
    source, own = split.place, split.encoder.path
    encoder = _same_folder(target, "", own)
    dataset = _same_folder(target, f"{encoder}/{layout.SETS_FOLDER}", split.dataset.path)
    for folder, sent in ((own, encoder), (split.dataset.path, dataset)):
        for file in (layout.ENCODER_FILE, layout.DATASET_FILE, layout.NAMES_FILE, _CANARY):
            name, target_name = f"{folder}/{file}", f"{sent}/{file}"
            if target.size(target_name) is None and source.size(name) is not None:
                target.write(target_name, source.read(name))
    name, target_name = f"{own}/{layout.PROVENANCE_FILE}", f"{encoder}/{layout.PROVENANCE_FILE}"
    known = target.read(target_name).splitlines(keepends=True) if target.size(target_name) else []
    runs = source.read(name).splitlines(keepends=True) if source.size(name) else []
    if new := [run for run in runs if run not in known]:
        target.write(target_name, b"".join([*known, *new]))
    folder = f"{dataset}/{split.name}"
    if marker := find_marker(target, folder):
        _check_digest(split, marker.commit.digest, f"{target.label}/{folder}")
        return None
    with _in_form(split, pack) as wanted:
        return _move(wanted, target, folder)


def _same_folder(target: Place, parent: str, source_folder: str) -> str:
    """Folder of the same id that is there, whatever its slug, or one named as in the source."""
    own = Path(source_folder)
    for name in target.folders(parent):
        if name[0] != "." and folder_digits(Path(name)) == folder_digits(own):
            return join(parent, name)
    return join(parent, own.name)


def _check_digest(split: SourceSplit, digest: str, place: str) -> None:
    expected = split.marker.commit.digest
    if digest != expected:
        raise MismatchError(
            f"{place}: expected digest {expected[:12]} as in the source, found {digest[:12]}",
            hint="the same encoder and dataset were extracted twice; remove one of the two splits",
        )


@contextmanager
def _in_form(split: SourceSplit, pack: bool) -> Iterator[SourceSplit]:
    """The split as it will travel: packed now if it is to be and is not."""
    if not pack or split.marker.name == layout.PACKED_FILE:
        yield split
        return
    if split.place.local is None:
        hint = "copy it to a local store first, or leave out --pack"
        raise StoreError(f"{split.place.label}: only a local store can be packed", hint=hint)
    encoder = FeatureStore(split.place.local).encoder(split.encoder.spec.encoder_id)
    sealed = encoder.dataset(split.dataset.spec.dataset_id).split(split.name)
    with tempfile.TemporaryDirectory(prefix="linprobe-pack-") as folder:
        pack_split(sealed, Path(folder))
        marker = read_marker(Place(folder), "", layout.PACKED_FILE)
        yield replace(split, place=Place(folder), folder="", marker=marker)


def _move(split: SourceSplit, target: Place, folder: str) -> int:
    """Write the files of a split, and then its marker, below a folder; gives the bytes moved."""
    moved = sum(
        _move_file(split.place, join(split.folder, name), target, join(folder, name), digest)
        for name, digest in split.marker.files.items()
    )
    target.write(join(folder, split.marker.name), split.marker.data)
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
    if (digest := hasher.digest()) != expected:
        message = f"{source.label}/{name}: expected {expected}, found {digest}"
        raise IntegrityError(message, hint=REPAIR)
    if (size := target.size(target_name)) != expected.bytes:
        message = f"{target.label}/{target_name}: expected {expected.bytes} bytes, found {size}"
        raise IntegrityError(message, hint="run the copy again")
    return expected.bytes
