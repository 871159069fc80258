"""Sealing: the parts of a split, in shard-list order, into one array per field.

Memory is O(block) and 8 bytes per row (a hash of each key, to find duplicates); rows go from the
maps of the parts straight to the shard files of the split.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from linprobe.disk import Staging, told_as_store_error
from linprobe.errors import MismatchError, NotFoundError, StoreError
from linprobe.names import first_few
from linprobe.terminal import command
from linprobe_store.arrays.part import find_part, part_path
from linprobe_store.arrays.unit_maps import Keys, UnitArrays, map_unit
from linprobe_store.arrays.unit_writer import UnitWriter
from linprobe_store.format.commit import PartCommit, PartRows, check_files, sign
from linprobe_store.format.layout import COMMIT_FILE
from linprobe_store.format.spec import (
    DatasetSpec,
    EncoderSpec,
    FeatureArray,
    FeatureBlock,
    LabelArray,
)

BLOCK_ROWS = 4096
"""Rows read and written at once."""
ReadLabels: TypeAlias = Callable[[PartCommit, Keys, LabelArray], LabelArray]
"""Takes a part, its keys and its labels; gives the labels to seal, in the order of the keys."""


@dataclass(frozen=True)
class SealTarget:
    """The split to be sealed."""

    path: Path
    """Folder of the split; its parent exists."""
    spec: EncoderSpec
    """Encoder."""
    dataset: DatasetSpec
    """Dataset, whose classes bound the labels."""
    split: str
    """Name of the split."""


def seal_parts(target: SealTarget, encoder_path: Path, read_labels: ReadLabels | None) -> None:
    """Write a sealed split from its parts, every byte of which is verified first.

    Parameters
    ----------
    target : the split.
    encoder_path : folder of the encoder, which holds the parts.
    read_labels : gives other labels than those in the parts.

    Raises
    ------
    NotFoundError : the dataset has no such split, or parts are missing; names the source tars.
    IntegrityError : a part is damaged.
    MismatchError : labels read in different ways or out of range, or parts of another encoder.
    StoreError : a key comes twice, or the disk refuses.
    """
    parts = _find_parts(target, encoder_path)
    ways = sorted({part.labelling for part in parts})
    if len(ways) > 1 and read_labels is None:
        raise MismatchError(
            f"split {target.split!r}: the labels of its parts were read in different ways: "
            f"{first_few(ways)}",
            hint=f"{command('extract')} reads them again, without the encoder",
        )
    write_split(target, _part_blocks(encoder_path, parts, read_labels), _plan_rows(parts))


def _find_parts(target: SealTarget, encoder_path: Path) -> tuple[PartCommit, ...]:
    """Commits of all parts of a split, in row order."""
    shards = {split.name: split.shards for split in target.dataset.splits}
    if target.split not in shards:
        raise NotFoundError(
            f"the dataset has no split {target.split!r}",
            hint=f"its splits are: {', '.join(shards)}",
        )
    wanted = shards[target.split]
    commits = {shard: find_part(encoder_path, target.spec.encoder_id, shard) for shard in wanted}
    parts = tuple(commit for commit in commits.values() if commit is not None)
    if len(parts) < len(commits):
        missing = [shard.name for shard, commit in commits.items() if commit is None]
        raise NotFoundError(
            f"split {target.split!r}: {len(missing)} of {len(wanted)} shards have no part: "
            f"{first_few(missing)}",
            hint=f"{command('extract')} makes them",
        )
    if len(commits) < len(wanted):
        raise MismatchError(
            f"split {target.split!r} lists a shard twice", hint="list every shard once"
        )
    return parts


def _plan_rows(parts: Sequence[PartCommit]) -> tuple[PartRows, ...]:
    """Where the rows of each part will lie."""
    starts = accumulate((part.rows for part in parts), initial=0)
    return tuple(
        PartRows(part.shard, start, part.rows, part.skipped_by_reason)
        for part, start in zip(parts, starts, strict=False)
    )


def _part_blocks(
    encoder_path: Path, parts: Iterable[PartCommit], read_labels: ReadLabels | None
) -> Iterator[FeatureBlock]:
    """All rows of the parts in order; every byte of a part is verified before it is used."""
    for part in parts:
        unit = part_path(encoder_path, part.shard)
        check_files(unit, part.files, "deep")
        arrays = map_unit(unit, part)
        keys = arrays.read_keys(unit)
        labels = cast("LabelArray", arrays.labels.whole())
        if read_labels is not None:
            labels = read_labels(part, keys, labels)
        taps = {tap: mapped.whole() for tap, mapped in arrays.features.items()}
        for start in range(0, part.rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, part.rows)
            features = {tap: cast("FeatureArray", x[start:stop]) for tap, x in taps.items()}
            yield FeatureBlock(keys.between(start, stop), features, labels[start:stop])


def write_split(
    target: SealTarget, blocks: Iterable[FeatureBlock], parts: tuple[PartRows, ...]
) -> None:
    """Write a sealed split and make it visible by one rename; harmless if another one was first.

    Raises
    ------
    MismatchError : labels out of range, or rows that do not add up to those of ``parts``.
    StoreError : a key comes twice, a value cannot be stored, or the disk refuses.
    """
    place = f"split {target.split!r}"
    with told_as_store_error(target.path), Staging(target.path.parent) as staging:
        unit = UnitWriter(staging.path, target.spec, place, strong=True)
        try:
            hashes = [_append(unit, block, target.dataset, place) for block in blocks]
            expected = sum(part.rows for part in parts)
            if unit.rows != expected:
                raise MismatchError(
                    f"{place}: expected {expected} rows, found {unit.rows}",
                    hint="the source changed while it was read; run it again",
                )
            ids = {"encoder_id": target.spec.encoder_id, "dataset_id": target.dataset.dataset_id}
            contents = unit.close({"kind": "split", "split": target.split, **ids})
        finally:
            unit.abandon()
        arrays = map_unit(staging.path, contents)
        _check_unique(np.concatenate([np.empty(0, np.int64), *hashes]), arrays, place)
        own = {"dataset_id": ids["dataset_id"], "split": target.split, "parts": parts}
        (staging.path / COMMIT_FILE).write_bytes(sign("split", contents, own))
        staging.publish(target.path)


def _check_range(labels: LabelArray, n_classes: int, place: str) -> None:
    """Check labels against the number of classes.

    Raises
    ------
    MismatchError : a class id is not in [0, k), or multi-hot labels have not k columns of 0 and 1.
    """
    if labels.ndim == 2 and len(labels):
        if labels.shape[1] != n_classes or labels.max() > 1:
            raise MismatchError(
                f"{place}: expected {n_classes} columns of 0 and 1, found {labels.shape[1]} "
                f"columns up to {labels.max()}",
                hint="give the class list that the labels were made with",
            )
    elif len(labels) and (labels.min() < 0 or labels.max() >= n_classes):
        raise MismatchError(
            f"{place}: expected labels in 0..{n_classes - 1} ({n_classes} classes), "
            f"found {labels.min()}..{labels.max()}",
            hint="give the class list that the labels were made with",
        )


def _append(
    unit: UnitWriter, block: FeatureBlock, dataset: DatasetSpec, place: str
) -> NDArray[np.int64]:
    """Write a block and give the hash of each of its keys."""
    _check_range(block.labels, len(dataset.classes), place)
    unit.append(block)
    return np.fromiter(map(hash, block.keys), np.int64, len(block.keys))


def _check_unique(hashes: NDArray[np.int64], arrays: UnitArrays, place: str) -> None:
    """Refuse keys that come twice; only keys of equal hash are compared as text."""
    order = np.argsort(hashes, kind="stable")
    again = hashes[order[1:]] == hashes[order[:-1]]
    suspects = np.union1d(order[1:][again], order[:-1][again])
    if not len(suspects):
        return
    keys = arrays.read_keys(arrays.keys_bytes.folder)
    counts = Counter(keys[int(i)] for i in suspects)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise StoreError(
            f"{place}: {len(twice)} keys come more than once: {first_few(twice)}",
            hint="a shard is listed under two names, or shards overlap: list every sample once",
        )
