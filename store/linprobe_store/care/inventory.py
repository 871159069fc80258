"""What a store holds, as rows of a table."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from linprobe.errors import StoreError
from linprobe_store.format.layout import COMMIT_FILE, PART_PREFIX, PARTS_FOLDER
from linprobe_store.format.spec import Tap
from linprobe_store.handles.dataset import StoredDataset, is_packed_split
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.lookup import list_folders
from linprobe_store.handles.store import FeatureStore

SplitState = Literal["sealed", "packed", "damaged"]


@dataclass(frozen=True)
class SplitEntry:
    """A sealed split in a listing."""

    name: str
    """``train``, ``val`` or ``test``."""
    rows: int = 0
    """Number of samples; this and what follows is known of a sealed split alone."""
    bytes: int = 0
    """Bytes of its files."""
    skipped: int = 0
    """Samples of its source tars that have no row."""
    digest: str = ""
    """Sha256 of its commit."""
    age_s: float = 0.0
    """Seconds since it was sealed or copied into this store."""
    state: SplitState = "sealed"
    """Only a sealed split can be read."""
    problem: str | None = None
    """Why it cannot be read, or None."""


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset of an encoder in a listing."""

    encoder_id: str
    """Encoder, 64 hex digits."""
    encoder_slug: str
    """What people call the encoder."""
    taps: tuple[Tap, ...]
    """Taps with their dims."""
    dtype: str
    """Dtype of the features."""
    n_parts: int
    """Parts of the encoder, of this or any other dataset."""
    dataset_id: str | None
    """Dataset, 64 hex digits; None for an encoder without any."""
    dataset_name: str
    """What people call the dataset."""
    metric: str | None
    """Headline metric that was declared for it, or None."""
    splits: tuple[SplitEntry, ...]
    """Its sealed splits."""


def list_store(store: FeatureStore) -> tuple[DatasetEntry, ...]:
    """All encoders and datasets of a store; a damaged split is listed with its problem.

    Raises
    ------
    IntegrityError : the spec of an encoder or dataset is damaged.
    """
    return tuple(entry for encoder in store.encoders() for entry in list_encoder(encoder))


def list_encoder(encoder: StoredEncoder) -> Iterator[DatasetEntry]:
    """The datasets of an encoder; one entry without a dataset where there is none."""
    n_parts = len(list_folders(encoder.path / PARTS_FOLDER, PART_PREFIX))
    for dataset in encoder.datasets() or (None,):
        yield DatasetEntry(
            encoder_id=encoder.encoder_id,
            encoder_slug=encoder.names.slug,
            taps=encoder.spec.taps,
            dtype=encoder.spec.storage_dtype,
            n_parts=n_parts,
            dataset_id=dataset.dataset_id if dataset else None,
            dataset_name=dataset.name if dataset else "",
            metric=dataset.metric if dataset else None,
            splits=tuple(_split_entry(dataset, name) for name in dataset.splits) if dataset else (),
        )


def _split_entry(dataset: StoredDataset, name: str) -> SplitEntry:
    try:
        split = dataset.split(name)
    except StoreError as error:
        state: SplitState = "packed" if is_packed_split(dataset.path / name) else "damaged"
        return SplitEntry(name, state=state, problem=error.message)
    return SplitEntry(
        name=name,
        rows=split.n,
        bytes=split.commit.n_bytes,
        skipped=sum(split.skipped_by_reason.values()),
        digest=split.digest,
        age_s=max(0.0, time.time() - (split.path / COMMIT_FILE).stat().st_mtime),
    )
