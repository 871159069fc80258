"""What a batch became: features and decode outcomes to the rows and skips that are stored."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from linprobe_extract.errors import ShardError
from linprobe_extract.preprocess import Note
from linprobe_extract.samples import Sample
from linprobe_extract.units import EncodedBatch, Unit
from linprobe_store.records import FeatureArray, FeatureBlock, LabelArray, SkippedSample


@dataclass(frozen=True)
class Decoded:
    """What became of one image on its way to pixels."""

    reason: str | None
    """Why it is skipped, or None."""
    notes: tuple[Note, ...]
    """Remarks to be counted."""


def encoded_batch(
    unit: Unit,
    samples: Sequence[Sample],
    decoded: Sequence[Decoded],
    features: Mapping[str, FeatureArray],
    classes: tuple[str, ...] | None,
) -> EncodedBatch:
    """Keep the rows of the images that could be decoded, name the others.

    Parameters
    ----------
    unit : the shard they come from.
    samples, decoded : b of each, in tar order.
    features : (b, d) per tap; rows of skipped samples are those of a black image.
    classes : class names, or None; their number is the width of multi-hot labels.

    Raises
    ------
    ShardError : a sample has several labels and the class names are not known.
    """
    kept = [i for i, image in enumerate(decoded) if image.reason is None]
    whole = len(kept) == len(decoded)
    block = FeatureBlock(
        keys=tuple(samples[i].key for i in kept),
        features={name: array if whole else array[kept] for name, array in features.items()},
        labels=label_array([samples[i] for i in kept], classes),
    )
    skipped = tuple(
        SkippedSample(sample.key, image.reason)
        for sample, image in zip(samples, decoded, strict=True)
        if image.reason is not None
    )
    notes = Counter(str(note) for i in kept for note in decoded[i].notes)
    return EncodedBatch(unit, block, skipped, notes)


def label_array(samples: Sequence[Sample], classes: tuple[str, ...] | None) -> LabelArray:
    """Labels as the store takes them: (n,) int64, or (n, k) uint8 for multi-label samples.

    Raises
    ------
    ShardError : a sample has several labels and the class names are not known.
    """
    if not any(isinstance(sample.label, tuple) for sample in samples):
        return np.array([sample.label for sample in samples], np.int64)
    if classes is None:
        raise ShardError(
            f"sample '{samples[0].key}' has several labels and the number of classes is unknown",
            hint="name the classes in classnames.txt or with --classes FILE",
        )
    hot = np.zeros((len(samples), len(classes)), np.uint8)
    for row, sample in zip(hot, samples, strict=True):
        row[list(sample.label) if isinstance(sample.label, tuple) else [sample.label]] = 1
    return hot
