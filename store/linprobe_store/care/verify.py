"""Verification of a whole store: every unit is looked at, every problem is reported."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linprobe.errors import REPAIR, IntegrityError, StoreError
from linprobe.records import read_bytes
from linprobe_store.arrays.part import find_part, part_path
from linprobe_store.arrays.unit_maps import map_unit
from linprobe_store.care.packed import parse_packed
from linprobe_store.format.commit import PartCommit, UnitContents, check_files, read_commit
from linprobe_store.format.layout import (
    COMMIT_FILE,
    DATASET_PREFIX,
    ENCODER_PREFIX,
    PACKED_FILE,
    PART_PREFIX,
    PARTS_FOLDER,
    SETS_FOLDER,
)
from linprobe_store.handles.dataset import StoredDataset, is_packed_split
from linprobe_store.handles.encoder import StoredEncoder, open_encoder
from linprobe_store.handles.lookup import list_folders
from linprobe_store.handles.store import FeatureStore

UnitKind = Literal["encoder", "part", "dataset", "split"]


@dataclass(frozen=True)
class UnitReport:
    """What was found about one folder of a store."""

    kind: UnitKind
    """What the folder holds."""
    path: Path
    """The folder."""
    rows: int = 0
    """Number of samples; 0 for encoders and datasets."""
    bytes: int = 0
    """Bytes of its files; 0 for encoders and datasets."""
    problem: str | None = None
    """What is wrong with it, or None."""
    is_damaged: bool = False
    """Whether its bytes are not what was committed. Not so for a unit of another version or
    encoder, nor for one that may not be read: those have a problem and are not damaged."""


def verify_store(store: FeatureStore, *, deep: bool) -> Iterator[UnitReport]:
    """Look at every unit of a store.

    Parameters
    ----------
    deep : every byte is read and compared with its checksums; otherwise what opening a unit
        verifies: the commit, the size of every file, all metadata and the shard indexes.
    """
    for folder in list_folders(store.root, ENCODER_PREFIX):
        report = _report("encoder", folder, _check_encoder)
        yield report
        if report.problem is None:
            encoder = open_encoder(folder)
            yield from _verify_parts(encoder, deep=deep)
            yield from _verify_datasets(encoder, deep=deep)


def _check_encoder(folder: Path) -> None:
    encoder = open_encoder(folder)
    encoder.canary()
    encoder.provenance()


def _verify_parts(encoder: StoredEncoder, *, deep: bool) -> Iterator[UnitReport]:
    def check(path: Path) -> UnitContents:
        commit = read_commit(PartCommit, path)
        if part_path(encoder.path, commit.shard) != path:
            raise IntegrityError(f"{path}: holds the part of {commit.shard}", hint=REPAIR)
        find_part(encoder.path, encoder.encoder_id, commit.shard)
        map_unit(path, commit)
        return _check_bytes(path, commit, deep=deep)

    for path in list_folders(encoder.path / PARTS_FOLDER, PART_PREFIX):
        yield _report("part", path, check)


def _verify_datasets(encoder: StoredEncoder, *, deep: bool) -> Iterator[UnitReport]:
    def check(path: Path) -> None:
        encoder.open_dataset(path)

    for folder in list_folders(encoder.path / SETS_FOLDER, DATASET_PREFIX):
        report = _report("dataset", folder, check)
        yield report
        if report.problem is None:
            yield from _verify_splits(encoder.open_dataset(folder), deep=deep)


def _verify_splits(dataset: StoredDataset, *, deep: bool) -> Iterator[UnitReport]:
    def check(path: Path) -> UnitContents:
        if is_packed_split(path):
            marker = path / PACKED_FILE
            packed = parse_packed(read_bytes(marker), str(marker))
            check_files(path, packed.files, "deep" if deep else "open")
            return packed.commit
        split = dataset.split(path.name)
        return _check_bytes(path, split.commit, deep=deep)

    for name in dataset.splits:
        yield _report("split", dataset.path / name, check)


def _check_bytes(path: Path, contents: UnitContents, *, deep: bool) -> UnitContents:
    """Check every byte where ``deep``, and that no file was added."""
    if deep:
        check_files(path, contents.files, "deep")
    on_disk = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
    added = sorted(on_disk - set(contents.files) - {COMMIT_FILE})
    if added:
        raise IntegrityError(
            f"{path / added[0]}: expected no such file, found {len(added)} that were not committed",
            hint="remove what was added; nothing reads it",
        )
    return contents


def _report(kind: UnitKind, path: Path, check: Callable[[Path], UnitContents | None]) -> UnitReport:
    """Run a check and turn its failure into a line of the report."""
    try:
        contents = check(path)
    except StoreError as error:
        is_damaged = isinstance(error, IntegrityError)
        return UnitReport(kind, path, problem=error.message, is_damaged=is_damaged)
    if contents is None:
        return UnitReport(kind, path)
    return UnitReport(kind, path, contents.rows, contents.n_bytes)
