"""Removing left-overs of killed writers, damaged units, and what a person asks to remove."""

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from linprobe.disk import STAGING_PREFIX, is_abandoned, remove_unit, store_errors
from linprobe_store.care.verify import verify_store
from linprobe_store.format.layout import DATASET_PREFIX, ENCODER_PREFIX, PARTS_FOLDER, SETS_FOLDER
from linprobe_store.handles.lookup import remove_claim
from linprobe_store.handles.store import FeatureStore

_FOLDERS = ("*", f"*/{PARTS_FOLDER}", f"*/{SETS_FOLDER}", f"*/{SETS_FOLDER}/{DATASET_PREFIX}*")
"""Folders in which units are made: encoders, and below them."""
_CLAIM = re.compile(rf"\.({ENCODER_PREFIX}|{DATASET_PREFIX})[0-9a-f]{{12}}$")
_OURS = re.compile(rf"{STAGING_PREFIX}|\.[A-Za-z.]+\.[0-9a-f]{{12}}$")
"""Staging folders, and the temporary names of small files; nothing else is ever touched."""


@dataclass(frozen=True)
class Leftover:
    """Something that no reader will miss."""

    path: Path
    bytes: int
    why: str


def find_leftovers(
    store: FeatureStore, *, min_age_s: float = 60.0, foreign_age_s: float = 24 * 3600.0
) -> tuple[Leftover, ...]:
    """Staging folders of writers that are gone, temporary files, and links to nothing.

    The ages are seconds without a change, the second for what another host may be writing.
    """
    globs = [store.root.glob(f"{ENCODER_PREFIX}{folder}") for folder in _FOLDERS]
    folders = [folder for folder in (store.root, *chain(*globs)) if folder.is_dir()]
    leftovers = []
    for path in sorted(chain(*(folder.iterdir() for folder in folders))):
        if path.is_symlink() and _CLAIM.match(path.name):
            if not path.exists():
                leftovers.append(Leftover(path, 0, "names a folder that is gone"))
        elif _OURS.match(path.name) and is_abandoned(
            path, min_age_s=min_age_s, foreign_age_s=foreign_age_s
        ):
            leftovers.append(Leftover(path, folder_bytes(path), "its writer is gone"))
    return tuple(leftovers)


def find_damaged(store: FeatureStore, *, deep: bool) -> Iterator[Leftover]:
    """Damaged parts and splits; never an encoder or dataset, nor what another version wrote."""
    for unit in verify_store(store, deep=deep):
        if unit.is_damaged and unit.kind in ("part", "split"):
            yield Leftover(unit.path, folder_bytes(unit.path), unit.problem or "")


def remove_leftovers(leftovers: Iterable[Leftover]) -> None:
    """Remove left-overs and damaged units; StoreError where the operating system refuses."""
    for leftover in leftovers:
        with store_errors(leftover.path):
            if leftover.path.is_symlink() or leftover.path.is_file():
                leftover.path.unlink(missing_ok=True)
            elif leftover.path.name.startswith(STAGING_PREFIX):
                shutil.rmtree(leftover.path, ignore_errors=True)
            else:
                remove_unit(leftover.path)


def remove_folder(path: Path) -> None:
    """Remove an encoder, a dataset, a split or all parts; StoreError where the system refuses."""
    remove_unit(path)
    for prefix in (ENCODER_PREFIX, DATASET_PREFIX):
        if path.name.startswith(prefix):
            remove_claim(path, prefix)


def folder_bytes(path: Path) -> int:
    """Bytes of all files below a folder, or of one file."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(OSError):  # gone meanwhile
            total += 0 if file.is_dir() or file.is_symlink() else file.lstat().st_size
    return total
