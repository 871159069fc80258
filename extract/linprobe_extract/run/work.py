"""How far a dataset is for one encoder: which shards have parts, which splits are sealed.

The identity of a dataset, with its class names: given, found in folder names, or counted.

Labels read again from the tars, where the parts hold labels that were read in another way.

A part belongs to a tar, whatever dataset the tar is read as. When the same tar is asked for with
another ``--label-key``, its features are there already and only its labels have to be read.

What a run would do: shards, images, bytes, what is done already. Encodes nothing.
"""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from linprobe.errors import ExtractError, ShardError
from linprobe.records import JsonValue
from linprobe.terminal import human_bytes
from linprobe_extract.run.pipeline import Task
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.layouts import Shard
from linprobe_extract.shards.locate import DatasetPlan, SplitPlan
from linprobe_extract.shards.samples import (
    Label,
    Labelling,
    label_array,
    read_samples,
    split_member,
)
from linprobe_extract.shards.tar import read_members
from linprobe_store.arrays.seal import ReadLabels
from linprobe_store.arrays.unit_maps import Keys
from linprobe_store.format.commit import PartCommit
from linprobe_store.format.spec import DatasetNames, DatasetSpec, EncoderSpec, LabelArray, SplitSpec
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.split import Split


def dataset_spec(
    plan: DatasetPlan, stored: StoredEncoder, fingerprints: FingerprintCache
) -> DatasetSpec:
    """Describe a dataset by content, all its splits included.

    Without class names the classes are called by their ids, ``"0"`` to the greatest label stored.

    Raises
    ------
    ShardError : a shard has to be read for its fingerprint and cannot be.
    ExtractError : the classes have no names and some shards have no part yet to count them in.
    """
    splits = tuple(
        SplitSpec(split.name, tuple(fingerprints.fingerprint(shard) for shard in split.shards))
        for split in plan.splits
    )
    classes = plan.classes or _counted_classes(plan, splits, stored)
    return DatasetSpec(splits, plan.label_source, classes)


def _counted_classes(
    plan: DatasetPlan, splits: tuple[SplitSpec, ...], stored: StoredEncoder
) -> tuple[str, ...]:
    greatest = -1
    for split in splits:
        for shard in split.shards:
            part = stored.committed_part(shard)
            if part is not None and part.labelling != plan.labelling.identity:
                raise ExtractError(
                    f"the classes of '{plan.name}' have no names, and the labels of "
                    f"'{split.name}/{shard.name}' were stored as {part.labelling}, not as "
                    f"{plan.labelling.identity}",
                    hint="name the classes in classnames.txt or with --classes FILE",
                )
            if part is None:
                raise ExtractError(
                    f"the classes of '{plan.name}' have no names, and '{split.name}/{shard.name}' "
                    "has not been extracted to count them",
                    hint="extract all splits, or name the classes in classnames.txt",
                )
            greatest = max(greatest, int(stored.part_labels(shard).max(initial=-1)))
    return tuple(str(label) for label in range(greatest + 1))


def label_reader(plan: DatasetPlan, split: str, fingerprints: FingerprintCache) -> ReadLabels:
    """Give the function that knows the labels of each part of a split.

    It gives those in the part where they were read as the plan says, and reads the tar otherwise.
    """
    sources = {fingerprints.fingerprint(shard): shard for shard in plan.split(split).shards}
    labelling = plan.labelling

    def read(part: PartCommit, keys: Keys, labels: LabelArray) -> LabelArray:
        if part.labelling == labelling.identity:
            return labels
        with fingerprints.fetched(sources[part.shard]) as (source, _):
            found = _labels(source, labelling)
        return label_array([_label(found, key, source) for key in keys], labelling.classes)

    return read


def _labels(source: Shard, labelling: Labelling) -> dict[str, Label]:
    samples = read_samples(source.url, read_members(source), labelling)
    return {sample.key: sample.label for sample in samples if sample.reason is None}


def _label(found: dict[str, Label], key: str, source: Shard) -> Label:
    if key in found:
        return found[key]
    raise ShardError(
        f"sample '{key}' of '{source.url}' has features but no label of this kind",
        hint="mend its labels, or extract into another store",
    )


@dataclass(frozen=True)
class State:
    """What is there and what is not, of the chosen splits."""

    sealed: tuple[Split, ...]
    """Splits that are complete."""
    tasks: tuple[Task, ...]
    """All shards of the chosen splits, in order: the same for every process of a run, whatever
    the others have done meanwhile."""
    todo: tuple[Task, ...]
    """Those that still have to be encoded, as far as can be told without reading them."""

    @property
    def n_done(self) -> int:
        """Shards that are in the store already."""
        return len(self.tasks) - len(self.todo)

    @property
    def n_images(self) -> int | None:
        """Images still to encode, or None when not known before reading."""
        counts = [task.shard.n_samples for task in self.todo]
        return None if None in counts else sum(count or 0 for count in counts)


def state_of(
    plan: DatasetPlan,
    splits: Sequence[str],
    stored: StoredEncoder | None,
    fingerprints: FingerprintCache,
) -> State:
    """Compare what was asked with what the store has; ``stored`` is None for a new encoder.

    Raises
    ------
    ExtractError : the dataset has no split of a given name.
    """
    sealed, tasks = list[Split](), list[Task]()
    for split in (plan.split(name) for name in splits):
        found = _sealed(plan, split, stored, fingerprints)
        tasks += [Task(split.name, shard) for shard in split.shards]
        if found is not None:
            sealed.append(found)
    done = {split.name for split in sealed}
    todo = (t for t in tasks if t.split not in done and not _has_part(t, stored, fingerprints))
    return State(tuple(sealed), tuple(tasks), tuple(todo))


def seal_complete(
    plan: DatasetPlan,
    splits: Sequence[str],
    stored: StoredEncoder,
    fingerprints: FingerprintCache,
) -> State:
    """Seal each chosen split whose parts are all there; give the state after that.

    Raises
    ------
    ShardError : a shard of another split has to be read for its fingerprint and cannot be.
    StoreError : parts cannot be sealed: keys come twice, labels are out of range.
    """
    for name in splits:
        state = state_of(plan, [name], stored, fingerprints)
        if not (state.sealed or state.todo):
            spec = dataset_spec(plan, stored, fingerprints)
            stored.seal(
                spec,
                name,
                names=DatasetNames(plan.name),
                read_labels=label_reader(plan, name, fingerprints),
            )
    return state_of(plan, splits, stored, fingerprints)


def _has_part(task: Task, stored: StoredEncoder | None, fingerprints: FingerprintCache) -> bool:
    fingerprint = fingerprints.known(task.shard)
    if stored is None or fingerprint is None:
        return False
    return stored.committed_part(fingerprint) is not None


def _sealed(
    plan: DatasetPlan,
    split: SplitPlan,
    stored: StoredEncoder | None,
    fingerprints: FingerprintCache,
) -> Split | None:
    """Find the split, sealed in exactly this dataset: all its splits count, and its classes."""
    wanted = [
        (other.name, tuple(fingerprints.known(shard) for shard in other.shards))
        for other in plan.splits
    ]
    for dataset in stored.datasets() if stored else ():
        same_classes = plan.classes is None or plan.classes == dataset.spec.classes
        if not same_classes or dataset.spec.label_source != plan.label_source:
            continue
        same_shards = wanted == [(s.name, s.shards) for s in dataset.spec.splits]
        if same_shards and split.name in dataset.splits:
            return dataset.split(split.name)
    return None


_LABEL_AND_KEY_BYTES = 8 + 8 + 24
"""An int64 label, an int64 key offset, and a key of usual length."""


@dataclass(frozen=True)
class Forecast:
    """What is left to do for one encoder and dataset."""

    folder: str
    """Folder of the encoder in the store; it holds the readable name and the id."""
    encoder_id: str
    """64 hex digits."""
    precision: str
    """Arithmetic of the forward pass, which is part of the id: bf16 on most GPUs, fp32 on a CPU."""
    n_sealed: int
    """Splits that are complete."""
    n_shards_done: int
    """Shards that are in the store already."""
    n_shards: int
    """Shards still to encode."""
    n_images: int | None
    """Images still to encode; None when shards would have to be read to know."""
    n_bytes: int | None
    """What they will take on disk, in bytes; None likewise."""

    def lines(self) -> list[str]:
        """Tell it to a person."""
        images = "unknown" if self.n_images is None else str(self.n_images)
        size = "unknown" if self.n_bytes is None else f"about {human_bytes(self.n_bytes)}"
        return [
            f"encoder  {self.folder}  ({self.precision})",
            f"done     {self.n_shards_done} shards; {self.n_sealed} splits sealed",
            f"to do    {self.n_shards} shards, {images} images",
            f"on disk  {size} more",
        ]

    def as_json(self) -> JsonValue:
        """Give it as one JSON object."""
        return {
            "encoder_id": self.encoder_id,
            "precision": self.precision,
            "splits_sealed": self.n_sealed,
            "shards_done": self.n_shards_done,
            "shards": self.n_shards,
            "images": self.n_images,
            "bytes": self.n_bytes,
        }


def forecast(state: State, spec: EncoderSpec, folder: str) -> Forecast:
    """Count what is left to do, reading tar headers where no card says how many samples.

    Parameters
    ----------
    state : of the dataset, for this encoder.
    spec : the encoder; says how wide a row is.
    folder : its folder in the store.
    """
    counts = [_n_samples(task.shard) for task in state.todo]
    n_images = None if None in counts else sum(count or 0 for count in counts)
    itemsize = np.dtype(spec.storage_dtype).itemsize
    row_bytes = sum(tap.dim for tap in spec.taps) * itemsize + _LABEL_AND_KEY_BYTES
    return Forecast(
        folder=folder,
        encoder_id=spec.encoder_id,
        precision=spec.precision,
        n_sealed=len(state.sealed),
        n_shards_done=state.n_done,
        n_shards=len(state.todo),
        n_images=n_images,
        # A part and the sealed split hold each row once.
        n_bytes=None if n_images is None else 2 * n_images * row_bytes,
    )


def _n_samples(shard: Shard) -> int | None:
    if shard.n_samples is not None:
        return shard.n_samples
    return None if shard.is_stream else _count(Path(shard.url))


def _count(path: Path) -> int | None:
    """Count keys by seeking from header to header; None for what is no plain tar."""
    try:
        with tarfile.open(path, "r:") as tar:
            return len({split_member(member.name)[0] for member in tar if member.isreg()})
    except (tarfile.TarError, OSError):
        return None
