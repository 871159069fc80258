"""Verification of a whole store: every unit is looked at, every problem is reported."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from linprobe.errors import REPAIR, IntegrityError, StoreError
from linprobe.records import read_bytes
from linprobe_store.arrays.part import find_part, part_path
from linprobe_store.arrays.unit_maps import UnitArrays, map_unit
from linprobe_store.care.packed import parse_packed
from linprobe_store.format import layout
from linprobe_store.format.commit import PartCommit, UnitContents, check_files, read_commit
from linprobe_store.handles.dataset import StoredDataset, is_packed_split
from linprobe_store.handles.encoder import StoredEncoder, open_encoder
from linprobe_store.handles.lookup import list_folders
from linprobe_store.handles.store import FeatureStore

UnitKind = Literal["encoder", "part", "dataset", "split"]


@dataclass(frozen=True)
class UnitReport:
    """What was found about one folder of a store."""

    kind: UnitKind
    path: Path
    rows: int = 0
    """Number of samples; 0 for encoders and datasets."""
    bytes: int = 0
    """Bytes of its files; 0 for encoders and datasets."""
    problem: str | None = None
    is_damaged: bool = False
    """Whether its bytes are not what was committed. Not so for a unit of another version or
    encoder, nor for one that may not be read: those have a problem and are not damaged."""


def verify_store(store: FeatureStore, *, deep: bool) -> Iterator[UnitReport]:
    """Look at every unit: at all that opening it verifies, and where ``deep`` at every byte."""
    for folder in list_folders(store.root, layout.ENCODER_PREFIX):
        report = _report("encoder", folder, _check_encoder)
        yield report
        if report.problem is None:
            encoder = open_encoder(folder)
            for path in list_folders(encoder.path / layout.PARTS_FOLDER, layout.PART_PREFIX):
                yield _report("part", path, partial(_check_part, encoder, deep))
            for path in list_folders(encoder.path / layout.SETS_FOLDER, layout.DATASET_PREFIX):
                report = _report("dataset", path, encoder.open_dataset)
                yield report
                if report.problem is None:
                    dataset = encoder.open_dataset(path)
                    check = partial(_check_split, dataset, deep)
                    yield from (_report("split", path / name, check) for name in dataset.splits)


def _report(kind: UnitKind, path: Path, check: Callable[[Path], object]) -> UnitReport:
    """Run a check, which gives the contents of a unit that has rows, and report its failure."""
    try:
        contents = check(path)
    except StoreError as error:
        is_damaged = isinstance(error, IntegrityError)
        return UnitReport(kind, path, problem=error.message, is_damaged=is_damaged)
    if isinstance(contents, UnitContents):
        return UnitReport(kind, path, contents.rows, contents.n_bytes)
    return UnitReport(kind, path)


def _check_encoder(folder: Path) -> None:
    encoder = open_encoder(folder)
    encoder.canary()
    encoder.provenance()


def _check_part(encoder: StoredEncoder, deep: bool, path: Path) -> UnitContents:
    commit = read_commit(PartCommit, path)
    if part_path(encoder.path, commit.shard) != path:
        raise IntegrityError(f"{path}: holds the part of {commit.shard}", hint=REPAIR)
    find_part(encoder.path, encoder.spec, commit.shard)
    arrays = map_unit(path, commit)
    return _check_bytes(path, commit, arrays, None, deep)


def _check_split(dataset: StoredDataset, deep: bool, path: Path) -> UnitContents:
    if not is_packed_split(path):
        split = dataset.split(path.name)
        return _check_bytes(path, split.commit, split.arrays, len(split.classes), deep)
    packed = parse_packed(read_bytes(path / layout.PACKED_FILE), str(path / layout.PACKED_FILE))
    check_files(path, packed.files, "deep" if deep else "open")
    return packed.commit


def _check_bytes(
    path: Path, contents: UnitContents, arrays: UnitArrays, n_classes: int | None, deep: bool
) -> UnitContents:
    if deep:
        check_files(path, contents.files, "deep")
        arrays.check_rows(n_classes)
    on_disk = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
    if added := sorted(on_disk - set(contents.files) - {layout.COMMIT_FILE}):
        raise IntegrityError(
            f"{path / added[0]}: expected no such file, found {len(added)} that were not committed",
            hint="remove what was added; nothing reads it",
        )
    return contents
