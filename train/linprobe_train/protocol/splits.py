"""Stored splits as rows, and the one rule of which split is for what.

The test split is only handed out by :meth:`StoredSplits.open_test`, after C is chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from linprobe.errors import DataError, OptionError
from linprobe_store.handles.dataset import StoredDataset
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore
from linprobe_train.solver.rows import BLOCK_ROWS, Rows, rows_of_views


@dataclass(frozen=True)
class StoredSplits:
    """The splits of one dataset by one encoder."""

    encoder: StoredEncoder
    """Whose features."""
    dataset: StoredDataset
    """Which images."""
    tap: str
    """Which point of the encoder."""
    train: Split
    """Rows to fit."""
    val: Split | None
    """The official val split, where there is one."""

    def rows(self, split: Split) -> Rows:
        """View one split through the memory map.

        Raises
        ------
        DataError : the split is empty, or its labels are out of range.
        """
        views = list(split.blocks(self.tap, rows=BLOCK_ROWS))
        return rows_of_views(views, split.labels, len(split.classes))

    def test_split(self) -> Split:
        """Name the test split, to check that it is there; its rows stay closed.

        Raises
        ------
        DataError : there is none.
        """
        return _needed(self.dataset, "test")

    def open_test(self) -> Rows:
        """Rows of the test split. Called once, after the final fit."""
        return self.rows(self.test_split())

    def digests(self) -> tuple[tuple[str, str], ...]:
        """Name and digest of every split used, sorted by name."""
        splits = [self.train, self.test_split(), *([self.val] if self.val else [])]
        return tuple(sorted((split.name, split.digest) for split in splits))

    def shared_keys(self) -> tuple[str, ...]:
        """Warnings for sample keys that lie in two splits."""
        splits = [self.train, *([self.val] if self.val else []), self.test_split()]
        found = []
        for first, second in combinations(splits, 2):
            # Keys are unique within a split; the set is of the smaller one, for its memory.
            small, large = sorted((first, second), key=lambda split: split.n)
            known = set(small.keys)
            count = sum(key in known for key in large.keys)
            if count:
                found.append(f"{count} keys of {second.name} are also in {first.name}")
        return tuple(found)


def open_splits(encoder: StoredEncoder, dataset: str, tap: str) -> StoredSplits:
    """Find train, val and test of a dataset.

    Raises
    ------
    NotFoundError : no such dataset.
    DataError : no train or no test split.
    OptionError : the encoder has no such tap.
    """
    taps = [known.name for known in encoder.spec.taps]
    if tap not in taps:
        raise OptionError(
            f"{encoder.names.model} has no tap {tap!r}; it has {', '.join(taps)}",
            hint=f"pass --tap {taps[0]}",
        )
    found = encoder.dataset(dataset)
    val = found.split("val") if "val" in _names(found) else None
    opened = StoredSplits(encoder, found, tap, _needed(found, "train"), val)
    opened.test_split()
    return opened


def open_encoder(store: Path, model: str | None) -> StoredEncoder:
    """Find an encoder by model name, slug or id prefix; the only one where ``model`` is None."""
    return FeatureStore(store).encoder(model)


def _needed(dataset: StoredDataset, name: str) -> Split:
    if name not in _names(dataset):
        raise DataError(
            f"{dataset.name} has no {name} split; it has {', '.join(_names(dataset)) or 'none'}",
            hint=f"linprobe extract --split {name} adds it",
        )
    return dataset.split(name)


def _names(dataset: StoredDataset) -> Sequence[str]:
    return tuple(dataset.splits)
