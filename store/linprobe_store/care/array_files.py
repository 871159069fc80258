"""Arrays in ``.npy`` and ``.npz`` files, read and written block by block, never whole."""

import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import MismatchError, NotFoundError

_NOT_AN_ARRAY = "give .npy or .npz files as np.save and np.savez write them"


@dataclass(frozen=True)
class ArraySource:
    """An array in a file, by its header."""

    path: Path
    """The ``.npy`` or ``.npz`` file."""
    member: str | None
    """Name of the array in a ``.npz`` file."""
    shape: tuple[int, ...]
    """Shape of the array."""
    dtype: "np.dtype[np.generic]"
    """Its dtype."""

    @property
    def place(self) -> str:
        """File and member, for messages."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    def blocks(self, rows: int) -> Iterator[NDArray[np.generic]]:
        """Consecutive rows (m, ...), m <= ``rows``, freshly read.

        Raises
        ------
        MismatchError : the file ends before its last row.
        """
        row_shape = self.shape[1:]
        row_bytes = int(np.prod(row_shape, dtype=np.int64)) * self.dtype.itemsize
        with _open_member(self.path, self.member) as stream:
            _read_header(stream, self.place)
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                data = stream.read(count * row_bytes)
                if len(data) != count * row_bytes:
                    raise MismatchError(
                        f"{self.place}: expected {self.shape[0]} rows, found the end after "
                        f"{start + len(data) // max(1, row_bytes)}",
                        hint="the file is cut: write or copy it again",
                    )
                yield np.frombuffer(data, self.dtype).reshape(count, *row_shape)


def open_array(path: Path, member: str | None = None) -> ArraySource:
    """Read the header of an array.

    Raises
    ------
    NotFoundError : no such file, or no such array in it.
    MismatchError : not an array, or one of objects or in Fortran order.
    """
    place = f"{path}:{member}" if member else str(path)
    with _open_member(path, member) as stream:
        shape, is_fortran, dtype = _read_header(stream, place)
    if dtype.hasobject or not shape or (is_fortran and len(shape) > 1):
        raise MismatchError(
            f"{place}: expected plain rows, found {dtype} {shape}"
            f"{' in Fortran order' if is_fortran else ''}",
            hint="save it as np.ascontiguousarray(array) with a plain dtype",
        )
    return ArraySource(path, member, shape, dtype)


def member_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays in a ``.npz`` file.

    Raises
    ------
    NotFoundError : no such file.
    MismatchError : not a zip file.
    """
    with _open_zip(path) as archive:
        return tuple(n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy"))


def write_array(
    stream: IO[bytes],
    shape: tuple[int, ...],
    dtype: "np.dtype[np.generic]",
    blocks: Iterable[NDArray[np.generic]],
) -> None:
    """Write an array (n, ...) in the ``.npy`` format from consecutive blocks of its rows."""
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_2_0(stream, header)
    for block in blocks:
        stream.write(np.ascontiguousarray(block, dtype).data if block.size else b"")


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file", hint="check the path") from None
    except zipfile.BadZipFile as error:
        raise MismatchError(f"{path}: {error}", hint=_NOT_AN_ARRAY) from None


@contextmanager
def _open_member(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    if member is None:
        try:
            stream: IO[bytes] = path.open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"{path}: no such file", hint="check the path") from None
        with stream:
            yield stream
        return
    with _open_zip(path) as archive:
        if f"{member}.npy" not in archive.namelist():
            names = ", ".join(n.removesuffix(".npy") for n in archive.namelist())
            raise NotFoundError(f"{path}: no array {member!r}", hint=f"it has: {names}")
        with archive.open(f"{member}.npy") as stream:
            yield stream


def _read_header(
    stream: IO[bytes], place: str
) -> tuple[tuple[int, ...], bool, "np.dtype[np.generic]"]:
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
        return np.lib.format.read_array_header_2_0(stream)
    except ValueError as error:
        raise MismatchError(f"{place}: {error}", hint=_NOT_AN_ARRAY) from None
