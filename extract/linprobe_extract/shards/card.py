"""The card of a packed dataset: ``dataset.json``, written last, so that its presence is the seal.

Owns what is known about a packed dataset beyond its tars: classes, where labels are, the metric
that the field reports for it, the fingerprint of every shard, and what was kept out and why.
Refuses to know how the shards were made. A folder of shards without a card (made by others) is
no error here: :func:`load_card` gives None.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from linprobe.errors import CardError
from linprobe_store.format.spec import ShardFingerprint

CARD_NAME = "dataset.json"
FORMAT = "linprobe-dataset"
FORMAT_VERSION = 1
UNREADABLE_CARD_HINT = "pack the dataset again: linprobe pack SOURCE --out DIR --overwrite"


class HeadlineMetric(StrEnum):
    """The one number that the field quotes for a dataset (CLIP paper, Table 9)."""

    TOP1 = "top1"
    """Accuracy."""
    MEAN_PER_CLASS = "mean_per_class"
    """Mean over classes of the accuracy within the class."""
    MAP_11_POINT = "map_11_point"
    """Mean over classes of the 11-point interpolated average precision (multi-label)."""
    ROC_AUC = "roc_auc"
    """Area under the ROC curve (two classes)."""
    MEAN_TOP1_TOP5 = "mean_top1_top5"
    """Mean of top-1 and top-5 accuracy."""


@dataclass(frozen=True)
class ShardCard:
    """One packed tar by its content."""

    name: str
    """Basename, such as ``0.tar``."""
    bytes: int
    """Size in bytes."""
    sha256: str
    """Sha256 of the whole file, as 64 hex digits."""
    samples: int
    """Samples in it."""


@dataclass(frozen=True)
class SplitCard:
    """One split: its shards in row order."""

    samples: int
    """Samples in all shards together."""
    shards: tuple[ShardCard, ...]
    """In row order; the n-th lies at ``<split>/<name>``."""


@dataclass(frozen=True)
class UnreadableImage:
    """An image that no decoder could read: kept out of the shards."""

    split: str
    """The split that it would have been in."""
    name: str
    """Its name in the source, such as ``train/cat/7.jpg``."""
    reason: str
    """What the decoder said."""


@dataclass(frozen=True)
class DuplicateImage:
    """One image, byte for byte, that the source holds more than once."""

    sha256: str
    """Sha256 of the image bytes, as 64 hex digits."""
    splits: tuple[str, ...]
    """Split of each copy, test before val before train."""
    names: tuple[str, ...]
    """Name of each copy in the source, in the order of ``splits``."""
    labels: tuple[tuple[int, ...], ...]
    """Labels of each copy, in the order of ``splits``; copies may contradict each other."""
    dropped: tuple[str, ...]
    """Names of the copies that ``--drop-leaks`` left out."""

    @property
    def is_leak(self) -> bool:
        """Whether copies lie in different splits."""
        return len(set(self.splits)) > 1

    @property
    def is_contradiction(self) -> bool:
        """Whether copies carry different labels."""
        return len(set(self.labels)) > 1


@dataclass(frozen=True)
class DatasetCard:
    """What is known about a packed dataset."""

    name: str
    """Slug, such as ``cifar10``."""
    classes: tuple[str, ...]
    """Class names by label; k entries."""
    label_source: str
    """Where labels are in the shards: ``cls`` or ``json:labels``."""
    headline_metric: HeadlineMetric
    """The metric to quote."""
    source: str
    """What was packed, as given: ``digits``, ``imagefolder:flowers``, ``torchvision:CIFAR10``."""
    seed: int
    """Seed of the split rule, where the source had no official split."""
    request: str
    """Sha256 over the source as given and the options that shape the shards."""
    plan: str
    """Sha256 over ``request`` and every sample that was listed (name, labels, size, time): tells
    whether packing again would give the same."""
    splits: Mapping[str, SplitCard]
    """By split name: ``train``, ``val``, ``test``."""
    unreadable: tuple[UnreadableImage, ...] = ()
    """Images kept out because they cannot be decoded."""
    duplicates: tuple[DuplicateImage, ...] = ()
    """Images that occur more than once, within a split or across splits."""
    notes: tuple[str, ...] = ()
    """How the split was made, and other facts a reader of a number should know."""

    @property
    def leaks(self) -> tuple[DuplicateImage, ...]:
        """The images with copies in different splits."""
        return tuple(image for image in self.duplicates if image.is_leak)

    def fingerprints(self, split: str) -> tuple[ShardFingerprint, ...]:
        """The fingerprints of the shards of ``split``, in row order.

        Raises
        ------
        KeyError : the dataset has no such split.
        """
        shards = self.splits[split].shards
        return tuple(ShardFingerprint(shard.name, shard.bytes, shard.sha256) for shard in shards)

    def save(self, folder: Path) -> None:
        """Write ``folder/dataset.json`` in one rename, synced to disk."""
        content = {"format": FORMAT, "version": FORMAT_VERSION} | asdict(self)
        write_atomic(
            folder / CARD_NAME, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
        )


def load_card(folder: Path) -> DatasetCard | None:
    """Read ``folder/dataset.json``; None where there is no such file.

    Raises
    ------
    CardError : the file is no JSON, of another format or version, or lacks a field.
    """
    path = folder / CARD_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"{path} cannot be read: {error}", hint=UNREADABLE_CARD_HINT) from error
    try:
        content = json.loads(text)
        found = (content["format"], content["version"])
        if found != (FORMAT, FORMAT_VERSION):
            raise CardError(
                f"{path}: expected {FORMAT} version {FORMAT_VERSION}, found {found[0]} "
                f"version {found[1]}",
                hint="read it with the linprobe that wrote it, or pack the dataset again",
            )
        return _card_of(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CardError(
            f"{path} is not a dataset card: {type(error).__name__}: {error}",
            hint=UNREADABLE_CARD_HINT,
        ) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write a small file so that it is there whole or not at all, synced to disk."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


T = TypeVar("T")


def _card_of(content: dict[str, object]) -> DatasetCard:
    """The card that parsed JSON describes; a missing, unknown or odd field raises."""
    unknown = set(content) - {field.name for field in fields(DatasetCard)} - {"format", "version"}
    if unknown:
        raise KeyError(f"unknown fields {sorted(unknown)}")
    splits = _typed(dict, content["splits"])
    return DatasetCard(
        name=_typed(str, content["name"]),
        classes=_tuple(str, content["classes"]),
        label_source=_typed(str, content["label_source"]),
        headline_metric=HeadlineMetric(_typed(str, content["headline_metric"])),
        source=_typed(str, content["source"]),
        seed=_typed(int, content["seed"]),
        request=_typed(str, content["request"]),
        plan=_typed(str, content["plan"]),
        splits={name: _split_of(_typed(dict, split)) for name, split in splits.items()},
        unreadable=tuple(UnreadableImage(**row) for row in _tuple(dict, content["unreadable"])),
        duplicates=tuple(_duplicate_of(row) for row in _tuple(dict, content["duplicates"])),
        notes=_tuple(str, content["notes"]),
    )


def _split_of(content: dict[str, object]) -> SplitCard:
    """The split that parsed JSON describes."""
    shards = tuple(
        ShardCard(
            name=_typed(str, shard["name"]),
            bytes=_typed(int, shard["bytes"]),
            sha256=_typed(str, shard["sha256"]),
            samples=_typed(int, shard["samples"]),
        )
        for shard in _tuple(dict, content["shards"])
    )
    return SplitCard(_typed(int, content["samples"]), shards)


def _duplicate_of(content: dict[str, object]) -> DuplicateImage:
    """The duplicate that parsed JSON describes."""
    return DuplicateImage(
        sha256=_typed(str, content["sha256"]),
        splits=_tuple(str, content["splits"]),
        names=_tuple(str, content["names"]),
        labels=tuple(_tuple(int, copy) for copy in _tuple(list, content["labels"])),
        dropped=_tuple(str, content["dropped"]),
    )


def _typed(kind: type[T], value: object) -> T:
    """``value``, which must be of this type."""
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value


def _tuple(kind: type[T], value: object) -> tuple[T, ...]:
    """The items of a list, which must all be of this type."""
    return tuple(_typed(kind, item) for item in _typed(list, value))
