"""Folders named by an id: what there is, and which of them a name means.

One that cannot be opened is set apart with its reason; the others go on without it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Generic, Literal, TypeVar

from linprobe.errors import IntegrityError, NotFoundError, StoreError, unreadable
from linprobe.names import SHORT_ID_DIGITS, short_id, slugify
from linprobe.terminal import Progress, Watch, command

MIN_PREFIX = 4
"""Hex digits of an id that a query must give at least, so that words are not taken for ids."""

BrokenKind = Literal["encoder", "dataset", "split", "part"]
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Broken:
    """What should be an encoder, a dataset, or a folder of them, and cannot be opened."""

    path: Path
    """Where it lies."""
    kind: BrokenKind
    """What its place says it is."""
    error: StoreError
    """Why it cannot be opened."""

    @property
    def reason(self) -> str:
        """Why it cannot be opened, in one line."""
        return self.error.message

    @property
    def is_damaged(self) -> bool:
        """Whether its bytes are not what was written.

        Not so for another version of the format, what may not be read, a link, or a stray file.
        """
        return isinstance(self.error, IntegrityError)

    @property
    def line(self) -> str:
        """What to tell a person: the reason, and what to do."""
        return f"left out: {self.reason}; {self.error.hint}"


@dataclass(frozen=True)
class Listing(Generic[Entry]):
    """What a folder of encoders or datasets holds."""

    sound: tuple[Entry, ...]
    """Those that can be opened, sorted by folder name."""
    broken: tuple[Broken, ...]
    """The others."""

    def tell(self, watch: Watch) -> None:
        """Show a line for each that is broken."""
        for broken in self.broken:
            watch(Progress(0, None, f"{broken.kind}s", line=broken.line))


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """Tell what the operating system refuses a reader as an expected failure, a StoreError."""
    try:
        yield
    except OSError as error:
        raise unreadable(Path(os.fsdecode(error.filename or place)), error) from error


def list_folders(parent: Path, prefix: str = "") -> tuple[Path, ...]:
    """What lies below ``parent`` under names that begin with ``prefix``, sorted; links too.

    Raises a StoreError where ``parent`` is there and cannot be listed.
    """
    try:
        return tuple(sorted(p for p in parent.iterdir() if p.name.startswith(prefix)))
    except FileNotFoundError:
        if parent.is_symlink():
            raise misplaced(parent) from None
        return ()
    except NotADirectoryError:
        raise misplaced(parent) from None
    except OSError as error:
        raise unreadable(parent, error) from error


def misplaced(path: Path) -> StoreError:
    """Error for a file, or a link to nothing, where a folder is expected."""
    what = "a link to nothing" if path.is_symlink() else "a file"
    return StoreError(
        f"{path}: expected a folder, found {what}", hint="remove it, or move it out of the store"
    )


def open_folders(
    parent: Path, prefix: str, kind: BrokenKind, opened: Callable[[Path], Entry]
) -> Listing[Entry]:
    """Open what lies below ``parent``; what was removed meanwhile is neither sound nor broken."""
    sound, broken = [], []
    try:
        folders = list_folders(parent, prefix)
    except StoreError as error:
        return Listing((), (Broken(parent, kind, error),))
    for folder in folders:
        try:
            with reading(folder):
                sound.append(opened(folder))
        except StoreError as error:
            if os.path.lexists(folder):
                broken.append(Broken(folder, kind, diagnosed(folder, error)))
    return Listing(tuple(sound), tuple(broken))


def diagnosed(folder: Path, error: StoreError) -> StoreError:
    """Why a folder cannot be opened, where it is no folder, or not the store's own."""
    with suppress(OSError):  # what may not be looked at is told by the error at hand
        if not folder.is_dir():
            return misplaced(folder)
        if folder.is_symlink():
            return StoreError(error.message, hint=f"mend what the link {folder} leads to")
    return error


def folder_digits(folder: PurePath) -> str:
    """The hex digits that end the name of a folder."""
    return folder.name[-SHORT_ID_DIGITS:]


def is_meant(query: str, full_id: str, *names: str) -> bool:
    """Whether a query means what has this id: by a name in full, or the beginning of its id."""
    return query in names or (len(query) >= MIN_PREFIX and full_id.startswith(query.lower()))


def choose(
    listing: Listing[Entry],
    query: str | None,
    *,
    what: str,
    place: Path | str,
    names: Callable[[Entry], tuple[str, ...]],
) -> Entry:
    """The one sound entry that a query means: a name in full, or the beginning of an id.

    ``names`` gives the id of an entry and its names; a query of None means the only entry. Raises
    a NotFoundError or a StoreError that lists what there is, where none or several match; where
    only a broken one does, its own error.
    """
    entries = listing.sound
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
    for broken in listing.broken:
        if query is None or is_called(broken.path.name, query):
            message = f"the {what}{called} is broken: {broken.reason}"
            raise type(broken.error)(message, hint=broken.error.hint)
    hint = f"it has: {listed}"
    if not entries:
        hint = f"{command('extract')} or {command('store import')} puts features into a store"
    if listing.broken:
        hint += f"; {len(listing.broken)} cannot be opened: '{command('store ls')}' says why"
    raise NotFoundError(f"{place}: no {what}{called}", hint=hint)


def is_called(folder_name: str, query: str) -> bool:
    """Whether a query means a folder: its whole name, its slug, or the digits of its id."""
    slug = folder_name.partition("-")[2][: -SHORT_ID_DIGITS - 1]
    digits = short_id(query.lower())
    is_id = len(digits) >= MIN_PREFIX and folder_digits(PurePath(folder_name)).startswith(digits)
    return query == folder_name or slugify(query) == slug or is_id
