"""Leases: which process does which piece of work in a folder that several see.

A lease is a small file, made only where there is none, whose content its holder changes every few
seconds. Who sees one content for longer than that may take the work over, by the file of the next
number: of two who try, one makes it. No clocks of machines are compared, only the observer's own
monotonic one. On the machine of the holder its advisory lock tells at once that it is gone.

A lease saves work and guards nothing: whoever is taken for dead by mistake does the work a second
time, and of two units the second is not committed (:mod:`linprobe.disk`).
"""

import fcntl
import math
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Self

from linprobe.disk import STAGING_PREFIX, refuse_links, store_errors
from linprobe.errors import IntegrityError, StoreError
from linprobe.records import NonNegative, canonical_json, parse, plain, read_bytes

LEASES_FOLDER = f"{STAGING_PREFIX}leases"
"""Name of a folder of leases: what is in the making, and passed over by readers."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_BYTES = 1 << 12


@dataclass(frozen=True)
class Pace:
    """How often leases are renewed and looked at."""

    beat_s: float = 10.0
    """Seconds between two renewals by the holder."""
    patience_s: float = 120.0
    """Seconds that an observer sees one content before it takes the work over."""
    poll_s: float = 1.0
    """Seconds between two looks of who waits."""


PACE = Pace()


@dataclass(frozen=True)
class Holder:
    """Content of a lease."""

    host: str
    """Name of the machine, for people."""
    machine: str
    """What tells one running kernel from another: containers share it, as they share locks."""
    pid: NonNegative
    """Process, as that machine calls it."""
    has_lock: bool
    """Whether it holds an advisory lock on the file: there are file systems without."""
    has_failed: bool = False
    """Whether it has tried in vain, so that others need not in the same hour."""
    beat: NonNegative = 0
    """Renewals so far."""


@dataclass(frozen=True)
class Sighting:
    """What an observer has seen of a lease."""

    number: int
    """How often the work was taken over before."""
    content: bytes
    since: float
    """When this content was first seen, on the observer's monotonic clock, in seconds."""
    is_free: bool
    """Whether the holder's lock is free on its own machine: it is gone."""
    holder: Holder | None = None
    """Who holds it; None where the file is just being made, or no lease."""


def seen_again(before: Sighting | None, after: Sighting) -> Sighting:
    """Join two looks at a lease: what has not changed has been so since the first of them."""
    if before is None or (before.number, before.content) != (after.number, after.content):
        return after
    return replace(after, since=before.since)


def is_stale(sighting: Sighting, now: float, patience_s: float) -> bool:
    """Whether a holder is gone, or silent for longer than patience lasts."""
    return sighting.is_free or now - sighting.since >= patience_s


@dataclass
class _Held:
    path: Path
    fd: int
    content: Holder


class Leases:
    """The leases of a folder that this process holds and sees; a context manager.

    A thread renews those that are held; leaving the context gives them back. Methods may be called
    from any thread.

    Parameters
    ----------
    parent : folder that the folder of leases lies in; never made.
    pace : the same for all processes.
    """

    def __init__(self, parent: Path, pace: Pace | None = None) -> None:
        self._folder = parent / LEASES_FOLDER
        self.pace = pace or PACE
        self._held: dict[str, _Held] = {}
        self.seen: Mapping[str, Sighting] = {}
        """The leases of others as of the last look, by name."""
        self._looked = -math.inf
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for name in tuple(self._held):
            self.release(name)
        with suppress(OSError):
            self._folder.rmdir()  # the last one out

    def look(self, max_age_s: float = 0.0) -> Mapping[str, Sighting]:
        """See the leases of others, by name; a StoreError where the operating system refuses.

        A look that is at most ``max_age_s`` old serves too.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._looked <= max_age_s:
                return self.seen
            self._looked = now
            seen = {}
            for name, number in self._numbers().items():
                if name not in self._held:
                    sighting = _sight(self._path(name, number), number)
                    if sighting is not None:  # else given back meanwhile
                        seen[name] = seen_again(self.seen.get(name), sighting)
            self.seen = seen
            return seen

    def is_stale(self, name: str) -> bool:
        """Whether the lease of another, as it was last seen, may be taken over."""
        sighting = self.seen.get(name)
        return sighting is not None and is_stale(sighting, time.monotonic(), self.pace.patience_s)

    def take(self, name: str) -> bool:
        """Take a lease that nobody holds, or whose holder was last seen to be gone.

        Raises a StoreError where the operating system refuses: a full disk, one that is read-only.
        """
        with self._lock:
            before = self.seen.get(name)
            if name in self._held or (before is not None and not self.is_stale(name)):
                return False
            number = 0 if before is None else before.number + 1
            with store_errors(self._folder):
                if not self._make(name, self._path(name, number)):
                    return False
            if self._numbers().get(name, number) > number:  # others were taken for gone since
                self.release(name)
                return False
            with store_errors(self._folder):
                for earlier in range(number):
                    self._path(name, earlier).unlink(missing_ok=True)
            return True

    def fail(self, name: str) -> None:
        """Keep a lease, and tell others that its work was tried in vain."""
        self._write(name, has_failed=True)

    def release(self, name: str) -> None:
        """Give a lease back; one that was taken over is the other's."""
        with self._lock:
            held = self._held.pop(name, None)
            if held is not None:
                with suppress(OSError):
                    if os.fstat(held.fd).st_nlink:
                        held.path.unlink()
                os.close(held.fd)

    def _path(self, name: str, number: int) -> Path:
        return self._folder / f"{name}.{number}"

    def _numbers(self) -> dict[str, int]:
        """The highest number of each lease that lies there."""
        numbers: dict[str, int] = {}
        with store_errors(self._folder), suppress(FileNotFoundError):
            for file in self._folder.iterdir():
                name, _, number = file.name.rpartition(".")
                if number.isdecimal():
                    numbers[name] = max(int(number), numbers.get(name, 0))
        return numbers

    def _make(self, name: str, path: Path) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        refuse_links(self._folder.parent, self._folder)
        while True:
            self._folder.mkdir(exist_ok=True)
            try:
                fd = os.open(path, flags, 0o666)
                break
            except FileExistsError:
                return False
            except FileNotFoundError:
                if not self._folder.parent.is_dir():
                    raise
                # Another process was the last one out just now.
        has_lock = False
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            has_lock = True
        content = Holder(socket.gethostname(), machine_id(), os.getpid(), has_lock)
        self._held[name] = _Held(path, fd, content)
        try:
            self._write(name)
        except OSError:
            self.release(name)
            raise
        return True

    def _renew(self) -> None:
        while not self._over.wait(self.pace.beat_s):
            for name in tuple(self._held):
                with suppress(OSError):  # who cannot write falls silent, and is followed
                    self._write(name)

    def _write(self, name: str, *, has_failed: bool = False) -> None:
        with self._lock:
            held = self._held.get(name)
            if held is not None:
                content = held.content
                has_failed |= content.has_failed
                held.content = replace(content, has_failed=has_failed, beat=content.beat + 1)
                data = canonical_json(plain(held.content))
                os.pwrite(held.fd, data, 0)
                os.ftruncate(held.fd, len(data))
                os.fsync(held.fd)  # which is when other machines see it


@cache
def machine_id() -> str:
    """What tells one running kernel from another, whatever its host name."""
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return socket.gethostname()


def _sight(path: Path, number: int) -> Sighting | None:
    """Look at a lease; None where there is none."""
    try:
        content = read_bytes(path, limit=_MAX_BYTES)
    except StoreError:
        if not os.path.lexists(path):
            return None
        content = b""
    holder = None
    with suppress(IntegrityError):
        holder = parse(Holder, content, str(path))
    is_here = holder is not None and holder.has_lock and holder.machine == machine_id()
    return Sighting(number, content, time.monotonic(), is_here and _is_free(path), holder)


def _is_free(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # closed, and given back, at once
        return True
    return False


def is_left(path: Path) -> bool:
    """Whether the holder of the lease in a file is known to be gone, on this machine."""
    sighting = _sight(path, 0)
    return sighting is not None and sighting.is_free
