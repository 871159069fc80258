"""Tars of strangers: read by the standard library, their sizes bounded before memory is taken.

Two things in a tar cost more than they weigh: extended headers, which the library reads whole, and
sparse members, which claim bytes that are not there. And a compressed one unpacks to anything.
"""

import bz2
import gzip
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Protocol, Self, cast

MAX_MEMBER_BYTES = 256 << 20
"""The largest member that is read: 100 megapixels of PNG, twice what cameras make."""
MAX_HEADER_BYTES = 1 << 20
"""Of the extended headers of one member, and of those for all: long names and attributes."""
MAX_NAME = 4096
"""Characters of a member's name: the longest path that Linux takes."""
MAX_RATIO = 200
"""Unpacked over compressed bytes, beyond the first: photographs have 1, plain drawings 20."""
MAX_XZ_BYTES = 256 << 20
"""Memory of a decoder of xz, which is what the file says; ``xz -9`` takes 65 MiB."""
FREE_BYTES = 64 << 20
"""Unpacked bytes of which no ratio is asked."""
_READ_BYTES = 1 << 16
_NAME_BYTES = 100
UNREADABLE = (tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError, ValueError,
              RecursionError, OverflowError)  # fmt: skip
"""What reading a tar may raise where it is damaged or hostile."""

_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


_FORMATS: Mapping[bytes, Callable[[IO[bytes]], "_Readable"]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lambda stream: _Xz(stream),
}


_PLAIN_HEADER = re.compile(
    rb"(?:[0-7]{7}[\0 ]){3}([0-7]{11})[\0 ][0-7]{11}[\0 ]([0-7]{6})\0 "  # mode to checksum
    rb"0\0{100}ustar(?:\00000|  \0).{64}(?:[0-7]{7}[\0 ]|\0{8}){2}\0{167}",
    re.DOTALL,
)
"""What follows the name where it is a regular file of a short name (POSIX.1-2017, pax)."""


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Header(tarfile.TarInfo):
    """A header that is refused before what it claims is read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read what samples have, name and size of a file, as the library does, in half its time.

        All else is left to the library, which reads 16 fields one by one.
        """
        plain = _PLAIN_HEADER.fullmatch(buf, _NAME_BYTES)
        if plain is None or int(plain[2], 8) != sum(buf) - sum(buf[148:156]) + 8 * ord(" "):
            return super().frombuf(buf, encoding, errors)
        header = cls(buf[:_NAME_BYTES].partition(b"\0")[0].decode(encoding, errors))
        header.size = int(plain[1], 8)
        return header

    def _proc_member(self, tar: "_Tar") -> tarfile.TarInfo:  # the library's hook for subclasses
        self._check_size(self)
        if self.type in _EXTENDED:
            tar.n_header_bytes += tarfile.BLOCKSIZE + self.size
            if tar.n_header_bytes > MAX_HEADER_BYTES:
                raise tarfile.ReadError(f"extended headers of more than {MAX_HEADER_BYTES:,} bytes")
            if self.type != tarfile.XGLTYPE:  # which hold for all that follows
                tar.n_member_bytes += tarfile.BLOCKSIZE + self.size
        elif self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(f"'{self.name}' is a sparse file")
        member = cast("tarfile.TarInfo", super()._proc_member(tar))  # type: ignore[misc]
        self._check_size(member)  # an extended header may set another
        if self.type not in _EXTENDED:
            tar.n_header_bytes -= tar.n_member_bytes
            tar.n_member_bytes = 0
        return member

    @staticmethod
    def _check_size(member: tarfile.TarInfo) -> None:
        if member.size < 0:  # the next member would be this one again
            raise tarfile.ReadError(f"'{member.name}' has a size below zero")

    def _refuse_sparse(self, member: tarfile.TarInfo, *_: object) -> None:
        raise tarfile.ReadError(f"'{member.name}' is a sparse file")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


class _Tar(tarfile.TarFile):
    tarinfo = _Header
    n_header_bytes = 0
    """Of extended headers that are held: those for all members, and those of the next."""
    n_member_bytes = 0
    """Of them, those of the next member."""


class _Xz:
    """What ``lzma.LZMAFile`` reads, joined streams too, by decoders of bounded memory."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._decoder = self._fresh()

    @staticmethod
    def _fresh() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_BYTES)

    def read(self, size: int = -1) -> bytes:
        while size:
            data = b""
            if self._decoder.eof:
                # Between streams, and after the last one, there may be zeros.
                data = self._decoder.unused_data
                while not (data := data.lstrip(b"\0")):
                    if not (data := self._packed.read(_READ_BYTES)):
                        return b""
                self._decoder = self._fresh()
            elif self._decoder.needs_input and not (data := self._packed.read(_READ_BYTES)):
                raise EOFError("it ends before the end of its xz stream")
            if unpacked := self._decoder.decompress(data, size):
                return unpacked
        return b""


class _Unpacked:
    """A file object over the decompressed bytes of another, not too many for its size."""

    def __init__(self, unpacked: _Readable, packed: "_Counted") -> None:
        self._unpacked = unpacked
        self._packed = packed
        self._n_bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._unpacked.read(size)
        self._n_bytes += len(data)
        if self._n_bytes > FREE_BYTES + MAX_RATIO * self._packed.n_bytes:
            raise tarfile.ReadError(f"unpacks to more than {MAX_RATIO} times its size: unpack it")
        return data


class _Counted:
    """A file object that can look at its first bytes and counts those that were read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._ahead = stream.read(8)
        self.magic = self._ahead
        self.n_bytes = len(self.magic)

    def read(self, size: int = -1) -> bytes:
        if self._ahead:
            size = len(self._ahead) if size < 0 else size
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        data = self._stream.read(size)
        self.n_bytes += len(data)
        return data


def unpacked(stream: IO[bytes]) -> IO[bytes]:
    """The bytes of a tar that is plain or compressed by gzip, bzip2 or xz, to be read once.

    These readers check lengths and checksums, and read joined streams to the end; what unpacks to
    more than :data:`MAX_RATIO` times its size raises one of :data:`UNREADABLE`, as damage does.
    """
    packed = _Counted(stream)
    source = cast("IO[bytes]", packed)
    for magic, decompress in _FORMATS.items():
        if packed.magic.startswith(magic):
            return cast("IO[bytes]", _Unpacked(decompress(source), packed))
    return source


def open_stream(plain: IO[bytes]) -> tarfile.TarFile:
    """Open plain tar bytes that are read once; raises one of :data:`UNREADABLE`."""
    return _Tar.open(fileobj=plain, mode="r|")


def open_plain(file: IO[bytes]) -> tarfile.TarFile:
    """Open a plain tar on disk, of which only what is asked for is read; raises as above."""
    return _Tar.open(fileobj=file, mode="r:")


def open_file(file: IO[bytes]) -> tarfile.TarFile:
    """Open a tar on disk, plain or compressed, to go through it once; raises as above."""
    plain = unpacked(file)
    if isinstance(plain, _Unpacked):
        return open_stream(plain)
    file.seek(0)
    return open_plain(file)


def files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Headers of the files of a tar, in order; folders are passed over.

    Raises one of :data:`UNREADABLE`, also for what is no regular file and for a name that is too
    long or no UTF-8.
    """
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined] # else it keeps all headers
        if len(member.name) > MAX_NAME:
            raise tarfile.ReadError(f"a name of {len(member.name):,} characters")
        try:
            member.name.encode()
        except UnicodeEncodeError:
            raise tarfile.ReadError(f"a name that is no UTF-8: {member.name!r}") from None
        if member.isdir():
            continue
        if not member.isreg():
            raise tarfile.ReadError(f"'{member.name}' is no regular file: pack it without links")
        yield member
