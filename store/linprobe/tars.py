"""Tars of strangers: read by the standard library, their sizes bounded before memory is taken.

Two things in a tar cost more than they weigh: extended headers, which the library reads whole, and
sparse members, which claim bytes that are not there. And a compressed one unpacks to anything.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Protocol, cast

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
_BLOCK_BYTES = 1 << 20
"""Of which a stream is read: a tar has two members and four short reads for each small image."""
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


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Header(tarfile.TarInfo):
    """A header that is refused before what it claims is read."""

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


class Forward:
    """A file object over bytes that are read once, in large blocks; it seeks forward alone.

    ``tarfile`` reads a stream as one with two short reads a member. Its own way with streams reads
    10,240 bytes at a time and joins them: at 77 kB a member twice the time of this one.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._block = b""
        self._start = 0
        self._at = 0

    def tell(self) -> int:
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

    def _fill(self, size: int) -> int:
        """Forget what was read, and hold so many bytes, or those that are left: their number."""
        parts = [self._block[self._at :]]
        self._start, self._at, self._block = self.tell(), 0, b""
        n_held = len(parts[0])
        while n_held < size and (data := self._stream.read(max(_BLOCK_BYTES, size - n_held))):
            parts.append(data)
            n_held += len(data)
        self._block = b"".join(parts)
        return n_held

    def n_zeros_from(self, offset: int) -> int | None:
        """Read to the end; the number of bytes from there on, or None where one is not zero."""
        self.seek(offset)
        while rest := self.read(_BLOCK_BYTES):
            if rest.strip(b"\0"):
                return None
        return self.tell() - offset


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


def open_stream(plain: Forward) -> tarfile.TarFile:
    """Open plain tar bytes that are read once; raises one of :data:`UNREADABLE`."""
    return _Tar.open(fileobj=cast("IO[bytes]", plain), mode="r:")


def open_plain(file: IO[bytes]) -> tarfile.TarFile:
    """Open a plain tar on disk, of which only what is asked for is read; raises as above."""
    return _Tar.open(fileobj=file, mode="r:")


def open_file(file: IO[bytes]) -> tarfile.TarFile:
    """Open a tar on disk, plain or compressed, to go through it once; raises as above."""
    plain = unpacked(file)
    if isinstance(plain, _Unpacked):
        return open_stream(Forward(plain))
    file.seek(0)
    return open_plain(file)


def content(plain: Forward, file: tarfile.TarInfo) -> bytes:
    """Give the bytes of the file that :func:`files` gave last; raises as above where it is cut."""
    plain.seek(file.offset_data)
    data = plain.read(file.size)
    if len(data) < file.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


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
