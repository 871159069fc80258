"""Making and unmaking folders named by an id, once however many writers race."""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePath

from linprobe.disk import Staging, make_folders, refuse_links, remove_unit, store_errors
from linprobe.errors import MismatchError, StoreError
from linprobe.names import short_id
from linprobe_store.format.layout import DATASET_PREFIX, folder_named
from linprobe_store.handles.lookup import Entry, folder_digits, list_folders


def make_folder(
    parent: Path, prefix: str, name: str, full_id: str, files: Mapping[str, bytes]
) -> Path:
    """The folder of an id, whatever its slug; made whole, by one rename, where there is none.

    A hidden link ``.<prefix><digits>`` to the folder is made first. Links are exclusive, so
    racing writers that know the same id under different names agree on one folder. Who removes a
    folder removes its link first, so a writer looks again once its folder stands.
    ``files`` are the contents to write into it, by file name.
    """
    digits = short_id(full_id)
    for folder in list_folders(parent, prefix):
        if folder_digits(folder) == digits:
            return folder
    own = folder_named(prefix, name, full_id)
    with store_errors(parent):
        if prefix == DATASET_PREFIX:  # the store itself is made by who writes its FORMAT
            refuse_links(parent.parent, parent)
            make_folders(parent, below=parent.parent)
        agreed = _agree(parent, prefix, own)
        with Staging(parent) as staging:
            for file, content in files.items():
                (staging.path / file).write_bytes(content)
            is_ours = staging.publish(parent / agreed)
        if is_ours and _agree(parent, prefix, agreed) != agreed:
            remove_unit(parent / agreed)
            return make_folder(parent, prefix, name, full_id, files)
    return parent / agreed


def _agree(parent: Path, prefix: str, own: str) -> str:
    """The folder name that racing writers agree on: the one that a link was first made to."""
    digits = folder_digits(PurePath(own))
    claim = parent / f".{prefix}{digits}"
    try:
        claim.symlink_to(own)
    except FileExistsError:
        try:
            agreed = str(claim.readlink())
        except FileNotFoundError:  # removed between the two looks
            return _agree(parent, prefix, own)
        if not re.fullmatch(rf"{prefix}[a-z0-9-]+-{digits}", agreed):
            raise StoreError(
                f"{claim}: expected a link to a folder {prefix}...-{digits}, found {agreed!r}",
                hint="remove the link",
            ) from None
        return agreed
    except OSError:
        pass  # a file system without links: racing writers must then use one name
    return own


def remove_claim(folder: Path, prefix: str) -> None:
    """Remove the link that names a folder which is about to be removed."""
    with suppress(OSError):
        folder.with_name(f".{prefix}{folder_digits(folder)}").unlink()


def open_made(folder: Path, opened: Callable[[Path], Entry]) -> Entry:
    """Open a folder that was there a moment ago; a StoreError where it was removed meanwhile."""
    try:
        return opened(folder)
    except StoreError:
        if os.path.lexists(folder):
            raise
        raise StoreError(
            f"{folder}: was removed meanwhile", hint="find out who removed it, then run it again"
        ) from None


def check_full_id(folder: Path, expected: str, stored: str) -> None:
    """Refuse, by a MismatchError, the folder of another id with the same first 12 digits."""
    if stored != expected:
        raise MismatchError(
            f"{folder}: expected id {expected}, found {stored}",
            hint="two ids share their first 12 digits: use another store for this one",
        )
