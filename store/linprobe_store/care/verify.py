"""Verification of a whole store: every unit is looked at, every problem is reported."""

import os
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
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.lookup import Listing, diagnosed, list_folders, reading
from linprobe_store.handles.store import FeatureStore

UnitKind = Literal["encoder", "witness", "part", "dataset", "split"]


@dataclass(frozen=True)
class UnitReport:
    """What was found about one folder of a store."""

    kind: UnitKind
    """``witness``: the canary or provenance of an encoder, reported where it has a problem."""
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
    """Look at every unit: at all that opening it verifies, and where ``deep`` at every byte.

    One that is removed meanwhile is passed over.
    """
    encoders = store.listing()
    yield from _broken(encoders)
    for encoder in encoders.sound:
        yield UnitReport("encoder", encoder.path)
        yield from _verify_encoder(encoder, deep)
        datasets = encoder.listing()
        yield from _broken(datasets)
        for dataset in datasets.sound:
            yield UnitReport("dataset", dataset.path)
            yield from _verify_dataset(dataset, deep)


def _broken(listing: Listing[StoredEncoder] | Listing[StoredDataset]) -> Iterator[UnitReport]:
    for broken in listing.broken:
        yield UnitReport(
            broken.kind, broken.path, problem=broken.reason, is_damaged=broken.is_damaged
        )


def _verify_encoder(encoder: StoredEncoder, deep: bool) -> Iterator[UnitReport]:
    for check in (encoder.canary, encoder.provenance):
        yield from (unit for unit in _report("witness", encoder.path, check) if unit.problem)
    parts = encoder.path / layout.PARTS_FOLDER
    try:
        paths = list_folders(parts, layout.PART_PREFIX)
    except StoreError as error:
        yield UnitReport("part", parts, problem=error.message)
        return
    for path in paths:
        yield from _report("part", path, partial(_check_part, encoder, deep, path))


def _verify_dataset(dataset: StoredDataset, deep: bool) -> Iterator[UnitReport]:
    try:
        paths = [dataset.path / name for name in dataset.splits]
    except StoreError as error:
        yield UnitReport("split", dataset.path, problem=error.message)
        return
    for path in paths:
        yield from _report("split", path, partial(_check_split, dataset, deep, path))


def _report(kind: UnitKind, path: Path, check: Callable[[], object]) -> Iterator[UnitReport]:
    """Run a check, which gives the contents of a unit that has rows, and report its failure."""
    try:
        with reading(path):
            contents = check()
    except StoreError as error:
        if os.path.lexists(path):  # else removed meanwhile
            cause = diagnosed(path, error)
            is_damaged = isinstance(cause, IntegrityError)
            yield UnitReport(kind, path, problem=cause.message, is_damaged=is_damaged)
        return
    if isinstance(contents, UnitContents):
        yield UnitReport(kind, path, contents.rows, contents.n_bytes)
    else:
        yield UnitReport(kind, path)


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
    dataset.check_commit(path, packed.commit)
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
