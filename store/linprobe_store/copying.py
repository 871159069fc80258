"""Copying sealed splits between stores, local or behind URLs: verified, resumable, never half.

To a local store, files are fetched into a staging folder that survives an interruption, checked
against the sha256 of the commit, and renamed once. To a URL, which has no atomic rename,
``COMMIT.json`` is written last. Parts are not copied: they serve the machine that extracts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linprobe_store.checksums import (
    FileDigest,
    check_content,
)
from linprobe_store.encoders import StoredEncoder
from linprobe_store.errors import IntegrityError, MismatchError
from linprobe_store.layout import (
    CANARY_FOLDER,
    PROVENANCE_FILE,
)
from linprobe_store.packing import unpack_split
from linprobe_store.places import Place, is_remote, open_place, read_small
from linprobe_store.provenance import merge_provenance
from linprobe_store.sending import send_split, stream_file
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
                target = open_place(request.target)
                moved = send_split(source, split, target, pack=request.pack)
            else:
                moved = _receive_split(source, split, FeatureStore(request.target))
        yield CopiedSplit(split, "there already" if moved is None else "copied", moved or 0)


def _receive_split(source: Place, split: SourceSplit, store: FeatureStore) -> int | None:
    """Copy a split into a local store, unpacking it; gives the bytes moved, None if it is there."""
    encoder = store.register_encoder(split.spec, split.names)
    _receive_beside(source, split, encoder)
    folder = encoder.make_dataset(split.dataset, split.dataset_name)
    final = folder / split.name
    if final.exists():
        _check_same(encoder.open_dataset(folder).split(split.name), split)
        return None
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
