"""What flows through the pipeline: shards, batches of pixels, batches of features."""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from linprobe.errors import ShardError
from linprobe_extract.encoders.device import Flight
from linprobe_extract.pixels.preprocess import Outcome
from linprobe_extract.run.keys import SplitKeys
from linprobe_extract.run.taking import StoredRow, with_stored
from linprobe_extract.shards.types import Sample, Shard
from linprobe_store.format.spec import (
    DigestArray,
    FeatureBlock,
    LabelArray,
    ShardFingerprint,
    SkippedSample,
)


@dataclass(frozen=True)
class Unit:
    """A shard to be encoded."""

    shard: Shard
    source: Shard
    """Where to read it: the shard itself, or a local copy while there is one."""
    fingerprint: ShardFingerprint
    keys: SplitKeys
    """Those of the split so far."""


@dataclass(frozen=True)
class EncodedBatch:
    """Consecutive samples of one shard with their features."""

    unit: Unit
    block: FeatureBlock
    """Rows of the samples that could be decoded."""
    skipped: tuple[SkippedSample, ...]
    """The others."""
    notes: Counter[str]
    """Remarks on the rows, such as ``orientation_ignored``, by count."""
    taken: Mapping[int, str]
    """Rows that were not encoded but stored before, and the units that they are from."""


@dataclass(frozen=True)
class UnitEnd:
    """A shard has been read to its end."""

    unit: Unit
    planned: int
    """Samples read; rows + skipped must come to this."""
    error: ShardError | None
    """Why it failed, or None."""


@dataclass(frozen=True)
class Decoded:
    """What became of a sample's image."""

    outcome: Outcome
    sha256: bytes
    """Of its bytes."""
    stored: StoredRow | None
    """Its row, where the encoder has encoded it before: it was not decoded then."""


@dataclass(frozen=True)
class HostBatch:
    """Samples on their way to pixels."""

    unit: Unit
    samples: tuple[Sample, ...]
    buffer: torch.Tensor
    tasks: list[Future[list[Decoded]]]


@dataclass(frozen=True)
class FlyingBatch:
    """A batch on the device; the bytes of its images are no longer held."""

    flight: Flight
    buffer: torch.Tensor
    """Of the ring, to which it goes back."""
    unit: Unit
    fresh: list[int]
    """Which images are on the device: all; or those that have to be, beside any of ``stored``."""
    stored: Mapping[int, StoredRow]
    """Rows of images that were encoded before."""
    kept: list[int]
    """Which images have a row; where all are on the device, the others are black."""
    keys: tuple[str, ...]
    """Of the images kept, as are the labels and the notes."""
    labels: LabelArray
    image_sha256: DigestArray
    notes: Counter[str]
    skipped: tuple[SkippedSample, ...]
    """The other images."""

    def landed(self) -> EncodedBatch:
        """Wait for the features, and join them with those that were stored."""
        features = self.flight.collect()
        if self.stored:
            features = with_stored(features, self.fresh, self.stored, self.kept)
        elif self.skipped:
            features = {name: array[self.kept] for name, array in features.items()}
        units = ((row, self.stored.get(image)) for row, image in enumerate(self.kept))
        taken = {row: stored.unit for row, stored in units if stored is not None}
        block = FeatureBlock(self.keys, features, self.labels, self.image_sha256)
        return EncodedBatch(self.unit, block, self.skipped, self.notes, taken)
