"""Rows that need no encoder: those of images that the same encoder has encoded before.

Images are told by the sha256 of their bytes, wherever they lie: what is taken is the row of the
same image by the same encoder, bit for bit, and its file is verified before.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import IntegrityError, StoreError
from linprobe_extract.run.work import Work
from linprobe_store.arrays.mapping import MappedFile
from linprobe_store.arrays.part import part_name
from linprobe_store.arrays.unit_maps import UnitArrays, map_unit
from linprobe_store.format.commit import PartCommit, read_commit
from linprobe_store.format.layout import PARTS_FOLDER
from linprobe_store.format.spec import FeatureArray

MAX_ROWS = 1 << 25
"""Rows that are looked through at most: 12 bytes of memory each, 16 more while they are sorted."""
_BLOCK_ROWS = 1 << 16
_MAX_PARTS = 4096
"""Parts that are looked through at most: a process may have some 65,000 maps of files."""


@dataclass(frozen=True)
class StoredRow:
    """The row of an image that was encoded before."""

    unit: str
    """Its unit, below the folder of the encoder."""
    features: Mapping[str, FeatureArray]
    """A copy of its features (d,) by tap."""


class StoredRows:
    """The rows of units by the sha256 of their images; methods may be called from any thread.

    Parameters
    ----------
    units : by their paths below the encoder's folder; those with digests of images.
    tell : sees a line for what is damaged, once, and is therefore not taken.
    """

    def __init__(self, units: Mapping[str, UnitArrays], tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._is_sound: dict[Path, bool] = {}
        self._units: list[tuple[str, UnitArrays]] = []
        starts, heads = [0], [np.empty(0, np.uint64)]
        for name, arrays in units.items():
            images = arrays.image_sha256
            if images is None:
                continue
            if starts[-1] + images.rows > MAX_ROWS:
                tell(f"no rows are taken from {name}: {MAX_ROWS:,} are looked through at most")
            elif all(self._check(name, file) for file in images.files):
                self._units.append((name, arrays))
                starts.append(starts[-1] + images.rows)
                heads += [_heads(block) for block in images.blocks(_BLOCK_ROWS)]
        self._starts = np.array(starts)
        unsorted = np.concatenate(heads)
        self._order = np.argsort(unsorted, kind="stable").astype(np.uint32)
        self._heads = unsorted[self._order]

    def __len__(self) -> int:
        return len(self._heads)

    def find(self, digests: Sequence[bytes]) -> list[StoredRow | None]:
        """The stored rows of images, by the sha256 of their bytes; None for an image without."""
        rows: list[StoredRow | None] = [None] * len(digests)
        heads = np.frombuffer(b"".join(digest[:8] for digest in digests), np.uint64)
        places = np.searchsorted(self._heads, heads)
        places[places == len(self._heads)] = 0
        for i in np.flatnonzero(self._heads[places] == heads).tolist():
            rows[i] = next(self._sound_rows(int(places[i]), digests[i]), None)
        return rows

    def _sound_rows(self, place: int, digest: bytes) -> Iterator[StoredRow]:
        """Rows of one image, from the first place where its digest may be."""
        head = _heads(np.frombuffer(digest, np.uint8)[None])[0]
        while place < len(self._heads) and self._heads[place] == head:
            row = int(self._order[place])
            number = int(np.searchsorted(self._starts, row, "right")) - 1
            name, arrays = self._units[number]
            local = row - int(self._starts[number])
            place += 1
            images = arrays.image_sha256
            assert images is not None
            file, i = divmod(local, images.geometry.file_rows)
            if images.files[file].rows[i].tobytes() == digest:
                features = self._read(name, arrays, local)
                if features is not None:
                    yield StoredRow(name, features)

    def _read(self, name: str, arrays: UnitArrays, row: int) -> dict[str, FeatureArray] | None:
        """Copy the row of every tap; None where one lies in a damaged file."""
        features = {}
        for tap, mapped in arrays.features.items():
            number, local = divmod(row, mapped.geometry.file_rows)
            file = mapped.files[number]
            if not self._check(name, file):
                return None
            features[tap] = np.array(file.rows[local])
        return features

    def _check(self, name: str, file: MappedFile) -> bool:
        """Whether a file is what was committed; its bytes are read when this is asked first."""
        with self._lock:
            if file.path not in self._is_sound:
                problem = None
                try:
                    if (bad := file.verify()) is not None:
                        problem = f"row {bad.row}: expected {bad.problem}"
                except IntegrityError as error:
                    problem = error.message
                self._is_sound[file.path] = problem is None
                if problem is not None:
                    self._tell(f"no rows are taken from {name}, images are encoded: {problem}")
            return self._is_sound[file.path]


def _heads(digests: NDArray[np.generic]) -> NDArray[np.uint64]:
    """The first 8 bytes of digests (n, 32)."""
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]


def stored_rows(work: Work, tell: Callable[[str], None]) -> StoredRows | None:
    """The rows that shards still to be encoded may have in the store; None where there are none.

    Those of the encoder's sealed splits, the dataset of the same name first, and of parts that are
    in none of them and not of this dataset.
    """
    units = dict(_units(work, tell)) if work.todo else {}
    rows = StoredRows(units, tell)
    return rows if len(rows) else None


def _units(work: Work, tell: Callable[[str], None]) -> Iterator[tuple[str, UnitArrays]]:
    stored = work.stored
    assert stored is not None
    known = map(work.fingerprints.known, work.shards)
    seen = {part_name(shard) for shard in known if shard is not None}
    for dataset in sorted(stored.datasets(), key=lambda each: each.name != work.plan.name):
        for name in dataset.splits:
            try:
                split = dataset.split(name)
            except StoreError as error:
                tell(f"no rows are taken from {dataset.path.name}/{name}: {error.message}")
                continue
            seen |= {part_name(part.shard) for part in split.commit.parts}
            if split.arrays.image_sha256 is not None:
                yield str(split.path.relative_to(stored.path)), split.arrays
    others = sorted(stored.part_names() - seen)
    if len(others) > _MAX_PARTS:
        tell(f"no rows are taken from {len(others) - _MAX_PARTS} parts: there are too many")
    for path in (stored.path / PARTS_FOLDER / name for name in others[:_MAX_PARTS]):
        try:
            part = read_commit(PartCommit, path)
            if part.encoder_id == stored.encoder_id and part.has_image_digests:
                yield f"{PARTS_FOLDER}/{path.name}", map_unit(path, part)
        except StoreError as error:
            if path.exists():  # else sealed and removed meanwhile
                tell(f"no rows are taken from {PARTS_FOLDER}/{path.name}: {error.message}")


def with_stored(
    encoded: Mapping[str, FeatureArray], fresh: Sequence[int], stored: Mapping[int, StoredRow],
    kept: Sequence[int],
) -> Mapping[str, FeatureArray]:  # fmt: skip
    """Join the rows of a batch that were encoded and those that were stored.

    Parameters
    ----------
    encoded : features (m, d) by tap, of the images ``fresh``; empty where there are none.
    stored : the stored rows, at least one, by image.
    kept : the images to give, in this order.
    """
    places = {image: row for row, image in enumerate(fresh)}
    joined = {}
    for tap, row in next(iter(stored.values())).features.items():
        joined[tap] = np.empty((len(kept), *row.shape), row.dtype)
        for i, image in enumerate(kept):
            given = stored.get(image)
            joined[tap][i] = encoded[tap][places[image]] if given is None else given.features[tap]
    return joined


def row_ranges(rows: Iterable[int]) -> str:
    """Rows in rising order as text, such as ``0-249,251``."""
    ranges: list[list[int]] = []
    for row in rows:
        if ranges and ranges[-1][1] == row - 1:
            ranges[-1][1] = row
        else:
            ranges.append([row, row])
    return ",".join(f"{first}-{last}" if first < last else str(first) for first, last in ranges)
