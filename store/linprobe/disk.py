"""The commit protocol: a hidden folder is filled, synced bottom-up, and renamed once.

A rename of a folder is atomic and fails when the target is there and not empty, so a unit is
whole or absent, and of two racing writers the second finds the first one's unit. Nothing needs
a lock: the advisory lock that a writer holds on its staging folder only tells ``gc`` that the
writer is alive.
"""

import errno
import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from linprobe.errors import StoreError

STAGING_PREFIX = "tmp-"
TEMPORARY_FILE = ".*." + "[0-9a-f]" * 12
"""Glob of the files that :func:`atomic_file` has in the making."""

_HINTS = {
    errno.ENOSPC: "free some space, or choose another place; what was committed before is whole",
    errno.EDQUOT: "free some of your quota, or choose another place",
    errno.EFBIG: "raise the limit of the file size (ulimit -f), or choose another place",
    errno.EROFS: "the file system is read-only; choose a place that can be written",
    errno.EACCES: "choose a place that you may write to",
    errno.EPERM: "choose a place that you may write to",
}


@contextmanager
def store_errors(place: Path | str) -> Iterator[None]:
    """Tell what the operating system refuses (full disk, read-only, ...) as an expected failure.

    Raises
    ------
    StoreError : in place of an ``OSError``, naming the path and the system's reason.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or place
        hint = _HINTS.get(error.errno or 0, "check the path and the disk, then run it again")
        raise StoreError(f"{where}: {error.strerror or error}", hint=hint) from error


class Staging:
    """A folder for a unit in the making, beside where it will stand; a context manager.

    Leaving it removes whatever was not published.

    Parameters
    ----------
    parent : folder that the unit will stand in; made if it is not there.
    resume_as : keeps what was not published, for a later staging of that name to go on with.

    Raises
    ------
    StoreError : the operating system refused, or another process has this ``resume_as`` open.
    """

    def __init__(self, parent: Path, *, resume_as: str | None = None) -> None:
        own = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self.path = parent / f"{STAGING_PREFIX}{resume_as or own}"
        self._is_kept = resume_as is not None
        with store_errors(parent):
            self.path.mkdir(parents=True, exist_ok=self._is_kept)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if self._is_kept else 0))
        except BlockingIOError:
            os.close(self._lock)
            raise StoreError(
                f"{self.path}: another process is writing it", hint="wait for it, then run again"
            ) from None
        except OSError:
            pass  # a file system without locks: gc then goes by age

    def publish(self, final: Path) -> bool:
        """Make the unit visible as ``final``, durably; False if another one stands there.

        Raises
        ------
        StoreError : the operating system refused.
        """
        with store_errors(self.path):
            sync_tree(self.path)
            try:
                self.path.rename(final)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return False
                raise
            sync_path(final.parent)
        return True

    def take(self, path: Path) -> None:
        """Move a unit in here: gone from its place at once, and removed with this folder."""
        with store_errors(path):
            path.rename(self.path / path.name)

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def drop(self) -> None:
        """Forget what was kept for a later staging: it has served."""
        self._is_kept = False

    def discard(self) -> None:
        """Remove the folder, if it was not published, and release the lock; safe to repeat."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if not self._is_kept:
            shutil.rmtree(self.path, ignore_errors=True)


def remove_unit(path: Path) -> None:
    """Remove a unit so that a crash on the way leaves it whole or gone, never in pieces."""
    with Staging(path.parent) as staging:
        staging.take(path)


def refuse_links(*folders: Path) -> None:
    """Refuse, by a StoreError, folders that are links: nothing is written or removed through one.

    What a link leads to belongs to somebody else, and may lie outside the store.
    """
    for folder in folders:
        if folder.is_symlink():
            raise StoreError(
                f"{folder}: is a link; nothing is written or removed below it",
                hint=f"work where it leads to ({folder.readlink()}), or put that in its place",
            )


def sync_path(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(root: Path) -> None:
    """Wait until everything below ``root`` is on the disk: files first, each folder after them."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            sync_path(Path(folder, name))
        sync_path(Path(folder))


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file, durably, so that a reader sees all of it or none; the folder is made.

    Raises
    ------
    StoreError : the operating system refused.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    with store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
            sync_path(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_path(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a small file as :func:`atomic_file` does."""
    with atomic_file(path) as file:
        file.write(data)


def is_abandoned(staging: Path, *, min_age_s: float, foreign_age_s: float) -> bool:
    """Whether the writer of a staging folder is gone.

    Never before ``min_age_s`` seconds without a change. After that, on this host its lock tells;
    a folder of another host, or on a file system without locks, counts as abandoned when nothing
    in it has changed for ``foreign_age_s`` seconds.
    """
    times = [p.lstat().st_mtime for p in [staging, *staging.rglob("*")] if p.exists()]
    age_s = time.time() - max(times, default=0.0)
    if age_s < min_age_s:
        return False
    if staging.name.startswith(f"{STAGING_PREFIX}{socket.gethostname()}-"):
        with suppress(OSError):  # a file system without locks: the age decides
            return not _is_locked(staging)
    return age_s >= foreign_age_s


def _is_locked(folder: Path) -> bool:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
