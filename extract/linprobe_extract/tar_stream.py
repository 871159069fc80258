"""One source tar as a stream of members that knows whether it came whole.

webdataset reads the archive; this file sees every byte on its way, because a tar that was cut
between two members ends without any error. This is the only file that imports webdataset.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import fsspec

from linprobe_extract.errors import ShardError
from linprobe_extract.shard_layouts import Shard
from linprobe_store.spec import ShardFingerprint

_END = 1024
"""A tar ends in two zero blocks of 512 bytes (POSIX.1-2017, pax, "ustar Interchange Format")."""
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""gzip, bzip2, xz, zstd: formats that carry their own length or checksum."""
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """One regular file of a tar."""

    name: str
    """Path inside the archive."""
    data: bytes
    """Contents."""


class _HashingReader:
    """A file object that fingerprints what passes through it and remembers both ends."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self.n_bytes = 0
        self.head = b""
        self.tail = b""

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._sha256.update(data)
        self.n_bytes += len(data)
        self.head = (self.head + data[:8])[:8]
        self.tail = (self.tail + data[-_END:])[-_END:]
        return data

    def drain(self) -> None:
        while self.read(_READ_BYTES):
            pass

    def fingerprint(self, name: str) -> ShardFingerprint:
        return ShardFingerprint(name, self.n_bytes, self._sha256.hexdigest())


def open_shard(shard: Shard) -> IO[bytes]:
    """Open a local file, a ``pipe:`` command, or any URL that fsspec knows, for reading once.

    Raises
    ------
    ShardError : it cannot be opened; names the URL and the system's reason.
    """
    try:
        if shard.url.startswith("pipe:"):
            from webdataset.gopen import gopen

            return cast("IO[bytes]", gopen(shard.url))
        if "://" in shard.url:
            return cast("IO[bytes]", fsspec.open(shard.url, "rb").open())
        return Path(shard.url).open("rb")
    except (OSError, ValueError, ImportError) as error:
        raise _unreadable(shard, error) from error


def read_members(shard: Shard, expected: ShardFingerprint | None = None) -> Iterator[Member]:
    """Yield the regular files of a tar in order, then prove that the tar was whole.

    Parameters
    ----------
    shard : what to read; read once, sequentially.
    expected : the fingerprint that the bytes must have, or None to accept any.

    Raises
    ------
    ShardError : the stream cannot be read, is not a tar, is cut (at a member boundary too), or
        has other bytes than ``expected``.
    """
    from webdataset.tariterators import tar_file_iterator

    try:
        with open_shard(shard) as stream:
            reader = _HashingReader(stream)
            for member in tar_file_iterator(reader):
                yield Member(member["fname"], member["data"])
            reader.drain()
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise _unreadable(shard, error) from error
    _check_whole(shard, reader)
    if expected is not None and reader.fingerprint(expected.name) != expected:
        raise ShardError(
            f"'{shard.url}' has {reader.n_bytes} bytes of other content than expected "
            f"({expected.bytes} bytes, sha256 {expected.sha256[:12]})",
            hint="it changed since it was packed or first read: pack or copy it again",
        )


def fingerprint_shard(shard: Shard) -> ShardFingerprint:
    """Read a tar once for its size and sha256.

    Raises
    ------
    ShardError : it cannot be read.
    """
    try:
        with open_shard(shard) as stream:
            reader = _HashingReader(stream)
            reader.drain()
    except (OSError, ValueError) as error:
        raise _unreadable(shard, error) from error
    return reader.fingerprint(shard.name)


def _check_whole(shard: Shard, reader: _HashingReader) -> None:
    if reader.n_bytes == 0:
        raise ShardError(f"'{shard.url}' is empty", hint="copy or pack the shard again")
    if reader.head.startswith(_COMPRESSED) or reader.tail == bytes(_END):
        return
    raise ShardError(
        f"'{shard.url}' is cut: after {reader.n_bytes} bytes it has no end-of-archive mark",
        hint="copy or pack the shard again",
    )


def _unreadable(shard: Shard, error: Exception) -> ShardError:
    return ShardError(
        f"cannot read '{shard.url}' as a tar: {error}",
        hint="copy or pack the shard again; the other shards are not affected",
    )
