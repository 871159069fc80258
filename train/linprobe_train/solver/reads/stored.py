"""Rows of stored splits as a value that travels: they are opened where it arrives."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError, IntegrityError
from linprobe_store.handles.encoder import open_encoder
from linprobe_store.handles.split import Split
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.rows import Rows, rows_of_split


@dataclass(frozen=True)
class Place:
    """A split and a tap of it, by where it lies and what it must be."""

    folder: str
    """Of the split, absolute."""
    digest: str
    """Of its commit, 64 hex digits."""
    tap: str
    """Such as ``embedding``."""

    def open(self) -> Split:
        """The split; ``StoreError``: it is not there, is damaged, or another."""
        dataset = Path(self.folder).parent
        split = (
            open_encoder(dataset.parent.parent).open_dataset(dataset).split(Path(self.folder).name)
        )
        if split.digest != self.digest:
            what = f"{self.folder}: expected the split of digest {self.digest[:12]}"
            raise IntegrityError(
                f"{what}, found {split.digest[:12]}",
                hint="copy the store of the process that fits, or mount that very folder",
            )
        return split


@dataclass(frozen=True)
class StoredRows:
    """Which rows of which splits, in their order, and what a fit gave them."""

    uid: str
    """Of these very rows, random."""
    places: tuple[Place, ...]
    """The splits that they are of."""
    blocks: NDArray[np.int32]
    """(2, blocks) place and number there of each block."""
    takes: tuple[NDArray[np.uint16] | None, ...]
    """Positions used of each block, None for all."""
    fitted: NDArray[np.int64] | None
    """As in :class:`Rows`."""
    weights: Float64 | None
    """As in :class:`Rows`."""

    def open(self) -> Rows:
        """The rows, mapped and verified here; ``StoreError`` where that cannot be."""
        whole = [_rows_at(place) for place in self.places]
        try:
            check_places(whole, self.places)
        except IntegrityError:  # of a fit before this one
            _rows_at.cache_clear()
            whole = [_rows_at(place) for place in self.places]
        blocks, labels = [], []
        for (which, index), take in zip(self.blocks.T.tolist(), self.takes, strict=True):
            rows = whole[which]
            block = rows.blocks[index]
            own = rows.labels[rows.offsets[index] : rows.offsets[index + 1]]
            blocks.append(block if take is None else block.at(take.astype(np.int64)))
            labels.append(own if take is None else own[take])
        rows = replace(whole[0], blocks=tuple(blocks), labels=np.concatenate(labels))
        rows = rows if self.fitted is None else rows.numbered(self.fitted)
        return replace(rows, weights=self.weights)


@lru_cache(maxsize=8)
def _rows_at(place: Place) -> Rows:
    """All rows of a place, which are verified once."""
    return rows_of_split(place.open(), place.tap)


def check_places(known: Iterable[Rows], places: Collection[Place]) -> None:
    """Refuse, by an IntegrityError, rows of these places whose files changed since verified."""
    digests = {place.digest for place in places}
    origins = (block.origin for rows in known for block in rows.blocks)
    splits = {origin.split.path: origin.split for origin in origins if origin is not None}
    for split in splits.values():
        if split.digest in digests:
            split.check_unchanged()


def stored_rows(rows: Rows) -> StoredRows:
    """Say which these are; ``DataError``: they are an array of this process alone."""
    origins = [block.origin for block in rows.blocks if block.origin is not None]
    if len(origins) < len(rows.blocks):
        what = "rows of an array are in this process alone: no worker can read them"
        raise DataError(what, hint="import them into a store, or leave the workers out")
    of_splits: dict[tuple[str, str], int] = {}
    places: list[Place] = []
    numbers = []
    for origin in origins:
        key = origin.split.digest, origin.tap
        if key not in of_splits:
            of_splits[key] = len(places)
            places.append(Place(str(origin.split.path.resolve()), *key))
        numbers.append(of_splits[key])
    blocks = np.array([numbers, [origin.index for origin in origins]], np.int32)
    takes = [None if b.take is None else b.take.astype(np.uint16) for b in rows.blocks]
    return StoredRows(uuid4().hex, tuple(places), blocks, tuple(takes), rows.fitted, rows.weights)
