"""The arrays that an import names, in ``.npy`` and ``.npz`` files, as memory maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray

from linprobe.disk import check_space
from linprobe.errors import MismatchError, NotFoundError
from linprobe.names import first_few
from linprobe_store.format.layout import check_split_name
from linprobe_store.format.npy import map_npy, open_npz

_NAMES = (("features", "x", "X"), ("labels", "y"))
"""What the arrays of features and of labels are called in a ``.npz``, unless others are named."""
_HINT = "--split NAME=FILE.npz[:FEATURES,LABELS] or --split NAME=FEATURES.npy,LABELS.npy"
_NOT_AN_ARRAY = "write it again with np.save or np.savez; copy it again if it was cut on the way"


@dataclass(frozen=True)
class ArrayFile:
    """A mapped array and where it comes from."""

    place: str
    """File and member, for messages."""
    values: NDArray[np.generic]
    """The array (n, ...), C-contiguous, read-only."""


@dataclass(frozen=True)
class SplitArrays:
    """The arrays of one split, such as ``train``."""

    name: str
    features: ArrayFile
    """(n, d) floating point."""
    labels: ArrayFile
    """(n,) integers, or (n, k) of 0 and 1."""
    keys: ArrayFile | None = None
    """(n,) strings; None numbers the samples."""
    classes: ArrayFile | None = None
    """(k,) class names by label."""

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.features.values)


def open_split(text: str, unzipped: Path) -> SplitArrays:
    """Map the arrays that a ``--split`` names; those of a ``.npz`` are unzipped first.

    Raises NotFoundError where a file or an array in it is missing, StoreError where the disk has no
    room for what is unzipped, and MismatchError for another text, a file that is cut, longer than
    its array or no array of numbers or text, or Fortran order.
    """
    name, _, rest = text.partition("=")
    if not rest:
        raise MismatchError(f"--split {text!r}: expected NAME=FILE", hint=_HINT)
    check_split_name(name)
    stem, extension, members = rest.rpartition(".npz")
    chosen = members.removeprefix(":").split(",") if members else []
    if chosen and len(chosen) != 2:
        expected = "FEATURES,LABELS" if extension else "two .npy files"
        raise MismatchError(f"--split {text!r}: expected {expected}", hint=_HINT)
    for path in [Path(stem + extension)] if extension else map(Path, chosen):
        if not path.exists():
            raise NotFoundError(f"{path}: no such file", hint="check the path")
    if extension:
        return _open_npz(name, Path(stem + extension), chosen, Path(mkdtemp(dir=unzipped)))
    return SplitArrays(name, *(_map(Path(path), path) for path in chosen))


def _open_npz(name: str, path: Path, chosen: Sequence[str], folder: Path) -> SplitArrays:
    with open_npz(path, error=MismatchError, hint=_NOT_AN_ARRAY) as archive:
        held = archive.names
        wanted = [_first_held(n, held, path) for n in ([[m] for m in chosen] or _NAMES)]
        extras = [n for n in (("classes",) if chosen else ("keys", "classes")) if n in held]
        members = [archive.member(n) for n in dict.fromkeys((*wanted, *extras))]
        check_space(folder, sum(member.header.file_bytes for member in members))
        files = {}
        for i, member in enumerate(members):  # whose names are not those of files
            files[member.name] = folder / f"{i}.npy"
            with files[member.name].open("wb") as target:
                archive.copy(member, target)
    maps = {n: _map(file, f"{path}:{n}") for n, file in files.items()}
    features, labels = (maps[n] for n in wanted)
    return SplitArrays(name, features, labels, **{n: maps[n] for n in extras})


def _first_held(names: Sequence[str], held: Sequence[str], path: Path) -> str:
    for name in names:
        if name in held:
            return name
    wanted = " or ".join(map(repr, names))
    raise NotFoundError(f"{path}: no array {wanted}; it has {first_few(held, 10)}", hint=_HINT)


def _map(path: Path, place: str) -> ArrayFile:
    values = map_npy(path, place, error=MismatchError, hint=_NOT_AN_ARRAY)
    if not values.ndim or not values.flags.c_contiguous:
        what = f"{values.dtype} {values.shape}{' in Fortran order' if values.ndim else ''}"
        message = f"{place}: expected plain rows, found {what}"
        raise MismatchError(message, hint="save it as np.ascontiguousarray(array)")
    return ArrayFile(place, values)
