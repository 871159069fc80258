"""How far a dataset is for one encoder: what is sealed, what is left, and sealing it.

Reads no image and imports no torch.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from msgspec import UNSET

from linprobe.errors import ExtractError, ShardError
from linprobe_extract.run.keys import SplitKeys
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.fetch import Fetcher
from linprobe_extract.shards.labels import label_array
from linprobe_extract.shards.samples import read_samples, split_member
from linprobe_extract.shards.tar import member_names, read_members
from linprobe_extract.shards.types import DatasetPlan, Shard
from linprobe_store.arrays.keys import Keys
from linprobe_store.arrays.part import part_name
from linprobe_store.arrays.seal import ReadLabels
from linprobe_store.care.remove import remove_parts
from linprobe_store.format.commit import PartCommit
from linprobe_store.format.layout import DATASET_PREFIX, SETS_FOLDER
from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    EncoderSpec,
    LabelArray,
    ShardFingerprint,
    SplitSpec,
)
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.newest import name_newest
from linprobe_store.handles.split import Split

_LABEL_AND_KEY_BYTES = 8 + 8 + 24 + 32
"""An int64 label, an int64 key offset, a key of usual length, and the digest of the image."""


@dataclass(frozen=True)
class Work:
    """Splits of a dataset and what a store has of them, as of when it is first asked."""

    plan: DatasetPlan
    splits: tuple[str, ...]
    """Names of the splits to extract and seal, all of the plan's or some."""
    stored: StoredEncoder | None
    """The encoder; None when the store does not have it yet."""
    fingerprints: FingerprintCache
    keep_parts: bool = False
    """Whether parts stay once all splits that were asked for are sealed."""

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards of the splits, in order: the same for every process of a run."""
        return tuple(shard for name in self.splits for shard in self.plan.split(name).shards)

    @cached_property
    def sealed(self) -> dict[str, Split]:
        """Splits that are complete, in order; of exactly this dataset, its classes included."""
        if not self.seals:  # as of before anything is looked at
            return {}
        wanted = [
            (split.name, tuple(self.fingerprints.known(shard) for shard in split.shards))
            for split in self.plan.splits
        ]
        datasets = [
            dataset
            for dataset in (self.stored.datasets() if self.stored else ())
            if self.plan.classes in (None, dataset.spec.classes)
            and dataset.spec.label_source == self.plan.label_source
            and dataset.spec.key_prefix == self.plan.key_prefix
            and wanted == [(split.name, split.shards) for split in dataset.spec.splits]
        ]
        holders = {name: [d for d in datasets if name in d.splits] for name in self.splits}
        return {name: held[0].split(name) for name, held in holders.items() if held}

    @cached_property
    def todo(self) -> tuple[Shard, ...]:
        """Shards still to be encoded, as far as can be told without reading them.

        What is done is one listing of the parts; a damaged one is found when it is sealed.
        """
        parts = self.stored.part_names() if self.stored else frozenset()
        return tuple(
            shard
            for name in self.splits
            if name not in self.sealed
            for shard in self.plan.split(name).shards
            if (known := self.fingerprints.known(shard)) is None or part_name(known) not in parts
        )

    def keys_by_shard(self) -> dict[Shard, SplitKeys]:
        """What is known of the keys of each shard's split: those of its parts.

        Raises ShardError where they come twice already.
        """
        assert self.stored is not None
        keys_of: dict[Shard, SplitKeys] = {}
        for name in self.splits:
            keys, shards = SplitKeys(self.plan.key_prefix), self.plan.split(name).shards
            for content in map(self.fingerprints.known, shards):
                if content is not None and self.has_part(content):
                    keys.take(content, self.stored.part_keys(content))
            keys_of |= dict.fromkeys(shards, keys)
        return keys_of

    @property
    def n_images(self) -> int | None:
        """Images still to encode, or None when not known before reading."""
        counts = [shard.n_samples for shard in self.todo]
        return None if None in counts else sum(count or 0 for count in counts)

    def has_part(self, fingerprint: ShardFingerprint | None) -> bool:
        """Whether the features of a tar are committed, by now."""
        if self.stored is None or fingerprint is None:
            return False
        return self.stored.has_part(fingerprint)

    def is_done_by_now(self, shard: Shard) -> bool:
        """Whether a shard has its part by now, or its split was sealed since the work was seen."""
        self.fingerprints.reload()
        if self.has_part(self.fingerprints.known(shard)):
            return True
        if self.seals == (after := self.again()).seals:
            return False
        return any(shard in self.plan.split(name).shards for name in after.sealed)

    @cached_property
    def seals(self) -> frozenset[Path]:
        """Folders of the sealed splits of all datasets: what changes where parts may be gone."""
        if self.stored is None:
            return frozenset()
        return frozenset(self.stored.path.glob(f"{SETS_FOLDER}/{DATASET_PREFIX}*/*"))

    def again(self) -> "Work":
        """The same work as it stands now, whatever other processes have done meanwhile."""
        self.fingerprints.reload()
        return replace(self)

    def seal(self) -> tuple[Split, ...]:
        """Seal each split whose parts are all there; give all that are sealed then, in order.

        Declares what the card does and the store does not yet, and lets the name mean this dataset.
        Once all splits are sealed, their files are verified and their parts removed, if not kept.

        Raises
        ------
        ShardError : a shard of another split has to be read for its fingerprint and cannot be.
        ExtractError : the classes have no names and the parts' labels were read in another way.
        StoreError : parts cannot be sealed: keys come twice, labels are out of range.
        """
        if self.stored is None:
            return ()
        names = DatasetNames(self.plan.name, self.plan.metric, self.plan.upright or UNSET)
        # Without class names, a label of what is left may name one more class.
        is_known = self.plan.classes is not None or not self.todo
        sealed = []
        for name in self.splits:
            split = self.sealed.get(name)
            is_encoded = set(self.todo).isdisjoint(self.plan.split(name).shards)
            if split is None and is_known and is_encoded:
                read_labels = self._label_reader(name)
                split = self.stored.seal(self._spec, name, names=names, read_labels=read_labels)
            elif split is not None and split.dataset_names.completed(names) != split.dataset_names:
                split = self.stored.register_dataset(split.dataset_spec, names).split(name)
            sealed += [] if split is None else [split]
        if sealed and len(sealed) == len(self.splits):
            datasets = self.stored.datasets()
            name_newest(next(d for d in datasets if d.path == sealed[0].path.parent), datasets)
            if not self.keep_parts:
                remove_parts(self.stored, sealed)
        return tuple(sealed)

    @cached_property
    def _spec(self) -> DatasetSpec:
        """The dataset by content; classes without names are called by their ids, from 0."""
        for split in self.sealed.values():  # whose parts may be gone
            return split.dataset_spec
        splits = tuple(
            SplitSpec(split.name, tuple(map(self.fingerprints.fingerprint, split.shards)))
            for split in self.plan.splits
        )
        classes = self.plan.classes
        if classes is None:
            greatest = max(self._greatest_label(s) for split in splits for s in split.shards)
            classes = tuple(map(str, range(greatest + 1)))
        return DatasetSpec(splits, self.plan.label_source, classes, self.plan.key_prefix)

    def _greatest_label(self, shard: ShardFingerprint) -> int:
        assert self.stored is not None
        part, labelling = self.stored.committed_part(shard), self.plan.labelling.identity
        if part is not None and part.labelling != labelling:
            raise ExtractError(
                f"the classes of '{self.plan.name}' have no names, and the labels of "
                f"'{shard.name}' were stored as {part.labelling}, not as {labelling}",
                hint="name the classes in classnames.txt or with --classes FILE",
            )
        return int(self.stored.part_labels(shard).max(initial=-1))

    def _label_reader(self, split: str) -> ReadLabels:
        """Give what knows the labels of a split's parts, whatever dataset their tars are read as.

        Where a part's labels were read in another way, they are read again; its features stay.
        """
        shards = {self.fingerprints.fingerprint(s): s for s in self.plan.split(split).shards}
        labelling = self.plan.labelling

        def read(part: PartCommit, keys: Keys, labels: LabelArray) -> LabelArray:
            if part.labelling == labelling.identity:
                return labels
            with Fetcher(self.fingerprints) as files, files.fetched(shards[part.shard]) as fetched:
                source, _ = fetched
                samples = read_samples(source.url, read_members(source), labelling)
                by_key = {s.key: s.label for s in samples if s.reason is None}
            missing = next((key for key in keys if key not in by_key), None)
            if missing is not None:
                raise ShardError(
                    f"sample '{missing}' of '{source.url}' has features but no label of this kind",
                    hint="mend its labels, or extract into another store",
                )
            return label_array([by_key[key] for key in keys], labelling.classes)

        return read


@dataclass(frozen=True)
class Forecast:
    """What is left to do for one encoder and dataset."""

    folder: str
    """Folder of the encoder in the store; it holds the readable name and the id."""
    encoder_id: str
    """64 hex digits."""
    precision: str
    """Arithmetic of the forward pass, which is part of the id."""
    splits_sealed: int
    shards_done: int
    shards: int
    """Shards still to encode."""
    images: int | None
    """Images still to encode; None when shards would have to be read to know."""
    bytes: int | None
    """What they will take on disk; None likewise."""
    peak_bytes: int | None
    """What they take until the splits are sealed: a part and the split hold each row once."""
    precision_reason: str | None = None
    """Why it is computed so; None where the store has the encoder, and it was not loaded."""
    other_precisions: tuple[str, ...] = ()
    """What to know of encoders in the store that differ in precision alone."""
    images_per_s: float | None = None
    """What the encoder alone does on a CPU, from a few images; None where it is not known."""


def forecast(work: Work, spec: EncoderSpec, folder: str) -> Forecast:
    """Count what is left to do, reading tar headers where no card says how many samples."""
    counts = [_n_samples(shard) for shard in work.todo]
    n_images = None if None in counts else sum(count or 0 for count in counts)
    itemsize = np.dtype(spec.storage_dtype).itemsize
    row_bytes = sum(tap.dim for tap in spec.taps) * itemsize + _LABEL_AND_KEY_BYTES
    return Forecast(
        folder=folder,
        encoder_id=spec.encoder_id,
        precision=spec.precision,
        splits_sealed=len(work.sealed),
        shards_done=len(work.shards) - len(work.todo),
        shards=len(work.todo),
        images=n_images,
        bytes=None if n_images is None else (1 + work.keep_parts) * n_images * row_bytes,
        peak_bytes=None if n_images is None else 2 * n_images * row_bytes,
    )


def _n_samples(shard: Shard) -> int | None:
    """Count keys by seeking from header to header; None for what is no plain tar on disk."""
    if shard.n_samples is not None or shard.kind != "file":
        return shard.n_samples
    with suppress(ShardError):
        return len({parts[0] for parts in map(split_member, member_names(shard)) if parts})
    return None
