"""Copying sealed splits between stores, local or behind URLs: verified, resumable, never half.

To a local store, files are fetched into a staging folder that survives an interruption, checked
against the sha256 of the commit, and renamed once. To a URL, which has no atomic rename,
``COMMIT.json`` is written last. Parts are not copied: they serve the machine that extracts.

Sending a split to a place without an atomic rename: the marker goes last.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from linprobe.disk import Staging, told_as_store_error
from linprobe.errors import REPAIR, IntegrityError, MismatchError, StoreError
from linprobe.records import parse_json
from linprobe_store.care.packed import pack_split, packed_commit, unpack_split
from linprobe_store.care.place import LocalPlace, Place, is_remote, open_place, read_small
from linprobe_store.care.remote_splits import SourceSplit, list_splits
from linprobe_store.format.checksums import FileDigest, FileHasher, check_content, digest_stream
from linprobe_store.format.commit import SplitCommit, check_signature, split_commit_from
from linprobe_store.format.layout import (
    CANARY_FOLDER,
    COMMIT_FILE,
    DATASET_FILE,
    ENCODER_FILE,
    FORMAT_FILE,
    FORMAT_NAME,
    FORMAT_VERSION,
    NAMES_FILE,
    PACKED_FILE,
    PROVENANCE_FILE,
    SETS_FOLDER,
)
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.lookup import folder_digits
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore, check_format_line
from linprobe_store.handles.witness import merge_provenance


@dataclass(frozen=True)
class _Target:
    """Where a split goes; an encoder or dataset that is there keeps its folder name."""

    place: Place
    encoder: str
    dataset: str
    split: str


def send_split(source: Place, split: SourceSplit, target: Place, *, pack: bool) -> int | None:
    """Send a split; gives the bytes moved, or None if it was there.

    Raises
    ------
    IntegrityError : the source is damaged, or a file arrived with another size.
    MismatchError : the target holds other content under the same ids, or another format.
    StoreError : packing from a URL.
    """
    _send_format(target)
    where = _find_target(target, split)
    _send_beside(source, split, where)
    there = _sent_commit(where)
    if there is not None:
        if there.digest != split.commit.digest:
            raise MismatchError(
                f"{target.label}/{where.split}: expected digest {split.commit.digest[:12]} as in "
                f"the source, found {there.digest[:12]}",
                hint="remove that split from the target first, or name another target",
            )
        return None
    if split.is_packed or not pack:
        return _send_files(source, split.folder, split, where)
    if not isinstance(source, LocalPlace):
        raise StoreError(
            f"{source.label}: only a local store can be packed",
            hint="copy it to a local store first, or leave out --pack",
        )
    encoder = FeatureStore(source.root).encoder(split.spec.encoder_id)
    sealed = encoder.dataset(split.dataset.dataset_id).split(split.name)
    with tempfile.TemporaryDirectory(prefix="linprobe-pack-") as folder:
        pack_split(sealed, Path(folder))
        return _send_files(LocalPlace(Path(folder)), "", split.packed(Path(folder)), where)


def stream_file(source: Place, name: str, out: BinaryIO, expected: FileDigest) -> None:
    """Write a file of the source to ``out``, and check that its bytes are those committed."""
    if source.size(name) is None:
        raise IntegrityError(f"{source.label}/{name}: missing", hint=REPAIR)
    hasher = FileHasher(strong=True)
    with source.open_read(name) as stream:
        while data := stream.read(_CHUNK_BYTES):
            hasher.update(data)
            out.write(data)
    if (found := hasher.digest()) != expected:
        raise IntegrityError(
            f"{source.label}/{name}: expected {expected}, found {found}", hint=REPAIR
        )


def _send_format(target: Place) -> None:
    if target.size(FORMAT_FILE) is None:
        _write(target, FORMAT_FILE, f"{FORMAT_NAME} {FORMAT_VERSION}\n".encode())
    line = read_small(target, FORMAT_FILE).decode(errors="replace")
    check_format_line(line, f"{target.label}/{FORMAT_FILE}")


def _find_target(target: Place, split: SourceSplit) -> _Target:
    encoder = _same_folder(target, "", split.encoder_folder)
    dataset = _same_folder(target, f"{encoder}/{SETS_FOLDER}/", split.dataset_folder)
    return _Target(target, encoder, dataset, f"{dataset}/{split.name}")


def _same_folder(target: Place, parent: str, source_folder: str) -> str:
    """Folder of the same id that is there, whatever its slug, or one named as in the source."""
    name = Path(source_folder).name
    for there in target.folders(parent.rstrip("/")):
        if there[0] != "." and folder_digits(Path(there)) == folder_digits(Path(name)):
            return parent + there
    return parent + name


def _send_beside(source: Place, split: SourceSplit, where: _Target) -> None:
    """Send what stands beside a split, where it is missing; provenance is joined line by line."""
    canary = f"{CANARY_FOLDER}/canary.npz"
    names = [(split.encoder_folder, where.encoder, n) for n in (ENCODER_FILE, NAMES_FILE, canary)]
    names += [(split.dataset_folder, where.dataset, n) for n in (DATASET_FILE, NAMES_FILE)]
    for folder, there, name in names:
        is_new = where.place.size(f"{there}/{name}") is None
        if is_new and source.size(f"{folder}/{name}") is not None:
            _write(where.place, f"{there}/{name}", read_small(source, f"{folder}/{name}"))
    ours = _lines(source, f"{split.encoder_folder}/{PROVENANCE_FILE}")
    theirs = _lines(where.place, f"{where.encoder}/{PROVENANCE_FILE}")
    if joined := [line for line in ours if line not in theirs]:
        data = b"".join([*theirs, *joined])
        _write(where.place, f"{where.encoder}/{PROVENANCE_FILE}", data)


def _lines(place: Place, name: str) -> list[bytes]:
    return read_small(place, name).splitlines(keepends=True) if place.size(name) else []


def _write(target: Place, name: str, data: bytes) -> None:
    with target.open_write(name) as stream:
        stream.write(data)


def _sent_commit(where: _Target) -> SplitCommit | None:
    """Commit of the split that is there already, packed or not."""
    for marker in (COMMIT_FILE, PACKED_FILE):
        name = f"{where.split}/{marker}"
        if where.place.size(name) is not None:
            signed = parse_json(read_small(where.place, name), f"{where.place.label}/{name}")
            if marker == PACKED_FILE:
                return packed_commit(signed)
            check_signature(signed, "split")
            return split_commit_from(signed)
    return None


def _send_files(source: Place, folder: str, split: SourceSplit, where: _Target) -> int:
    """Send the files of a split and then its marker; what is there, whole, is not sent again."""
    moved = 0
    for name, digest in split.files.items():
        own = f"{folder}/{name}".lstrip("/")
        moved += _send(source, own, where.place, f"{where.split}/{name}", digest)
    _write(where.place, f"{where.split}/{split.marker}", split.marker_bytes)
    return moved


def _send(source: Place, name: str, target: Place, target_name: str, expected: FileDigest) -> int:
    """Send a file and check the size that arrived; gives the bytes moved."""
    if target.size(target_name) == expected.bytes:
        with target.open_read(target_name) as stream:
            if digest_stream(stream, strong=True) == expected:
                return 0
    with target.open_write(target_name) as out:
        stream_file(source, name, out, expected)
    if (found := target.size(target_name)) != expected.bytes:
        raise IntegrityError(
            f"{target.label}/{target_name}: expected {expected.bytes} bytes, found {found}",
            hint="run the copy again",
        )
    return expected.bytes


_CHUNK_BYTES = 4 << 20

Outcome = Literal["copied", "there already"]


@dataclass(frozen=True)
class CopyRequest:
    """What to copy from where to where."""

    source: str
    """Store: a local folder or an fsspec URL."""
    target: str
    """The same; made if it is not there."""
    encoder: str | None = None
    """Encoder by name or id; None means all."""
    dataset: str | None = None
    """Dataset by name or id; None means all."""
    pack: bool = False
    """Compress for the wire; a packed source is always unpacked into a local target."""


@dataclass(frozen=True)
class CopiedSplit:
    """What happened to one split."""

    source: SourceSplit
    """The split."""
    outcome: Outcome
    """Whether anything had to be done."""
    bytes: int
    """Bytes moved; 0 where it was there already, and less than its size after a resume."""


def copy_store(request: CopyRequest) -> Iterator[CopiedSplit]:
    """Copy every sealed split that the request names; yields each one when it is done.

    Raises
    ------
    NotFoundError : the source has no such encoder or dataset.
    IntegrityError : the source is damaged, or bytes changed on the way.
    MismatchError : the target holds other content under the same ids.
    StoreError : the disk or the remote refuses.
    """
    source = open_place(request.source)
    splits = list_splits(source, request.encoder, request.dataset)
    for split in splits:
        with told_as_store_error(request.target):
            if is_remote(request.target) or request.pack:
                target = open_place(request.target)
                moved = send_split(source, split, target, pack=request.pack)
            else:
                moved = _receive_split(source, split, FeatureStore(request.target))
        yield CopiedSplit(split, "there already" if moved is None else "copied", moved or 0)


def _receive_split(source: Place, split: SourceSplit, store: FeatureStore) -> int | None:
    """Copy a split into a local store, unpacking it; gives the bytes moved, None if it is there."""
    encoder = store.register_encoder(split.spec, split.names)
    _receive_beside(source, split, encoder)
    stored = encoder.register_dataset(split.dataset, split.dataset_names)
    final = stored.path / split.name
    if final.exists():
        _check_same(stored.split(split.name), split)
        return None
    resume_as = f"copy-{split.name}-{split.commit.digest[:12]}"
    with Staging(stored.path, resume_as=resume_as) as fetched:
        moved = sum(
            _fetch(source, f"{split.folder}/{name}", fetched.path / name, digest)
            for name, digest in split.files.items()
        )
        (fetched.path / split.marker).write_bytes(split.marker_bytes)
        if split.is_packed:
            with Staging(stored.path) as unpacked:
                unpack_split(fetched.path, unpacked.path)
                unpacked.publish(final)
        else:
            fetched.publish(final)
        fetched.drop()
    _check_same(stored.split(split.name), split)
    return moved


def _check_same(stored: Split, split: SourceSplit) -> None:
    if stored.digest != split.commit.digest:
        raise MismatchError(
            f"{stored.path}: expected digest {split.commit.digest[:12]} as in the source, found "
            f"{stored.digest[:12]}",
            hint="the same encoder and dataset were extracted twice; remove one of the two",
        )


def _receive_beside(source: Place, split: SourceSplit, encoder: StoredEncoder) -> None:
    """Copy what is recorded beside an encoder: its canary features and its provenance."""
    canary = f"{split.encoder_folder}/{CANARY_FOLDER}/canary.npz"
    if encoder.canary() is None and source.size(canary) is not None:
        with Staging(encoder.path) as staging:
            (staging.path / "canary.npz").write_bytes(read_small(source, canary))
            staging.publish(encoder.path / CANARY_FOLDER)
    provenance = f"{split.encoder_folder}/{PROVENANCE_FILE}"
    if source.size(provenance) is not None:
        merge_provenance(encoder.path, read_small(source, provenance))


def _fetch(source: Place, name: str, path: Path, expected: FileDigest) -> int:
    """Fetch a file unless it is here already, whole; gives the bytes moved."""
    if path.exists():
        try:
            check_content(path, expected, strong=True)
            return 0
        except IntegrityError:
            path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        stream_file(source, name, out, expected)
    return expected.bytes
