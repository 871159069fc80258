"""Parts: the features of one source tar, immutable, keyed by the tar's fingerprint."""

import os
from collections.abc import Sequence
from pathlib import Path

from linprobe.disk import Staging, make_folders, refuse_links, store_errors
from linprobe.errors import MismatchError, StoreError, unreadable
from linprobe.records import digest_json, plain
from linprobe_store.arrays.unit_writer import UnitWriter
from linprobe_store.format.commit import PartCommit, check_files, check_origin, read_commit, sign
from linprobe_store.format.layout import COMMIT_FILE, PART_PREFIX, PARTS_FOLDER, folder_named
from linprobe_store.format.spec import EncoderSpec, FeatureBlock, ShardFingerprint, SkippedSample


def part_name(shard: ShardFingerprint) -> str:
    """Name of the folder of a source tar's part: a function of its fingerprint alone."""
    return folder_named(PART_PREFIX, shard.name, digest_json(plain(shard)))


def part_path(encoder_path: Path, shard: ShardFingerprint) -> Path:
    """Folder of the part of a source tar."""
    return encoder_path / PARTS_FOLDER / part_name(shard)


def part_names(encoder_path: Path) -> frozenset[str]:
    """Names of the folders of all parts, by one listing: a folder of that name is a commit.

    Raises a StoreError where they cannot be listed.
    """
    folder = encoder_path / PARTS_FOLDER
    try:
        with os.scandir(folder) as entries:
            return frozenset(e.name for e in entries if e.name.startswith(PART_PREFIX))
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise unreadable(folder, error) from error


def find_part(encoder_path: Path, spec: EncoderSpec, shard: ShardFingerprint) -> PartCommit | None:
    """Commit of a part; see ``StoredEncoder.committed_part``."""
    path = part_path(encoder_path, shard)
    if not path.exists():
        return None
    commit = read_part(path, spec, shard)
    check_files(path, commit.files, "open")
    return commit


def read_part(path: Path, spec: EncoderSpec, shard: ShardFingerprint) -> PartCommit:
    """Commit of the part of a tar in a folder, whose files were not looked at.

    Raises an IntegrityError where it is damaged, a MismatchError where it is another one's.
    """
    commit = read_commit(PartCommit, path)
    check_origin(
        path,
        ("encoder", spec.encoder_id, commit.encoder_id),
        ("source", shard, commit.shard),
        ("taps", spec.taps, commit.taps),
        ("dtype", spec.storage_dtype, commit.dtype),
    )
    return commit


class PartWriter:
    """Writer of one part; a context manager that keeps nothing unless :meth:`commit` is called.

    Rows stream to disk as they come; memory holds one block and the keys of one tar. Every block
    must have the taps, dims and storage dtype of ``spec``.
    """

    def __init__(self, encoder_path: Path, spec: EncoderSpec, shard: ShardFingerprint) -> None:
        self.shard = shard
        self._encoder_path = encoder_path
        self._spec = spec
        self._keys: set[str] = set()
        refuse_links(encoder_path, encoder_path / PARTS_FOLDER)
        make_folders(encoder_path / PARTS_FOLDER, below=encoder_path)
        self._staging = Staging(encoder_path / PARTS_FOLDER)
        self._unit = UnitWriter(self._staging.path, spec, shard.name, strong=False)

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._unit.abandon()
        self._staging.discard()

    @property
    def rows(self) -> int:
        """Rows appended so far."""
        return self._unit.rows

    def append(self, block: FeatureBlock) -> None:
        """Check consecutive rows of the tar and write them.

        Raises a MismatchError for other taps, dims, dtype, lengths or labels, and a StoreError
        for NaN, infinity, an all-zero row, a key that comes twice, or where the disk refuses.
        """
        for key in block.keys:
            if key in self._keys:
                message = f"{self.shard.name}: the key {key!r} comes twice"
                raise StoreError(message, hint="pack the shard again with one key per sample")
            self._keys.add(key)
        with store_errors(self._staging.path):
            self._unit.append(block)

    def commit(
        self, *, skipped: Sequence[SkippedSample], batch_size: int, planned: int, labelling: str
    ) -> PartCommit:
        """Make the part visible, whole and durable; gives the commit of whichever writer was first.

        The tar has ``planned`` samples: rows + ``skipped``, or a MismatchError; a StoreError where
        the disk refuses. ``batch_size`` (images per forward pass) is for the record; ``labelling``
        says how labels were read, such as ``cls``: parts of one split must agree.
        """
        if self.rows + len(skipped) != planned:
            raise MismatchError(
                f"{self.shard.name}: expected {planned} samples, found {self.rows} rows and "
                f"{len(skipped)} skipped",
                hint="the tar changed while it was read, or is cut: fetch it again",
            )
        with store_errors(self._staging.path):
            contents = self._unit.close({"kind": "part", "encoder_id": self._spec.encoder_id})
            own = {"shard": self.shard, "skipped": skipped}
            run = {"batch_size": batch_size, "labelling": labelling}
            (self._staging.path / COMMIT_FILE).write_bytes(sign("part", contents, own, run))
        final = part_path(self._encoder_path, self.shard)
        self._staging.publish(final)
        self._staging.discard()
        return read_commit(PartCommit, final)
