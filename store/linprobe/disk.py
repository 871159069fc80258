"""The commit protocol: a hidden folder is filled, synced bottom-up, and renamed once.

A rename of a folder is atomic and fails when the target is there and not empty, so a unit is
whole or absent, and of two racing writers the second finds the first one's unit. Nothing needs
a lock: the advisory lock that a writer holds on its staging folder only tells ``gc`` that the
writer is alive.
"""

import errno
import fcntl
import os
import re
import shutil
import socket
import stat
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

_OF_HOST = re.compile(rf"{STAGING_PREFIX}(.+)-\d+-[0-9a-f]{{12}}")
"""Name of a staging folder that is not kept; its group is the host."""
_HINTS = {
    errno.ENOENT: "it was removed meanwhile, or never made; look, then run it again",
    errno.ENAMETOOLONG: "choose a shorter name",
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
    parent : folder that the unit will stand in; never made: a removed one would be a ghost.
    resume_as : keeps what was not published, for a later staging of that name, on any host, to go
        on with; it ends in a suffix such as ``.pack``, as no other staging folder does.

    Raises
    ------
    StoreError : ``parent`` was removed, the operating system refused, or another process has this
        ``resume_as`` open.
    """

    def __init__(self, parent: Path, *, resume_as: str | None = None) -> None:
        own = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self.path = parent / f"{STAGING_PREFIX}{resume_as or own}"
        self._is_kept = resume_as is not None
        if self._is_kept and _OF_HOST.fullmatch(self.path.name):
            raise ValueError(f"{resume_as!r} reads as the name of a host")
        with store_errors(parent):
            try:
                self.path.mkdir(exist_ok=self._is_kept)
            except FileNotFoundError:
                message = f"{parent}: no such folder; it was removed meanwhile"
                hint = "find out who removed it, then run it again"
                raise StoreError(message, hint=hint) from None
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if self._is_kept else 0))
        except BlockingIOError:
            os.close(self._lock)
            message = f"{self.path}: another process is writing it"
            raise StoreError(message, hint="wait for it, then run again") from None
        except OSError:
            pass  # a file system without locks: gc then goes by age
        with suppress(OSError):
            os.utime(self.path)  # an old one that is gone on with is no left-over

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
            message = f"{folder}: is a link; nothing is written or removed below it"
            hint = f"work where it leads to ({folder.readlink()}), or put that in its place"
            raise StoreError(message, hint=hint)


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


def append_line(path: Path, line: bytes, *, durable: bool = True) -> None:
    """Append a line to a file, made if need be; one that was cut short is ended first.

    Lines of concurrent writers do not mix. StoreError: refused by the system, or no regular file.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    with store_errors(path), os.fdopen(os.open(path, flags, 0o666), "r+b", 0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        n_bytes = file.seek(0, os.SEEK_END)
        is_cut = n_bytes > 0 and os.pread(file.fileno(), 1, n_bytes - 1) != b"\n"
        data = b"\n" * is_cut + line + b"\n"
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if durable:
            os.fsync(file.fileno())
            sync_path(path.parent)


def make_folders(path: Path, *, below: Path | None = None, durable: bool = True) -> None:
    """Make a folder and the ancestors that it lacks; not ``durable``: a sync_tree comes later.

    An ancestor ``below`` has to be there: it is somebody else's, who may have removed it. Raises
    StoreError where it is gone, a file stands in the way, or the operating system refuses.
    """
    lacking: list[Path] = []
    with store_errors(path):
        for folder in (path, *path.parents):
            if folder == below or folder.is_dir():
                break
            lacking.append(folder)
        for folder in reversed(lacking):
            try:
                folder.mkdir(exist_ok=True)
            except FileExistsError:
                raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(folder)) from None
            if durable:
                sync_path(folder.parent)


def check_space(path: Path, n_bytes: int) -> None:
    """Refuse, by a StoreError, to write so many bytes to a path where the disk has less room."""
    with store_errors(path):
        folder = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        usage = shutil.disk_usage(folder)
    if usage.free < n_bytes and usage.total:  # some network file systems do not tell their size
        message = f"{path}: needs {n_bytes / 1e6:,.1f} MB of the disk, {usage.free / 1e6:,.1f} free"
        raise StoreError(message, hint=_HINTS[errno.ENOSPC])


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file, durably, so that a reader sees all of it or none; its folder must be there.

    Raises
    ------
    StoreError : the operating system refused.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    with store_errors(path):
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

    Never before ``min_age_s`` seconds without a change, nor while it is locked. Then one of this
    host is; another host's, one kept to be resumed, a file, and one on a file system without locks
    are when nothing in them has changed for ``foreign_age_s`` seconds.
    """
    paths = [staging]
    for folder, folders, files in os.walk(staging):  # passes over what vanishes meanwhile
        paths += (Path(folder, name) for name in (*folders, *files))
    times = []
    for path in paths:
        with suppress(OSError):
            times.append(path.lstat().st_mtime)
    if not times:
        return False  # published or removed since it was listed
    age_s = time.time() - max(times)
    if age_s < min_age_s:
        return False
    with suppress(OSError):  # a file, or a file system without locks: the age decides
        if _is_locked(staging):
            return False
        named = _OF_HOST.fullmatch(staging.name)
        if named is not None and named[1] == socket.gethostname():
            return True
    return age_s >= foreign_age_s


def _is_locked(folder: Path) -> bool:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
