"""Arrays in ``.npy`` and ``.npz`` files as memory maps."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import MismatchError, NotFoundError

_NOT_AN_ARRAY = "write it again with np.save or np.savez; copy it again if it was cut on the way"


@dataclass(frozen=True)
class ArrayFile:
    """A mapped array and where it comes from."""

    place: str
    """File and member, for messages."""
    values: NDArray[np.generic]
    """The array (n, ...), C-contiguous, read-only."""


def map_array(path: Path, place: str | None = None) -> ArrayFile:
    """Map the array in a ``.npy`` file.

    Parameters
    ----------
    place : what messages call it; the path where it is None.

    Raises
    ------
    NotFoundError : no such file.
    MismatchError : not an array, one of objects or in Fortran order, or the file is cut.
    """
    place = place or str(path)
    try:
        values = np.lib.format.open_memmap(path, "r")
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file", hint="check the path") from None
    except (ValueError, EOFError) as error:
        raise MismatchError(f"{place}: {error}", hint=_NOT_AN_ARRAY) from None
    if not values.ndim or not values.flags.c_contiguous:
        order = " in Fortran order" if values.ndim else ""
        raise MismatchError(
            f"{place}: expected plain rows, found {values.dtype} {values.shape}{order}",
            hint="save it as np.ascontiguousarray(array)",
        )
    return ArrayFile(place, values)


def member_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays in a ``.npz`` file.

    Raises
    ------
    NotFoundError : no such file.
    MismatchError : not a zip file.
    """
    with _open_zip(path) as archive:
        return tuple(n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy"))


def map_member(path: Path, member: str, folder: Path) -> ArrayFile:
    """Unzip an array of a ``.npz`` file into ``folder``, and map it there.

    Raises
    ------
    NotFoundError : no such file, or no such array in it.
    MismatchError : not a zip file, a damaged one, or what :func:`map_array` refuses.
    """
    with _open_zip(path) as archive:
        try:
            unzipped = Path(archive.extract(f"{member}.npy", folder))
        except KeyError:
            names = ", ".join(name.removesuffix(".npy") for name in archive.namelist())
            raise NotFoundError(f"{path}: no array {member!r}", hint=f"it has: {names}") from None
    return map_array(unzipped, f"{path}:{member}")


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file", hint="check the path") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise MismatchError(f"{path}: {error}", hint=_NOT_AN_ARRAY) from None
