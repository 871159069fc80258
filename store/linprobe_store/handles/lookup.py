"""Folders named by an id: finding them, and making them once however many writers race."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TypeVar

from linprobe.disk import STAGING_PREFIX, Staging, told_as_store_error
from linprobe.errors import NotFoundError, StoreError
from linprobe.names import SHORT_ID_DIGITS, short_id

MIN_PREFIX = 4
"""Hex digits of an id that a query must give at least, so that words are not taken for ids."""

Entry = TypeVar("Entry")


def list_folders(parent: Path, prefix: str) -> tuple[Path, ...]:
    """Folders below ``parent`` whose names begin with ``prefix``, sorted by name."""
    if not parent.is_dir():
        return ()
    found = (p for p in parent.iterdir() if p.name.startswith(prefix) and p.is_dir())
    return tuple(sorted(p for p in found if not p.name.startswith(STAGING_PREFIX)))


def find_folder(parent: Path, prefix: str, full_id: str) -> Path | None:
    """The folder of an id, whatever its slug, or None."""
    digits = short_id(full_id)
    found = [p for p in list_folders(parent, prefix) if folder_digits(p) == digits]
    return found[0] if found else None


def folder_digits(folder: PurePath) -> str:
    """The hex digits that end the name of a folder."""
    return folder.name[-SHORT_ID_DIGITS:]


def make_folder(parent: Path, prefix: str, name: str, files: Mapping[str, bytes]) -> Path:
    """Make the folder of an id, whole, by one rename; the existing one if another was first.

    A hidden link ``.<prefix><digits>`` to the folder is made first. Links are exclusive, so
    racing writers that know the same id under different names agree on one folder.
    """
    claim = parent / f".{prefix}{name[-SHORT_ID_DIGITS:]}"
    with told_as_store_error(parent):
        parent.mkdir(parents=True, exist_ok=True)
        try:
            claim.symlink_to(name)
        except FileExistsError:
            name = str(claim.readlink())
        except OSError:
            pass  # a file system without links: racing writers must then use one name
        final = parent / name
        with Staging(parent) as staging:
            for file, data in files.items():
                (staging.path / file).write_bytes(data)
            staging.publish(final)
    return final


def remove_claim(folder: Path, prefix: str) -> None:
    """Remove the link that names a folder which is gone."""
    with suppress(OSError):
        os.unlink(folder.parent / f".{prefix}{folder_digits(folder)}")  # noqa: PTH108 - may dangle


_MAKERS = "linprobe extract and linprobe store import put features into a store"


def choose(
    entries: Sequence[Entry],
    query: str | None,
    *,
    what: str,
    place: Path | str,
    names: Callable[[Entry], tuple[str, ...]],
) -> Entry:
    """The one entry that a query means: a name in full, or the beginning of an id.

    Parameters
    ----------
    query : None means the only entry.
    names : of an entry, its id first.

    Raises
    ------
    NotFoundError : nothing matches; lists what is there.
    StoreError : several match; lists them.
    """
    listed = "; ".join(f"{short_id(names(e)[0])} ({names(e)[1]})" for e in entries)
    if query is None:
        found = list(entries)
    else:
        found = [e for e in entries if query in names(e)]
        if not found and len(query) >= MIN_PREFIX:
            found = [e for e in entries if names(e)[0].startswith(query.lower())]
    if not found:
        wanted = "" if query is None else f" called {query!r}"
        hint = f"it has: {listed}" if entries else _MAKERS
        raise NotFoundError(f"{place}: no {what}{wanted}", hint=hint)
    if len(found) > 1:
        several = "; ".join(f"{short_id(names(e)[0])} ({names(e)[1]})" for e in found)
        matches = "" if query is None else f" called {query!r}"
        raise StoreError(
            f"{place}: expected one {what}, found {len(found)}{matches}: {several}",
            hint=f"name one by the beginning of its id, such as {names(found[0])[0][:12]}",
        )
    return found[0]
