"""The card of a packed dataset: ``dataset.json``, written last, so that its presence is the seal.

A folder of shards without a card (made by others) is no error.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from linprobe.disk import write_atomic
from linprobe.errors import CardError
from linprobe.names import SPLITS, check_class_names
from linprobe.records import NonNegative, encode, parse, read_bytes
from linprobe.terminal import command
from linprobe_store.format.spec import ShardFingerprint

CARD_NAME = "dataset.json"
FORMAT: Literal["linprobe-dataset"] = "linprobe-dataset"
FORMAT_VERSION: Literal[1] = 1


@dataclass(frozen=True)
class _Header:
    """Tells a card of another version from a damaged one."""

    format: str = FORMAT
    version: int = FORMAT_VERSION


@dataclass(frozen=True)
class ShardCard:
    """One packed tar by its content."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[^./\\\x00][^/\\\x00]*\Z")]
    """Basename, such as ``0.tar``; neither a path nor hidden."""
    bytes: NonNegative
    """Size in bytes."""
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """Sha256 of the whole file, as 64 hex digits."""
    samples: NonNegative
    """Samples in it."""

    @property
    def fingerprint(self) -> ShardFingerprint:
        """What the store knows it by."""
        return ShardFingerprint(self.name, self.bytes, self.sha256)


@dataclass(frozen=True)
class SplitCard:
    """One split: its shards in row order."""

    samples: NonNegative
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


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What is known about a packed dataset."""

    format: Literal["linprobe-dataset"] = FORMAT
    """What the file is."""
    version: Literal[1] = FORMAT_VERSION
    """Of this format."""
    name: str
    """Slug, such as ``cifar10``."""
    classes: tuple[str, ...]
    """Class names by label; k entries."""
    label_source: str
    """Where labels are in the shards: ``cls`` or ``json:labels``."""
    headline_metric: str
    """The metric that the field quotes for the dataset, such as ``top1`` or ``mean_per_class``."""
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
    warnings: tuple[str, ...] = ()
    """What will hurt and is not in the fields above: classes of few images, files in no class."""
    upright: bool = False
    """Whether images were turned as their EXIF says; of new ones, ``predict`` does what this says.
    """
    rotated: NonNegative = 0
    """Images in the shards whose EXIF asked to be turned."""

    @property
    def leaks(self) -> tuple[DuplicateImage, ...]:
        """The images with copies in different splits."""
        return tuple(image for image in self.duplicates if image.is_leak)

    def save(self, folder: Path) -> None:
        """Write ``folder/dataset.json``, durably, whole or not at all (StoreError)."""
        write_atomic(folder / CARD_NAME, encode(self))


def load_card(folder: Path) -> DatasetCard | None:
    """Read ``folder/dataset.json``; None where there is none: shards that others made.

    Raises CardError where it is no JSON, of another format or version, or a field is missing,
    unknown or of another kind; StoreError where it cannot be read.
    """
    path = folder / CARD_NAME
    if not path.exists():
        return None
    hint = f"pack the dataset again: {command('pack', 'SOURCE', out='DIR', overwrite=True)}"
    data = read_bytes(path, error=CardError, hint=hint)
    header = _Header()
    with suppress(ValueError, RecursionError):  # no card at all: told below
        header = msgspec.json.decode(data, type=_Header)
    if header != _Header():
        raise CardError(
            f"{path}: expected {FORMAT} version {FORMAT_VERSION}, found {header.format} "
            f"version {header.version}",
            hint="read it with the linprobe that wrote it, or pack the dataset again",
        )
    card = parse(DatasetCard, data, str(path), error=CardError, hint=hint)
    check_class_names(card.classes, str(path), error=CardError)
    for split, content in card.splits.items():
        shards = [shard.name for shard in content.shards]
        if split not in SPLITS or len(set(shards)) < len(shards):
            fault = f"{path}: split {split!r} is unknown, or names a shard twice"
            raise CardError(fault, hint=hint)
    return card
