"""One source tar as a stream of members that knows whether it came whole.

Tar readers stop silently at damage, cuts and second archives: so every byte is seen on its way.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, cast

import fsspec

from linprobe import tars
from linprobe.errors import ShardError
from linprobe.records import open_regular
from linprobe_extract.shards.samples import size_limit, split_member
from linprobe_extract.shards.types import Member, Shard
from linprobe_extract.shards.webdatasets import PipelineStream, webdatasets_opener
from linprobe_store.format.spec import ShardFingerprint

_END_BYTES = 1024
"""A tar ends in two zero blocks of 512 bytes (POSIX.1-2017, pax, "ustar Interchange Format")."""
_READ_BYTES = 1 << 20
_LARGE_BYTES = 1 << 18
"""Of a block that is hashed beside the reading, which is more work than handing it over."""
_PATH = re.compile(rb" path=(.*)\n")
"""The record of an extended header that holds the name."""
_BEFORE = (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME)
"""Headers that say more of the member after them."""
_HINT = "check it, or copy or pack the shard again; the other shards are not affected"


class _HashingReader:
    """A file object that fingerprints what passes through it, large blocks in another thread."""

    def __init__(self, stream: IO[bytes], thread: ThreadPoolExecutor) -> None:
        self._stream = stream
        self._thread = thread
        self._sha256 = hashlib.sha256()
        self._n_bytes = 0
        self._pending: Future[None] | None = None

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._n_bytes += len(data)
        self._settle()
        if len(data) < _LARGE_BYTES:
            self._sha256.update(data)
        else:
            self._pending = self._thread.submit(self._sha256.update, data)
        return data

    def _settle(self) -> None:
        """Wait for the block before: so one is held, and they come in order."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def fingerprint(self, name: str) -> ShardFingerprint:
        """Read to the end, and give the fingerprint of all bytes."""
        while self.read(_READ_BYTES):
            pass
        return ShardFingerprint(name, self._n_bytes, self._sha256.hexdigest())


@contextmanager
def _hashing(stream: IO[bytes]) -> Iterator[_HashingReader]:
    with ThreadPoolExecutor(1, "digest") as thread:
        yield _HashingReader(stream, thread)


class _Forward:
    """A file object over bytes that are read once, in large blocks; it seeks forward alone.

    ``tarfile`` would read a stream 10,240 bytes at a time and join them, which takes longer than
    all else at 77 kB a member.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._block = b""
        self._start = 0
        self._at = 0

    def tell(self) -> int:
        """Give the offset of the next byte."""
        return self._start + self._at

    def seek(self, offset: int) -> None:
        """Go to an offset that was not left behind, or to the end where that comes first."""
        while (at := offset - self._start) > len(self._block):
            self._at = len(self._block)
            if not self._fill(1):
                return
        if at < 0:
            raise tarfile.StreamError("seeking backwards is not allowed")
        self._at = at

    def read(self, size: int) -> bytes:
        """Give so many bytes, or those that are left."""
        if len(self._block) - self._at < size:
            self._fill(size)
        data = self._block[self._at : self._at + size]
        self._at += len(data)
        return data

    def content(self, file: tarfile.TarInfo) -> bytes:
        """Give the bytes of the file whose header was read last; ReadError where it is cut."""
        self.seek(file.offset_data)
        data = self.read(file.size)
        if len(data) < file.size:
            raise tarfile.ReadError("unexpected end of data")
        return data

    def _fill(self, size: int) -> int:
        """Forget what was read, and hold so many bytes, or those that are left: their number."""
        parts = [self._block[self._at :]]
        self._start, self._at, self._block = self.tell(), 0, b""
        n_held = len(parts[0])
        while n_held < size and (data := self._stream.read(max(_READ_BYTES, size - n_held))):
            parts.append(data)
            n_held += len(data)
        self._block = b"".join(parts)
        return n_held

    def n_zeros_from(self, offset: int) -> int | None:
        """Read to the end; the number of bytes from there on, or None where one is not zero."""
        self.seek(offset)
        while rest := self.read(_READ_BYTES):
            if rest.strip(b"\0"):
                return None
        return self.tell() - offset


def open_shard(shard: Shard) -> IO[bytes]:
    """Open a regular file, a command, or any URL that fsspec or webdataset knows, for reading once.

    Raises ShardError with the URL and the system's reason.
    """
    try:
        if shard.pipeline is not None:
            return cast("IO[bytes]", PipelineStream(shard.pipeline, shard.url))
        if shard.kind == "command":
            from webdataset.gopen import gopen_pipe

            return cast("IO[bytes]", gopen_pipe(shard.url))
        if shard.kind == "url":
            if opener := webdatasets_opener(shard.url):
                return opener(shard.url, "rb")
            return cast("IO[bytes]", fsspec.open(shard.url, "rb").open())
        return open_regular(Path(shard.url), error=ShardError, hint=_HINT)
    except Exception as error:  # each of fsspec's drivers has errors of its own
        raise unreadable(shard.url, error) from error


def read_members(
    shard: Shard, expected: ShardFingerprint | None = None, *, place: str = ""
) -> Iterator[Member]:
    """Yield the files of samples in a tar in order, then prove that the tar was whole.

    It is plain or compressed by gzip, bzip2 or xz, and read once. ``expected`` is what its bytes
    must be, where they were not hashed already; ``place`` is what to call it in messages, by
    default its URL. The content of a member beyond :func:`size_limit` is left out.

    Raises ShardError where the stream cannot be read, is not a tar, is cut or damaged anywhere,
    holds links, sparse files, huge headers or nothing at all, unpacks to too much, or has other
    bytes than ``expected``.
    """
    place = place or shard.url
    try:
        with open_shard(shard) as stream, _hashing(stream) as reader:
            source = stream if expected is None else cast("IO[bytes]", reader)
            yield from _members(place, _Forward(tars.unpacked(source)))
            if expected is None:
                return
            content = replace(reader.fingerprint(shard.name), name=expected.name)
    except tars.UNREADABLE as error:
        raise unreadable(place, error) from error
    if content != expected:
        raise ShardError(
            f"'{place}' has {content.bytes} bytes of other content than expected "
            f"({expected.bytes} bytes, sha256 {expected.sha256[:12]})",
            hint="it changed since it was packed or first read: pack or copy it again",
        )


def _members(place: str, plain: _Forward) -> Iterator[Member]:
    n_members = 0
    with tars.open_plain(cast("IO[bytes]", plain)) as tar:
        for info in tars.files(tar):
            n_members += 1
            if (parts := split_member(info.name)) is not None:
                wanted = info.size <= size_limit(parts[1])
                yield Member(*parts, plain.content(info) if wanted else None)
        n_zeros = plain.n_zeros_from(tar.offset)
    fault = ""
    if n_zeros is None:
        fault = f"is damaged or holds more than one archive after {n_members} files"
    elif n_zeros < _END_BYTES:
        fault = f"is cut: it has no end-of-archive mark after {n_members} files"
    elif not n_members:
        fault = "is empty"
    if fault:
        raise ShardError(f"'{place}' {fault}", hint="copy or pack the shard again")


def member_names(shard: Shard) -> Iterator[str]:
    """Yield the names of the files of a plain tar on disk, going from header to header.

    Raises ShardError where there is none.
    """
    try:
        with open_shard(shard) as file, tars.open_plain(file) as tar:
            for info in tars.files(tar):
                yield info.name
    except tars.UNREADABLE as error:
        raise unreadable(shard.url, error) from error


def check_names(shard: Shard, *, place: str) -> None:
    """Refuse a plain tar on disk for a name that is no UTF-8, by its headers alone.

    That costs 4 to 10 us a sample, and spares encoding a shard whose keys cannot be stored. What
    else is amiss, reading it tells. ``place`` is what to call it. Raises ShardError.
    """
    offset, is_named = 0, False
    with open_shard(shard) as file:
        read = partial(os.pread, file.fileno())
        while (header := read(512, offset))[257:262] == b"ustar":
            kind, digits = header[156:157], header[124:136].strip(b"\0 ")
            if digits.strip(b"01234567"):
                return
            size = int(digits or b"0", 8)
            if kind in _BEFORE:
                more = read(min(size, tars.MAX_HEADER_BYTES), offset + 512)
                names = [more] if kind == tarfile.GNUTYPE_LONGNAME else _PATH.findall(more)
                is_named = is_named or bool(names)
            else:  # whose own name is cut off where there was a long one
                names = [] if is_named else [header[:100], header[345:500]]
                is_named = False
            for name in names:
                if not name.isascii():
                    _check_name(name.partition(b"\0")[0], place)
            offset += 512 + (size + 511 & ~511)


def _check_name(name: bytes, place: str) -> None:
    try:
        name.decode()
    except UnicodeDecodeError:
        fault = f"'{place}' holds a name that is no UTF-8: {name.decode('utf-8', 'replace')!r}"
        raise ShardError(fault, hint="pack the shard again with names in UTF-8") from None


def fingerprint_shard(shard: Shard) -> ShardFingerprint:
    """Read a tar once for its size and sha256; ShardError where it cannot be read."""
    try:
        with open_shard(shard) as stream, _hashing(stream) as reader:
            return reader.fingerprint(shard.name)
    except (OSError, ValueError) as error:
        raise unreadable(shard.url, error) from error


def unreadable(url: str, error: Exception) -> ShardError:
    """Tell that a shard cannot be read, with the system's reason."""
    fault = f"cannot read '{url}' as a tar: {str(error) or type(error).__name__}"
    return ShardError(fault, hint=_HINT)
