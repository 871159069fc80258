"""The bytes of a stream on their way to a file of this machine: counted, hashed, kept in bounds."""

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import BinaryIO, Self

from linprobe.disk import check_space, store_errors
from linprobe.errors import ShardError, StoreError
from linprobe_extract.shards.network import Beat, Retry, insist
from linprobe_extract.shards.remote import blocks, open_url
from linprobe_extract.shards.tar import open_shard
from linprobe_extract.shards.types import Shard
from linprobe_store.format.spec import ShardFingerprint

_MOST_OF_DISK = 0.9
"""Share of the free space that a stream without a length may fill."""


@dataclass(frozen=True)
class Copy:
    """A stream that was read to its end."""

    path: Path | None
    """The file that holds its bytes; None where none was asked for."""
    fingerprint: ShardFingerprint


def copy_shard(
    shard: Shard,
    folder: Path | None,
    *,
    n_bytes: int | None,
    retry: Retry,
    tell: Callable[[str], None],
    stop: Event | None = None,
) -> Copy:
    """Read a URL, a pipeline or the output of a command once, into a new file of a folder.

    Parameters
    ----------
    folder : None for a fingerprint alone.
    n_bytes : what its server says it has; None where that is not known.
    retry : for URLs. Others are read once, and may take their time.
    tell : sees a line before each further attempt.
    stop : ends it when set.

    Raises
    ------
    ShardError : it cannot be read, or has more or fewer bytes than that.
    StoreError : the disk has no room.
    StoppedError : ``stop`` was set.
    """
    if shard.kind != "url":
        retry = replace(retry, attempts=1, silence_s=math.inf)
    sinks: list[_Sink] = []

    def attempt(beat: Beat) -> Copy:
        _remove(sinks)
        is_url = shard.kind == "url"
        with open_url(shard.url, n_bytes or 1, retry) if is_url else open_shard(shard) as stream:
            beat()
            with _Sink(shard, folder, n_bytes) as sink:
                sinks.append(sink)
                for block in blocks(stream, beat):
                    sink.write(block)
        return sink.copy()

    with ExitStack() as failed:
        failed.callback(_remove, sinks)
        try:
            copy = insist(attempt, shard.url, retry, error=ShardError, tell=tell, stop=stop)
        except FileNotFoundError as error:
            fault = f"cannot read '{shard.url}': 404, no such file"
            hint = "check the URL, and the number of shards that was given for the split"
            raise ShardError(fault, hint=hint) from error
        failed.pop_all()
    return copy


def _remove(sinks: "list[_Sink]") -> None:
    """Remove the files of attempts that failed, or were left behind."""
    for sink in sinks:
        sink.remove()


class _Sink:
    """Where one attempt's bytes go: a file of its own, since one left behind may still hold its."""

    def __init__(self, shard: Shard, folder: Path | None, n_bytes: int | None) -> None:
        self._shard = shard
        self._folder = folder
        self._declared = n_bytes
        self._limit = math.inf if n_bytes is None else n_bytes
        self._sha256 = hashlib.sha256()
        self._n_bytes = 0
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        if folder is not None:
            with _room(folder):
                check_space(folder, n_bytes or 0)
                if n_bytes is None:
                    self._limit = _MOST_OF_DISK * shutil.disk_usage(folder).free
                fd, name = tempfile.mkstemp(".tar", dir=folder)
            self._path, self._file = Path(name), os.fdopen(fd, "wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._folder is not None:
            with _room(self._folder):
                self._file.close()

    def write(self, block: bytes) -> None:
        self._n_bytes += len(block)
        if self._n_bytes > self._limit:
            if self._declared is not None:
                raise EOFError(
                    f"more than the {self._declared:,} bytes that its server says it has"
                )
            raise ShardError(
                f"'{self._shard.url}' has more than {self._limit:,.0f} bytes, and its server does "
                f"not say how many: {self._folder} has no room for it",
                hint="copy the shard to a file, or choose another folder: TMPDIR=DIR",
            )
        self._sha256.update(block)
        if self._file is not None and self._folder is not None:
            with _room(self._folder):
                self._file.write(block)

    def copy(self) -> Copy:
        """What was written, all of it; an EOFError where there should be more."""
        if self._declared is not None and self._n_bytes != self._declared:
            raise EOFError(f"ended after {self._n_bytes:,} of {self._declared:,} bytes")
        digest = self._sha256.hexdigest()
        return Copy(self._path, ShardFingerprint(self._shard.name, self._n_bytes, digest))

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Tell of a disk that is full, or refuses, with the way out."""
    try:
        with store_errors(folder):
            yield
    except StoreError as error:
        hint = "free some space, or choose another folder of temporary files: TMPDIR=DIR"
        raise StoreError(error.message, hint=hint) from error.__cause__
