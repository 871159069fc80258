"""Copying sealed splits between stores, local or behind URLs: verified, resumable, never half.

Files are checked against the sha256 of their commit, and the marker that completes a split comes
last; a local copy is staged, resumed, and renamed once. Parts stay: they serve who extracts.
"""

import math
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from posixpath import join
from typing import Literal

from linprobe.disk import (
    STAGING_PREFIX,
    Staging,
    check_space,
    refuse_links,
    remove_unit,
    store_errors,
)
from linprobe.errors import REPAIR, IntegrityError, MismatchError, StoreError
from linprobe.names import short_id
from linprobe.terminal import Progress, Watch, ignore
from linprobe_store.arrays.unit_maps import map_unit
from linprobe_store.care import beside
from linprobe_store.care.moving import move_split
from linprobe_store.care.packed import pack_split, packed_files, read_metadata, unpack_split
from linprobe_store.care.place import Place
from linprobe_store.care.remote_splits import SourceSplit, find_marker, list_splits
from linprobe_store.care.remove import find_leftovers, remove_leftovers
from linprobe_store.format import layout
from linprobe_store.handles.dataset import StoredDataset
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

Outcome = Literal["copied", "there already"]


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
    without it, what is packed is unpacked into a local target. What is damaged at the target is
    copied again; what is damaged in the source is left out and, once the rest is there, an
    IntegrityError; ``watch`` is told of both. Raises NotFoundError for an unknown encoder or
    dataset, MismatchError for other content under the same ids, StoreError where disk or remote
    refuses.
    """
    listing = list_splits(Place(source), encoder, dataset)
    listing.tell(watch)
    place = Place(target)
    with store_errors(target):
        beside.complete_format(place)
        if place.local is not None and place.local.exists():
            left = find_leftovers(FeatureStore(place.local), min_age_s=10.0, foreign_age_s=math.inf)
            remove_leftovers(left)  # of killed runs of this host; younger ones may be running
    failures = [broken.error for broken in listing.broken]
    for split in listing.sound:
        try:
            with store_errors(target):
                if place.local is None:
                    moved = _send(split, place, pack, watch)
                else:
                    moved = _receive(split, place, place.local, pack, watch)
        except IntegrityError as damage:
            watch(Progress(0, None, "splits", line=f"left out: {damage.message}; {damage.hint}"))
            failures.append(damage)
            continue
        ids = split.encoder.spec.encoder_id, split.dataset.spec.dataset_id, split.name
        outcome: Outcome = "there already" if moved is None else "copied"
        yield CopiedSplit(*ids, split.marker.commit.digest, split.folder, outcome, moved or 0)
    if failures:
        first, count = failures[0], len(failures)
        message = f"{source}: {count} left out that cannot be read, the first: {first.message}"
        raise IntegrityError(message, hint=first.hint)


def _receive(
    split: SourceSplit, place: Place, target: Path, pack: bool, watch: Watch
) -> int | None:
    """Copy a split, and what is beside its encoder; the bytes moved, or None if it was there."""
    beside.complete_folder(place, "", split.encoder, watch)
    encoder = FeatureStore(target).register_encoder(split.encoder.spec, split.encoder.names)
    beside.complete_local_witness(encoder, split, watch)
    sets = f"{encoder.path.name}/{layout.SETS_FOLDER}"
    beside.complete_folder(place, sets, split.dataset, watch)
    dataset = encoder.register_dataset(split.dataset.spec, split.dataset.names)
    final = dataset.path / split.name
    staging = f"copy-{split.name}-{short_id(split.marker.commit.digest)}.copy"
    is_damaged = False
    try:
        is_there = os.path.lexists(final) and _check_local(split, dataset, pack)
    except IntegrityError as damage:
        beside.tell_damage(watch, damage.message)
        is_there, is_damaged = False, True
    if not is_there:
        return _fetch(split, dataset, staging, pack, is_damaged)
    if (final.parent / f"{STAGING_PREFIX}{staging}").is_dir():  # of one killed at its very end
        with suppress(StoreError), Staging(final.parent, resume_as=staging) as left:
            left.drop()
    return None


def _check_local(split: SourceSplit, dataset: StoredDataset, pack: bool) -> bool:
    """Whether the split is whole in the target; MismatchError: another one is."""
    path = dataset.path / split.name
    is_complete = _check_marker(split, Place(str(path)), "")
    if not (pack and is_complete):
        dataset.split(split.name)
    return True


def _check_marker(split: SourceSplit, place: Place, folder: str) -> bool:
    """Whether a folder of the target is complete, with all files of their sizes.

    IntegrityError: damaged; MismatchError: of another content.
    """
    marker = find_marker(place, folder)
    if marker is None:
        return False
    expected, digest = split.marker.commit.digest, marker.commit.digest
    if digest != expected:
        raise MismatchError(
            f"{join(place.label, folder)}: expected digest {expected[:12]} as in the source, "
            f"found {digest[:12]}",
            hint="the same encoder and dataset were extracted twice; remove one of the two splits",
        )
    for name, file in marker.files.items():
        if (size := place.size(join(folder, name))) != file.bytes:
            path = join(place.label, folder, name)
            message = f"{path}: expected {file.bytes} bytes, found {size or 'none'}"
            raise IntegrityError(message, hint=REPAIR)
    return True


def _fetch(
    split: SourceSplit, dataset: StoredDataset, staging: str, pack: bool, is_damaged: bool
) -> int:
    """Copy a split into a folder that an interrupted copy is resumed in, and show it.

    Where ``is_damaged``, it takes the place of what stands there.
    """
    final = dataset.path / split.name
    is_packed = split.marker.name == layout.PACKED_FILE
    refuse_links(*final.parents[:3])  # the dataset, the sets, the encoder
    with Staging(final.parent, resume_as=staging) as fetched:
        folder = Place(str(fetched.path))
        if pack and not is_packed:
            sealed = _open_sealed(split)
            _clear(fetched.path, {*packed_files(read_metadata(sealed)), layout.PACKED_FILE})
            moved = pack_split(sealed, folder, "")
        else:
            _clear(fetched.path, {*split.marker.files, split.marker.name})
            _check_space(split, fetched.path)
            moved = move_split(split, folder, "")
        if is_packed and not pack:
            check_space(final, split.marker.commit.n_bytes)
            with Staging(fetched.path) as unpacked:
                unpack_split(fetched.path, unpacked.path)
                _publish(unpacked, final, split, is_damaged)
        else:
            _publish(fetched, final, split, is_damaged)
        fetched.drop()
    _check_local(split, dataset, pack)
    return moved


def _publish(staging: Staging, final: Path, split: SourceSplit, is_damaged: bool) -> None:
    """Show a split, in place of a damaged one; what could not be mapped is not shown."""
    if (staging.path / layout.COMMIT_FILE).exists():
        map_unit(staging.path, split.marker.commit)
    if is_damaged:
        remove_unit(final)
    staging.publish(final)


def _clear(folder: Path, names: Collection[str]) -> None:
    """Remove what a killed copy left there and is not wanted, and links, without following them."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in (*files, *folders)):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):  # only those that are empty now
                    path.rmdir()
                continue
            is_wanted = path.relative_to(folder).as_posix() in names
            if not is_wanted or path.is_symlink() or not path.is_file():
                path.unlink()


def _check_space(split: SourceSplit, folder: Path) -> None:
    """Refuse, by a StoreError, files for which there is no room beside those that are there."""
    sizes = {folder / name: digest.bytes for name, digest in split.marker.files.items()}
    lacking = (size for path, size in sizes.items() if not path.exists())
    check_space(folder, sum(lacking))


def _send(split: SourceSplit, target: Place, pack: bool, watch: Watch) -> int | None:
    encoder = beside.complete_folder(target, "", split.encoder, watch) or split.encoder.path
    beside.complete_witness(target, encoder, split, watch)
    sets = f"{encoder}/{layout.SETS_FOLDER}"
    dataset = beside.complete_folder(target, sets, split.dataset, watch) or split.dataset.path
    folder = f"{dataset}/{split.name}"
    try:
        if _check_marker(split, target, folder):
            return None
    except IntegrityError as damage:
        beside.tell_damage(watch, damage.message)
        for name in (layout.COMMIT_FILE, layout.PACKED_FILE):
            if target.size(join(folder, name)) is not None:
                target.remove(join(folder, name))
    if pack and split.marker.name != layout.PACKED_FILE:
        return pack_split(_open_sealed(split), target, folder)
    return move_split(split, target, folder)


def _open_sealed(split: SourceSplit) -> Split:
    """The split, to be packed; a StoreError where it is not of this machine."""
    if split.place.local is None:
        hint = "copy it to a local store first, or leave out --pack"
        raise StoreError(f"{split.place.label}: only a local store can be packed", hint=hint)
    encoder = FeatureStore(split.place.local).encoder(split.encoder.spec.encoder_id)
    return encoder.dataset(split.dataset.spec.dataset_id).split(split.name)
