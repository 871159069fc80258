"""The mapped arrays that a part and a sealed split have in common."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast, overload

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import REPAIR, IntegrityError
from linprobe_store.arrays.mapping import MappedArray, map_array
from linprobe_store.format import layout
from linprobe_store.format.commit import UnitContents


class Keys(Sequence[str]):
    """The sample keys of a unit, n strings, decoded when asked for."""

    def __init__(self, offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> None:
        self._offsets = offsets
        self._data = data

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        i = range(len(self))[index]
        return self._data[self._offsets[i] : self._offsets[i + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        yield from self.between(0, len(self))

    def between(self, start: int, stop: int) -> tuple[str, ...]:
        """Keys of the rows from ``start`` to ``stop``, faster than one by one."""
        edges = self._offsets[start : stop + 1].tolist()
        if not edges:
            return ()
        first = edges[0]
        text = self._data[first : edges[-1]].tobytes()
        return tuple(text[start - first : stop - first].decode() for start, stop in pairwise(edges))


@dataclass(frozen=True)
class UnitArrays:
    """The mapped arrays of a part or a sealed split."""

    features: Mapping[str, MappedArray]
    """Features (n, d) by tap."""
    labels: MappedArray
    """Labels (n,) int64 or (n, k) uint8."""
    keys_offsets: MappedArray
    """Edges (n + 1,) int64 of the keys in ``keys_bytes``."""
    keys_bytes: MappedArray
    """UTF-8 of all keys, back to back."""

    def all(self) -> tuple[MappedArray, ...]:
        """Every array of the unit."""
        return (*self.features.values(), self.labels, self.keys_offsets, self.keys_bytes)

    def read_keys(self, place: Path) -> Keys:
        """Keys of the unit; an IntegrityError where the edges do not rise from 0 to the end."""
        offsets = cast("NDArray[np.int64]", self.keys_offsets.whole())
        data = cast("NDArray[np.uint8]", self.keys_bytes.whole())
        if offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) < 0).any():
            raise IntegrityError(f"{place}: the edges of its keys are damaged", hint=REPAIR)
        return Keys(offsets, data)


def map_unit(unit: Path, contents: UnitContents) -> UnitArrays:
    """Map the arrays of a unit, each of the shape that its commit says, or an IntegrityError."""
    data, rows = unit / layout.DATA_FOLDER, contents.rows
    features = {t.name: map_array(data / (layout.FEATURES_PREFIX + t.name)) for t in contents.taps}
    others = (layout.LABELS, layout.KEYS_OFFSETS, layout.KEYS_BYTES)
    arrays = UnitArrays(features, *(map_array(data / name) for name in others))
    expected = {tap.name: ((rows, tap.dim), contents.dtype) for tap in contents.taps}
    mapped = {name: (x.geometry.shape, x.geometry.dtype.name) for name, x in features.items()}
    if mapped != expected or (arrays.labels.rows, arrays.keys_offsets.rows) != (rows, rows + 1):
        raise IntegrityError(
            f"{unit}: expected {rows} rows and {expected}, found {arrays.labels.rows} labels, "
            f"{arrays.keys_offsets.rows - 1} keys and {mapped}",
            hint=REPAIR,
        )
    return arrays
