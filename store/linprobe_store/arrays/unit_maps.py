"""The mapped arrays that a part and a sealed split have in common."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import REPAIR, IntegrityError
from linprobe.names import first_few
from linprobe_store.arrays.keys import Keys
from linprobe_store.arrays.mapping import MappedArray, check_group, map_array
from linprobe_store.arrays.unique import KeyHashes, keys_of_hashes
from linprobe_store.arrays.values import find_bad_key, label_problem
from linprobe_store.format import layout
from linprobe_store.format.checksums import FileDigest
from linprobe_store.format.commit import UnitContents
from linprobe_store.format.layout import DATA_FOLDER
from linprobe_store.format.spec import LabelArray


@dataclass(frozen=True)
class UnitArrays:
    """The mapped arrays of a part or a sealed split; what is read of one was verified, once.

    Every ``read_`` verifies, through the maps that it gives, all files of the arrays that it reads:
    their bytes against the commit, and each row, label and key for what may be stored. It raises an
    IntegrityError that names the file, or the row by its key.
    """

    unit: Path
    """Folder of the unit."""
    features: Mapping[str, MappedArray]
    """Features (n, d) by tap."""
    labels: MappedArray
    """Labels (n,) int64 or (n, k) uint8."""
    keys_offsets: MappedArray
    """Edges (n + 1,) int64 of the keys in ``keys_bytes``."""
    keys_bytes: MappedArray
    """UTF-8 of all keys, back to back."""
    image_sha256: MappedArray | None
    """Sha256 of the bytes of each image, (n, 32) uint8; None where that is not known."""
    _verified: dict[Path, MappedArray] = field(default_factory=dict, init=False)

    @property
    def verified(self) -> tuple[MappedArray, ...]:
        """Arrays that were verified so far."""
        return tuple(self._verified.values())

    def all(self) -> tuple[MappedArray, ...]:
        """Every array of the unit, verified."""
        features = tuple(self.read_features(tap) for tap in self.features)
        images = () if self.image_sha256 is None else (self.image_sha256,)
        others = (self.labels, self.keys_offsets, self.keys_bytes, *images)
        self._verify(*others)
        return (*features, *others)

    def read_features(self, tap: str) -> MappedArray:
        """Features of a tap, every row finite and not all zero; a KeyError for another tap."""
        mapped = self.features[tap]
        if mapped.folder not in self._verified and (bad := mapped.verify()):
            key = self.read_keys()[bad.row]
            raise IntegrityError(
                f"{self.unit}: {tap} of sample {key!r}: expected {bad.problem}",
                hint="its writer did not check what it wrote: extract or import it again",
            )
        self._verified[mapped.folder] = mapped
        return mapped

    def read_labels(self, n_classes: int | None = None) -> LabelArray:
        """Labels, read-only, of k = ``n_classes`` classes where that is known."""
        self._verify(self.labels)
        labels = cast("LabelArray", self.labels.whole())
        labels.flags.writeable = False
        if n_classes is not None and (problem := label_problem(labels, n_classes)):
            raise IntegrityError(f"{self.labels.folder}: {problem}", hint=REPAIR)
        return labels

    def read_image_sha256(self) -> MappedArray | None:
        """Sha256 of the bytes of each image, (n, 32) uint8; None where that is not known."""
        if self.image_sha256 is not None:
            self._verify(self.image_sha256)
        return self.image_sha256

    def read_keys(self) -> Keys:
        """Keys, each UTF-8 of its own; their edges rise from 0 to the end."""
        self._verify(self.keys_offsets, self.keys_bytes)
        offsets = cast("NDArray[np.int64]", self.keys_offsets.whole())
        data = cast("NDArray[np.uint8]", self.keys_bytes.whole())
        if offsets[0] != 0 or offsets[-1] != len(data) or (offsets[1:] < offsets[:-1]).any():
            raise IntegrityError(f"{self.unit}: the edges of its keys are damaged", hint=REPAIR)
        if (row := find_bad_key(offsets, data)) is not None:
            message = f"{self.keys_bytes.folder}: key {row} of {len(offsets) - 1} is not UTF-8"
            raise IntegrityError(message, hint=REPAIR)
        return Keys(offsets, data)

    def check_rows(self, n_classes: int | None = None) -> None:
        """Read everything; an IntegrityError where a value may not be stored or a key repeats."""
        self.all()
        self.read_labels(n_classes)
        keys = self.read_keys()
        with KeyHashes() as hashes:
            for block in keys.blocks():
                hashes.take(block)
            twice = keys_of_hashes(hashes.repeated(), keys)
        if twice:
            message = f"{self.unit}: {len(twice)} keys come more than once: {first_few(twice)}"
            raise IntegrityError(message, hint=REPAIR)

    def check_unchanged(self) -> None:
        """Refuse, by an IntegrityError, verified files that were written to since, or are gone."""
        for mapped in self.verified:
            for file in mapped.files:
                file.check_unchanged()

    def _verify(self, *arrays: MappedArray) -> None:
        for mapped in arrays:
            if mapped.folder not in self._verified:
                mapped.verify()
                self._verified[mapped.folder] = mapped


def map_unit(unit: Path, contents: UnitContents, copied_bytes: int = 0) -> UnitArrays:
    """Map the arrays of a unit, each of the shape that its commit says; no row is read.

    Files of at most ``copied_bytes`` are read at once instead. Raises an IntegrityError where the
    files of the commit are not exactly those of the arrays, a link leads out of the unit, or a
    file is not what it must be.
    """
    shapes = _shapes(contents)
    tables = _file_tables(unit, contents.files, shapes)
    arrays = {
        name: map_array(unit / DATA_FOLDER / name, tables[name], copied_bytes) for name in shapes
    }
    for name, expected in shapes.items():
        shape, dtype = arrays[name].geometry.shape, arrays[name].geometry.dtype.name
        if expected not in ((shape, dtype), (None, dtype)):
            raise IntegrityError(
                f"{arrays[name].folder}: expected {expected} by the rows, taps and label columns "
                f"of its commit, found {(shape, dtype)}",
                hint=REPAIR,
            )
    features = {tap.name: arrays[layout.FEATURES_PREFIX + tap.name] for tap in contents.taps}
    labels, images = arrays[layout.LABELS], arrays.get(layout.IMAGE_SHA256)
    keys = arrays[layout.KEYS_OFFSETS], arrays[layout.KEYS_BYTES]
    return UnitArrays(unit, features, labels, *keys, images)


def _shapes(contents: UnitContents) -> dict[str, tuple[tuple[int, ...] | None, str]]:
    """Shape and dtype of each array by its name; the length of the keys is not known."""
    n, k = contents.rows, contents.n_label_columns
    features = {
        layout.FEATURES_PREFIX + tap.name: ((n, tap.dim), contents.dtype) for tap in contents.taps
    }
    images = {layout.IMAGE_SHA256: ((n, 32), "uint8")} if contents.has_image_digests else {}
    return {
        **features,
        **images,
        layout.LABELS: ((n,), "int64") if k is None else ((n, k), "uint8"),
        layout.KEYS_OFFSETS: ((n + 1,), "int64"),
        layout.KEYS_BYTES: (None, "uint8"),
    }


def _file_tables(
    unit: Path, files: Mapping[str, FileDigest], names: Iterable[str]
) -> dict[str, dict[str, FileDigest]]:
    """The files of each array by their path below it; refuses what belongs to none of them."""
    tables: dict[str, dict[str, FileDigest]] = {name: {} for name in names}
    group = f"{DATA_FOLDER}/zarr.json"
    if _has_links(unit, files):
        _refuse_links_out(unit, files)
    for name, digest in files.items():
        data, array, *rest = name.split("/")
        if data == DATA_FOLDER and array in tables and rest:
            tables[array]["/".join(rest)] = digest
        elif name != group:
            message = (
                f"{unit / name}: expected files of arrays alone, found it in the commit's files"
            )
            raise IntegrityError(message, hint=REPAIR)
    check_group(unit / group, files.get(group))
    return tables


def _has_links(unit: Path, names: Iterable[str]) -> bool:
    """Whether a file of a unit, or a folder of it that leads there, is a symbolic link."""
    looked_at = set[str]()
    for name in names:
        path = name
        while path and path not in looked_at:
            looked_at.add(path)
            if os.path.islink(f"{unit}/{path}"):  # noqa: PTH114 - Path takes five times as long
                return True
            path = path.rpartition("/")[0]
    return False


def _refuse_links_out(unit: Path, names: Iterable[str]) -> None:
    root = os.path.realpath(unit)
    for name in names:
        if os.path.commonpath([root, os.path.realpath(unit / name)]) != root:
            raise IntegrityError(
                f"{unit / name}: expected a file of the unit, found a link out of it",
                hint="copy the store with what its links point to: cp -rL SOURCE TARGET",
            )
