"""What a batch became: features and decode outcomes to the rows and skips that are stored."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from linprobe_extract.labels import label_array
from linprobe_extract.preprocess import Note
from linprobe_extract.samples import Sample
from linprobe_extract.units import EncodedBatch, Unit
from linprobe_store.records import FeatureArray, FeatureBlock, SkippedSample


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
        labels=label_array([samples[i].label for i in kept], classes),
    )
    skipped = tuple(
        SkippedSample(sample.key, image.reason)
        for sample, image in zip(samples, decoded, strict=True)
        if image.reason is not None
    )
    notes = Counter(str(note) for i in kept for note in decoded[i].notes)
    return EncodedBatch(unit, block, skipped, notes)
