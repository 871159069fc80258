"""Copying sealed splits between stores, local or behind URLs: verified, resumable, never half.

To a local store, files are fetched into a staging folder that survives an interruption, checked
against the sha256 of the commit, and renamed once. To a URL, which has no atomic rename,
``COMMIT.json`` is written last. Parts are not copied: they serve the machine that extracts.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from linprobe_store.checksums import (
    REPAIR,
    FileDigest,
    FileHasher,
    check_content,
    digest_stream,
)
from linprobe_store.encoders import StoredEncoder
from linprobe_store.errors import IntegrityError, MismatchError, StoreError
from linprobe_store.layout import (
    CANARY_FOLDER,
    DATASET_FILE,
    ENCODER_FILE,
    FORMAT_FILE,
    FORMAT_NAME,
    FORMAT_VERSION,
    NAMES_FILE,
    PROVENANCE_FILE,
)
from linprobe_store.packing import pack_split, unpack_split
from linprobe_store.places import LocalPlace, Place, is_remote, open_place, read_small
from linprobe_store.provenance import merge_provenance
from linprobe_store.sources import SourceSplit, list_splits
from linprobe_store.splits import Split
from linprobe_store.staging import Staging, told_as_store_error
from linprobe_store.store import FeatureStore

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
                copied = _copy_out(source, split, request)
            else:
                copied = _copy_in(source, split, FeatureStore(request.target))
        yield copied


def _copy_in(source: Place, split: SourceSplit, store: FeatureStore) -> CopiedSplit:
    """Copy a split into a local store, unpacking it where it is packed."""
    encoder = store.register_encoder(split.spec, split.names)
    _copy_beside(source, split, encoder)
    folder = encoder.make_dataset(split.dataset, split.dataset_name)
    final = folder / split.name
    if final.exists():
        _check_same(encoder.open_dataset(folder).split(split.name), split)
        return CopiedSplit(split, "there already", 0)
    resume_as = f"copy-{split.name}-{split.commit.digest[:12]}"
    with Staging(folder, resume_as=resume_as) as fetched:
        moved = sum(
            _fetch(source, f"{split.folder}/{name}", fetched.path / name, digest)
            for name, digest in split.files.items()
        )
        (fetched.path / split.marker).write_bytes(split.marker_bytes)
        if split.is_packed:
            with Staging(folder) as unpacked:
                unpack_split(fetched.path, unpacked.path)
                unpacked.publish(final)
        else:
            fetched.publish(final)
        fetched.drop()
    _check_same(encoder.open_dataset(folder).split(split.name), split)
    return CopiedSplit(split, "copied", moved)


def _check_same(stored: Split, split: SourceSplit) -> None:
    if stored.digest != split.commit.digest:
        raise MismatchError(
            f"{stored.path}: expected digest {split.commit.digest[:12]} as in the source, found "
            f"{stored.digest[:12]}",
            hint="the same encoder and dataset were extracted twice; remove one of the two",
        )


def _copy_beside(source: Place, split: SourceSplit, encoder: StoredEncoder) -> None:
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
        _stream(source, name, out, expected)
    return expected.bytes


def _stream(source: Place, name: str, out: BinaryIO, expected: FileDigest) -> None:
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


def _copy_out(source: Place, split: SourceSplit, request: CopyRequest) -> CopiedSplit:
    """Copy a split to a URL, or packed to a folder; the marker goes last."""
    target = open_place(request.target)
    format_line = f"{FORMAT_NAME} {FORMAT_VERSION}\n".encode()
    _send_bytes(target, FORMAT_FILE, format_line)
    _send_beside(source, split, target)
    if split.is_packed or not request.pack:
        return _send_split(source, split, split.folder, split.files, target)
    if not isinstance(source, LocalPlace):
        raise StoreError(
            f"{source.label}: only a local store can be packed",
            hint="copy it to a local store first, or leave out --pack",
        )
    encoder = FeatureStore(source.root).encoder(split.spec.encoder_id)
    sealed = encoder.dataset(split.dataset.dataset_id).split(split.name)
    with tempfile.TemporaryDirectory(prefix="linprobe-pack-") as folder:
        pack_split(sealed, Path(folder))
        packed = split.packed(Path(folder))
        return _send_split(LocalPlace(Path(folder)), packed, "", packed.files, target)


def _send_beside(source: Place, split: SourceSplit, target: Place) -> None:
    """Send the specs, names, canary and provenance that stand beside a split."""
    for name in (
        f"{split.encoder_folder}/{ENCODER_FILE}",
        f"{split.encoder_folder}/{NAMES_FILE}",
        f"{split.encoder_folder}/{PROVENANCE_FILE}",
        f"{split.encoder_folder}/{CANARY_FOLDER}/canary.npz",
        f"{split.dataset_folder}/{DATASET_FILE}",
        f"{split.dataset_folder}/{NAMES_FILE}",
    ):
        if source.size(name) is not None:
            _send_bytes(target, name, read_small(source, name))


def _send_bytes(target: Place, name: str, data: bytes) -> None:
    if target.size(name) is None or read_small(target, name) != data:
        with target.open_write(name) as stream:
            stream.write(data)


def _send_split(
    source: Place, split: SourceSplit, folder: str, files: Mapping[str, FileDigest], target: Place
) -> CopiedSplit:
    """Send the files of a split, then its marker; what is there already, whole, is not sent."""
    marker = f"{split.folder}/{split.marker}"
    if target.size(marker) is not None:
        if read_small(target, marker) != split.marker_bytes:
            raise MismatchError(
                f"{target.label}/{marker}: is there with other content",
                hint="remove that split from the target first, or name another target",
            )
        return CopiedSplit(split, "there already", 0)
    moved = 0
    for name, digest in files.items():
        moved += _send(source, f"{folder}/{name}", target, f"{split.folder}/{name}", digest)
    with target.open_write(marker) as stream:
        stream.write(split.marker_bytes)
    return CopiedSplit(split, "copied", moved)


def _send(source: Place, name: str, target: Place, target_name: str, expected: FileDigest) -> int:
    """Send a file and check the size that arrived; gives the bytes moved."""
    if target.size(target_name) == expected.bytes:
        with target.open_read(target_name) as stream:
            if digest_stream(stream, strong=True) == expected:
                return 0
    with target.open_write(target_name) as out:
        _stream(source, name.lstrip("/"), out, expected)
    if (found := target.size(target_name)) != expected.bytes:
        raise IntegrityError(
            f"{target.label}/{target_name}: expected {expected.bytes} bytes, found {found}",
            hint="run the copy again",
        )
    return expected.bytes
