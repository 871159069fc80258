"""Arrays in NumPy's files, from anybody: what they claim is checked before memory is taken.

An array is numbers or text. Headers are parsed here, since NumPy's parser accepts pickled objects,
shapes beyond any address, and files that are longer than their array.
"""

import ast
import errno
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import REPAIR, IntegrityError, LinprobeError
from linprobe.names import first_few
from linprobe.records import open_regular

_LENGTH_BYTES = {b"\x93NUMPY\x01\0": 2, b"\x93NUMPY\x02\0": 4, b"\x93NUMPY\x03\0": 4}
"""Of the length of the header, by magic and version."""
_MAX_HEADER_BYTES = 10_000
"""As NumPy's own reader has it."""
_MAX_DIRECTORY_BYTES = 1 << 20
"""Of an archive: 10,000 names."""
_DTYPES = r"[<>=|]?(b1|[iu][1248]|f(2|4|8|16)|[SU][0-9]{1,5})"
_COPY_BYTES = 1 << 18
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1
"""Bit of a member's flags."""
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError)


class NpyError(ValueError):
    """Raised for bytes that are no array of numbers or text; says what was expected."""


@dataclass(frozen=True)
class NpyHeader:
    """What a ``.npy`` file says of its array."""

    shape: tuple[int, ...]
    """Shape, (n, ...)."""
    dtype: "np.dtype[np.generic]"
    """Dtype of an element: bool, integers, floating point, or text of fixed width."""
    order: Literal["C", "F"]
    """Which axis is the fastest: the last, or in Fortran's order the first."""
    n_bytes: int
    """Bytes of the header; those of the array follow."""

    @property
    def file_bytes(self) -> int:
        """Bytes of header and array."""
        return self.n_bytes + math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: BinaryIO) -> NpyHeader:
    """Read the header of a ``.npy`` file and leave the stream at the array; NpyError if bad."""
    start = stream.read(8)
    width = _LENGTH_BYTES.get(start)
    if width is None:
        raise NpyError(f"expected the magic of a .npy file, found {start!r}")
    length = int.from_bytes(stream.read(width), "little")
    if length > _MAX_HEADER_BYTES:
        raise NpyError(f"expected a header of at most {_MAX_HEADER_BYTES} bytes, found {length}")
    text = stream.read(length).decode("ascii", "replace")
    try:
        fields: object = ast.literal_eval(text.strip(" \n"))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise NpyError(f"expected the header of an array, found {text[:80]!r}")
    shape, descr, is_fortran = fields["shape"], fields["descr"], fields["fortran_order"]
    if not isinstance(descr, str) or not re.fullmatch(_DTYPES, descr):
        raise NpyError(f"expected numbers or text, found the dtype {str(descr)[:80]}")
    is_shape = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 1 << 63 for n in shape)
    if not is_shape or len(shape) > 8 or not isinstance(is_fortran, bool):
        raise NpyError(f"expected a shape and an order, found {text[:80]!r}")
    header = NpyHeader(shape, np.dtype(descr), "F" if is_fortran else "C", 8 + width + length)
    if math.prod(max(n, 1) for n in shape) * header.dtype.itemsize >= 1 << 63:
        raise NpyError(f"expected an array that an address reaches, found {shape}")
    return header


def map_npy(
    path: Path, place: str, *, error: type[LinprobeError], hint: str
) -> NDArray[np.generic]:
    """Map a ``.npy`` file read-only; it has exactly the bytes of its array.

    ``place`` is what to call it in messages.

    Raises
    ------
    LinprobeError : of class ``error``: no such file, no regular one, or no such array.
    """
    with open_regular(path, error=error, hint=hint) as stream:
        try:
            header = read_header(stream)
            _check_size(header, stream.seek(0, io.SEEK_END))
        except NpyError as failure:
            raise error(f"{place}: {failure}", hint=hint) from None
        mapped = np.memmap(stream, header.dtype, "r", header.n_bytes, header.shape, header.order)
        return mapped.view(np.ndarray)


def _check_size(header: NpyHeader, n_bytes: int) -> None:
    if header.file_bytes != n_bytes:
        raise NpyError(
            f"expected {header.file_bytes:,} bytes for {header.shape} {header.dtype}, "
            f"found {n_bytes:,}"
        )


@dataclass(frozen=True)
class NpzMember:
    """An array of an archive, its header read."""

    name: str
    """Name of the array."""
    header: NpyHeader
    """Its shape and dtype; :meth:`NpzFile.copy` proves that the bytes follow."""


class NpzFile:
    """An open ``.npz`` archive; see :func:`open_npz`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in self._infos:
                raise NpyError(f"expected every array once, found {name[:80]!r} twice")
            self._infos[name] = info

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, as the archive has them."""
        return tuple(self._infos)

    def member(self, name: str) -> NpzMember:
        """Read the header of an array; NpyError for what the archive says differently."""
        info = self._infos[name]
        if info.compress_type not in _COMPRESSIONS or info.flag_bits & _ENCRYPTED:
            raise NpyError(f"expected {name!r} stored or deflated, found it otherwise or encrypted")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            sizes = f"{info.file_size:,} bytes of {name!r}, found {info.compress_size:,}"
            raise NpyError(f"expected {sizes}")
        with self._archive.open(info) as stream:
            header = read_header(cast("BinaryIO", stream))
        _check_size(header, info.file_size)
        return NpzMember(name, header)

    def copy(self, member: NpzMember, target: BinaryIO) -> None:
        """Copy the bytes of a member's file, header and all; NpyError where there are fewer."""
        n_bytes = 0
        with self._archive.open(self._infos[member.name]) as stream:
            while piece := stream.read(_COPY_BYTES):
                n_bytes += len(piece)
                target.write(piece)
        if n_bytes != member.header.file_bytes:
            expected = f"{member.header.file_bytes:,} bytes of {member.name!r}"
            raise NpyError(f"expected {expected}, found {n_bytes:,}")


class _SmallReads(io.BufferedReader):
    """A file whose central directory, which zipfile reads at once, is bounded."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise NpyError(f"expected a directory of an archive, found one of {size:,} bytes")
        return super().read(size)


@contextmanager
def open_npz(
    path: Path, *, data: bytes | None = None, error: type[LinprobeError], hint: str
) -> Iterator[NpzFile]:
    """Open a ``.npz`` archive; ``data`` is its content, where that was read already.

    Raises
    ------
    LinprobeError : of class ``error``, within the context too: no such file, no regular one, no
        such archive, or damage.
    """
    raw = open_regular(path, error=error, hint=hint) if data is None else io.BytesIO(data)
    with _SmallReads(raw) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                yield NpzFile(archive)
        except _BAD_ZIP as failure:
            why = str(failure) or type(failure).__name__
            raise error(f"{path}: {why}", hint=hint) from None
        except OSError as failure:
            if failure.errno != errno.EINVAL:
                raise
            raise error(f"{path}: a place in the archive is before its start", hint=hint) from None


def read_npz(
    path: Path,
    *,
    limit: int | None,
    only: Sequence[str] | None = None,
    data: bytes | None = None,
    error: type[LinprobeError] = IntegrityError,
    hint: str = REPAIR,
) -> Mapping[str, NDArray[np.generic]]:
    """Read the arrays of a ``.npz`` archive.

    Parameters
    ----------
    limit : the most bytes that they may have together; None means those of the archive, which
        arrays that are not compressed keep to.
    only : names of arrays that must be there; others are not read. None reads all.
    data : content of the archive, where that was read already.

    Raises
    ------
    LinprobeError : of class ``error``: as :func:`open_npz`, too large, or without an array.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    with open_npz(path, data=data, error=error, hint=hint) as archive:
        names = archive.names if only is None else only
        if lost := sorted(set(names) - set(archive.names)):
            raise NpyError(f"expected the arrays {first_few(lost)}, found none so called")
        members = [archive.member(name) for name in names]
        total = sum(member.header.file_bytes for member in members)
        size = path.stat().st_size if data is None else len(data)
        if total > (most := size if limit is None else limit):
            raise NpyError(f"expected arrays of at most {most:,} bytes, found {total:,}")
        for member in members:
            content = io.BytesIO()
            archive.copy(member, content)
            header, buffer = member.header, content.getbuffer()
            arrays[member.name] = np.ndarray(
                header.shape, header.dtype, buffer, header.n_bytes, order=header.order
            )
    return arrays
