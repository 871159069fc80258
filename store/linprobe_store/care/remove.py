"""Removing left-overs of killed writers, damaged units, and what a person asks to remove.

Nothing here follows a link: what it leads to may lie outside the store.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from linprobe.disk import (
    STAGING_PREFIX,
    Staging,
    is_abandoned,
    refuse_links,
    remove_unit,
    store_errors,
)
from linprobe.errors import StoreError
from linprobe.leases import LEASES_FOLDER, is_left
from linprobe.names import short_id
from linprobe.terminal import Progress, Watch, ignore
from linprobe_store.arrays.part import part_name
from linprobe_store.care.verify import verify_store
from linprobe_store.format.commit import check_files
from linprobe_store.format.layout import DATASET_PREFIX, ENCODER_PREFIX, PARTS_FOLDER, SETS_FOLDER
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.folders import remove_claim
from linprobe_store.handles.lookup import list_folders, reading
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

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
    store: FeatureStore,
    *,
    min_age_s: float = 60.0,
    foreign_age_s: float = 24 * 3600.0,
    watch: Watch = ignore,
) -> tuple[Leftover, ...]:
    """Staging folders of writers that are gone, temporary files, and links to nothing.

    The ages are seconds without a change, the second for what another host may be writing.
    ``watch`` sees a line for each folder that is a link or cannot be listed, and is passed over.
    """
    leftovers = []
    for path in _entries(store.root, watch):
        if path.is_symlink():
            if _CLAIM.match(path.name) and not path.exists():
                leftovers.append(Leftover(path, 0, "names a folder that is gone"))
        elif path.parent.name == LEASES_FOLDER:
            ages = {"min_age_s": min_age_s, "foreign_age_s": foreign_age_s}
            if is_left(path) or is_abandoned(path, **ages):
                leftovers.append(Leftover(path, folder_bytes(path), "its holder is gone"))
        elif _OURS.match(path.name):
            with suppress(OSError):  # gone meanwhile: its writer is not
                if is_abandoned(path, min_age_s=min_age_s, foreign_age_s=foreign_age_s):
                    leftovers.append(Leftover(path, folder_bytes(path), "its writer is gone"))
    return tuple(leftovers)


def _entries(root: Path, watch: Watch) -> Iterator[Path]:
    """What lies in the folders in which units are made: the store, and below its encoders."""

    def below(folder: Path) -> tuple[Path, ...]:
        try:
            with reading(folder):
                if folder != root:
                    refuse_links(folder)
                return list_folders(folder)
        except StoreError as error:
            if os.path.lexists(folder):  # else removed meanwhile
                watch(Progress(0, None, "folders", line=f"passed over: {error}; {error.hint}"))
            return ()

    def named(paths: Iterable[Path], prefix: str) -> Iterator[Path]:
        return (path for path in paths if path.name.startswith(prefix))

    in_root = below(root)
    yield from in_root
    for encoder in named(in_root, ENCODER_PREFIX):
        yield from below(encoder)
        yield from below(encoder / PARTS_FOLDER)
        yield from below(encoder / LEASES_FOLDER)
        in_sets = below(encoder / SETS_FOLDER)
        yield from in_sets
        for dataset in named(in_sets, DATASET_PREFIX):
            yield from below(dataset)


def find_damaged(store: FeatureStore, *, deep: bool, watch: Watch = ignore) -> Iterator[Leftover]:
    """Damaged parts and splits; encoders and datasets whose spec or names cannot be read.

    Never what another version wrote, nor what a link leads to: ``watch`` sees a line for that.
    """
    for unit in verify_store(store, deep=deep):
        if unit.is_damaged and unit.kind != "witness":
            try:
                _refuse_links(store, unit.path)
            except StoreError as error:
                watch(Progress(0, None, "units", line=f"passed over: {error}; {error.hint}"))
            else:
                yield Leftover(unit.path, folder_bytes(unit.path), unit.problem or "")


def remove_leftovers(leftovers: Iterable[Leftover]) -> None:
    """Remove left-overs and damaged units; StoreError where the operating system refuses."""
    for leftover in leftovers:
        path = leftover.path
        with store_errors(path):
            if path.is_symlink() or path.is_file():
                path.unlink(missing_ok=True)
            elif path.name.startswith(STAGING_PREFIX):
                shutil.rmtree(path, ignore_errors=True)
            elif path.exists():  # else somebody else was first
                remove_folder(path)


def find_unit(
    store: FeatureStore,
    encoder: str,
    dataset: str | None,
    split: str | None,
    *,
    parts: bool,
    watch: Watch = ignore,
) -> Path:
    """Folder of an encoder, of one of its datasets or splits, or of its parts.

    One that cannot be opened is meant by the name of its folder. Raises a NotFoundError or a
    StoreError where nothing, or not one thing alone, is meant, or where it lies behind a link.
    """
    is_encoder = (dataset, split) == (None, None) and not parts
    path = _broken(store, encoder) if is_encoder else None
    if path is None:
        stored = store.encoder(encoder, watch)
        path = stored.path / PARTS_FOLDER if parts else stored.path
        if not parts and not is_encoder:
            path = _find_below(stored, dataset, split, watch)
    _refuse_links(store, path.parent)
    return path


def _find_below(
    encoder: StoredEncoder, dataset: str | None, split: str | None, watch: Watch
) -> Path:
    if dataset is not None and split is None and (path := _broken(encoder, dataset)):
        return path
    same = [short_id(each.dataset_id) for each in encoder.datasets() if each.name == dataset]
    if len(same) > 1:  # what is removed is named by nothing less than an id
        raise StoreError(
            f"{encoder.path}: {len(same)} datasets are called {dataset!r}: {', '.join(same)}",
            hint=f"name one by the beginning of its id, such as --dataset {same[0]}",
        )
    stored = encoder.dataset(dataset, watch)
    return stored.path if split is None else stored.split_path(split)


def _broken(holder: FeatureStore | StoredEncoder, folder_name: str) -> Path | None:
    paths = (broken.path for broken in holder.listing().broken)
    return next((path for path in paths if path.name == folder_name), None)


def remove_folder(path: Path) -> None:
    """Remove an encoder, a dataset, a split or all parts; of a link, the link alone.

    Raises a StoreError where the operating system refuses.
    """
    for prefix in (ENCODER_PREFIX, DATASET_PREFIX):
        if path.name.startswith(prefix):
            remove_claim(path, prefix)
    remove_unit(path)


def remove_parts(encoder: StoredEncoder, splits: Iterable[Split]) -> int:
    """Remove the parts of sealed splits, whose rows are stored twice; gives how many there were.

    First every byte of each split that has parts left is read back and compared with its commit.
    A part that another process removes meanwhile is passed over.

    Raises
    ------
    IntegrityError : a split is damaged; its parts stay, to seal it again from.
    StoreError : the operating system refuses; what was not removed yet stays whole.
    """
    present, folder = encoder.part_names(), encoder.path / PARTS_FOLDER
    names: list[str] = []
    for split in splits:
        shards = (part.shard for part in split.commit.parts)
        left = [name for name in map(part_name, shards) if name in present]
        if left:
            check_files(split.path, split.commit.files, "crc32c")
        names += left
    if not names:
        return 0
    refuse_links(encoder.path, folder)
    with Staging(folder) as staging:
        for name in names:
            try:
                staging.take(folder / name)
            except StoreError:
                if os.path.lexists(folder / name):
                    raise
    return len(names)


def _refuse_links(store: FeatureStore, path: Path) -> None:
    """Refuse, by a StoreError, what lies behind a link in the store, or is one."""
    names = path.relative_to(store.root).parts
    refuse_links(*(store.root.joinpath(*names[: i + 1]) for i in range(len(names))))


def folder_bytes(path: Path) -> int:
    """Bytes of all files below a folder, or of one file; links are not followed."""
    total = 0
    files = [path]
    if not path.is_symlink():
        files += (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    for file in files:
        with suppress(OSError):  # gone meanwhile
            total += 0 if file.is_dir() or file.is_symlink() else file.lstat().st_size
    return total
