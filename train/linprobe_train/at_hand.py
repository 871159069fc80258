"""What the store still knows about a result, where the store is at hand.

A result stands on its own; the store adds the size of the features, and tells when the features
are no longer the ones that the result was made from.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from linprobe_store import FeatureStore, LinprobeError, StoredDataset
from linprobe_train.results import ProbeResult


@dataclass(frozen=True)
class StoreFacts:
    """A result beside the store."""

    bytes_per_image: int | None
    """Bytes of one row of features; None where the store does not have them."""
    bytes: int | None
    """Bytes of the rows of all splits used."""
    changes: tuple[str, ...]
    """What is no longer as it was when the result was made."""


UNKNOWN = StoreFacts(None, None, ())
"""Without a store at hand."""


def facts_of(result: ProbeResult, store: Path | None) -> StoreFacts:
    """Look a result's features up; a store that does not have them is no error."""
    dataset = stored_dataset_of(result, store)
    if dataset is None:
        return UNKNOWN
    changes, rows, width = [], 0, None
    for name, digest in result.question.splits:
        try:
            split = dataset.split(name)
        except LinprobeError as error:
            changes.append(f"{name} cannot be opened any more: {error}")
            continue
        rows, width = rows + split.n, result.dim * np.dtype(split.dtype).itemsize
        if split.digest != digest:
            changes.append(
                f"{name} of {dataset.name} has changed in the store since: "
                f"{digest[:12]} then, {split.digest[:12]} now"
            )
    return StoreFacts(width, None if width is None else rows * width, tuple(changes))


def stored_dataset_of(result: ProbeResult, store: Path | None) -> StoredDataset | None:
    """The dataset of a result in the store, or None where it is not there."""
    if store is None or not store.is_dir():
        return None
    try:
        encoder = FeatureStore(store).encoder(result.question.encoder_id)
        return encoder.dataset(result.question.dataset_id)
    except LinprobeError:
        return None
