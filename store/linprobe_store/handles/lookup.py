"""Folders named by an id: finding them, and making them once however many writers race."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TypeVar

from linprobe.disk import Staging, make_folders, store_errors
from linprobe.errors import MismatchError, NotFoundError, StoreError
from linprobe.names import SHORT_ID_DIGITS, short_id
from linprobe.terminal import command
from linprobe_store.format.layout import folder_named

MIN_PREFIX = 4
"""Hex digits of an id that a query must give at least, so that words are not taken for ids."""

Entry = TypeVar("Entry")


def list_folders(parent: Path, prefix: str) -> tuple[Path, ...]:
    """Folders below ``parent`` whose names begin with ``prefix``, sorted by name."""
    if not parent.is_dir():
        return ()
    return tuple(sorted(p for p in parent.iterdir() if p.name.startswith(prefix) and p.is_dir()))


def folder_digits(folder: PurePath) -> str:
    """The hex digits that end the name of a folder."""
    return folder.name[-SHORT_ID_DIGITS:]


def make_folder(
    parent: Path, prefix: str, name: str, full_id: str, files: Mapping[str, bytes]
) -> Path:
    """The folder of an id, whatever its slug; made whole, by one rename, where there is none.

    A hidden link ``.<prefix><digits>`` to the folder is made first. Links are exclusive, so
    racing writers that know the same id under different names agree on one folder.
    ``files`` are the contents to write into it, by file name.
    """
    digits = short_id(full_id)
    for folder in list_folders(parent, prefix):
        if folder_digits(folder) == digits:
            return folder
    folder_name = folder_named(prefix, name, full_id)
    claim = parent / f".{prefix}{digits}"
    with store_errors(parent):
        make_folders(parent, below=parent.parent)
        try:
            claim.symlink_to(folder_name)
        except FileExistsError:
            folder_name = str(claim.readlink())
        except OSError:
            pass  # a file system without links: racing writers must then use one name
        with Staging(parent) as staging:
            for file, content in files.items():
                (staging.path / file).write_bytes(content)
            staging.publish(parent / folder_name)
    return parent / folder_name


def remove_claim(folder: Path, prefix: str) -> None:
    """Remove the link that names a folder which is gone."""
    with suppress(OSError):
        folder.with_name(f".{prefix}{folder_digits(folder)}").unlink()


def check_full_id(folder: Path, expected: str, stored: str) -> None:
    """Refuse, by a MismatchError, the folder of another id with the same first 12 digits."""
    if stored != expected:
        raise MismatchError(
            f"{folder}: expected id {expected}, found {stored}",
            hint="two ids share their first 12 digits: use another store for this one",
        )


def choose(
    entries: Sequence[Entry],
    query: str | None,
    *,
    what: str,
    place: Path | str,
    names: Callable[[Entry], tuple[str, ...]],
) -> Entry:
    """The one entry that a query means: a name in full, or the beginning of an id.

    ``names`` gives the id of an entry and its names; a query of None means the only entry. Raises
    a NotFoundError or a StoreError that lists what there is, where none or several match.
    """
    matches = [entry for entry in entries if query is None or query in names(entry)]
    if not matches and query is not None and len(query) >= MIN_PREFIX:
        matches = [entry for entry in entries if names(entry)[0].startswith(query.lower())]
    if len(matches) == 1:
        return matches[0]
    ids = [(short_id(names(entry)[0]), names(entry)[1]) for entry in matches or entries]
    listed = "; ".join(f"{digits} ({name})" for digits, name in ids)
    called = "" if query is None else f" called {query!r}"
    if matches:
        raise StoreError(
            f"{place}: expected one {what}, found {len(matches)}{called}: {listed}",
            hint=f"name one by the beginning of its id, such as {ids[0][0]}",
        )
    hint = f"{command('extract')} or {command('store import')} puts features into a store"
    raise NotFoundError(
        f"{place}: no {what}{called}", hint=f"it has: {listed}" if entries else hint
    )
