"""Sealing: the parts of a split, in shard-list order, into one array per field.

Memory is O(block) and 8 bytes per row (a hash of each key, to find duplicates).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from linprobe.disk import Staging, refuse_links, store_errors
from linprobe.errors import MismatchError, NotFoundError, StoreError
from linprobe.names import first_few
from linprobe.terminal import command
from linprobe_store.arrays.part import find_part, part_path
from linprobe_store.arrays.unit_maps import Keys, map_unit
from linprobe_store.arrays.unit_writer import UnitWriter
from linprobe_store.arrays.values import hash_keys, label_problem, repeated_keys
from linprobe_store.format import spec
from linprobe_store.format.commit import PartCommit, PartRows, UnitContents, sign
from linprobe_store.format.layout import COMMIT_FILE
from linprobe_store.format.spec import DatasetSpec, EncoderSpec, FeatureBlock, LabelArray

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
    dataset: DatasetSpec
    """Dataset, whose classes bound the labels."""
    split: str


def seal_parts(target: SealTarget, encoder_path: Path, read_labels: ReadLabels | None) -> None:
    """Write a sealed split from its parts, every byte verified; see ``StoredEncoder.seal``."""
    parts = _find_parts(target, encoder_path)
    ways = sorted({part.labelling for part in parts})
    if len(ways) > 1 and read_labels is None:
        raise MismatchError(
            f"split {target.split!r}: the labels of its parts were read in different ways: "
            f"{first_few(ways)}",
            hint=f"{command('extract')} reads them again, without the encoder",
        )
    starts = accumulate((part.rows for part in parts), initial=0)
    rows = tuple(
        PartRows(part.shard, start, part.rows, Counter(lost.reason for lost in part.skipped))
        for part, start in zip(parts, starts, strict=False)
    )
    write_split(target, _part_blocks(target, encoder_path, parts, read_labels), rows)


def _find_parts(target: SealTarget, encoder_path: Path) -> list[PartCommit]:
    """Commits of all parts of a split, in row order."""
    splits = {split.name: split.shards for split in target.dataset.splits}
    if target.split not in splits:
        hint = f"its splits are: {', '.join(splits)}"
        raise NotFoundError(f"the dataset has no split {target.split!r}", hint=hint)
    shards = splits[target.split]
    if len(set(shards)) < len(shards):
        message = f"split {target.split!r} lists a shard twice"
        raise MismatchError(message, hint="list every shard once")
    commits = {shard: find_part(encoder_path, target.spec, shard) for shard in shards}
    missing = [shard.name for shard, commit in commits.items() if commit is None]
    if missing:
        lack = f"{len(missing)} of {len(shards)} shards have no part: {first_few(missing)}"
        hint = f"{command('extract')} makes them"
        raise NotFoundError(f"split {target.split!r}: {lack}", hint=hint)
    return [commit for commit in commits.values() if commit is not None]


def _part_blocks(
    target: SealTarget,
    encoder_path: Path,
    parts: Iterable[PartCommit],
    read_labels: ReadLabels | None,
) -> Iterator[FeatureBlock]:
    """All rows of the parts in order; every byte of a part is verified before it is used."""
    for part in parts:
        unit = part_path(encoder_path, part.shard)
        arrays = map_unit(unit, part)
        keys, labels = arrays.read_keys(), arrays.read_labels()
        mapped = arrays.read_image_sha256()
        images = None if mapped is None else mapped.whole()
        if read_labels is not None:
            labels = read_labels(part, keys, labels)
        taps = {tap: arrays.read_features(tap).whole() for tap in arrays.features}
        for start in range(0, part.rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, part.rows)
            features = {tap: cast("spec.FeatureArray", x[start:stop]) for tap, x in taps.items()}
            named = spec.prefixed(target.dataset.key_prefix, part.shard, keys.between(start, stop))
            digests = None if images is None else cast("spec.DigestArray", images[start:stop])
            yield FeatureBlock(tuple(named), features, labels[start:stop], digests)
        arrays.check_unchanged()


def write_split(
    target: SealTarget, blocks: Iterable[FeatureBlock], parts: tuple[PartRows, ...]
) -> None:
    """Write a sealed split and make it visible by one rename; harmless if another one was first.

    Raises a MismatchError where labels are out of range or rows do not add up to those of
    ``parts``, and a StoreError where a key comes twice, a value cannot be stored or the disk fails.
    """
    place = f"split {target.split!r}"
    refuse_links(*target.path.parents[:3])  # the dataset, the sets, the encoder
    with store_errors(target.path), Staging(target.path.parent) as staging:
        unit = UnitWriter(staging.path, target.spec, place, strong=True)
        hashes = [np.empty(0, np.int64)]
        try:
            for block in blocks:
                if problem := label_problem(block.labels, len(target.dataset.classes)):
                    hint = "give the class list that the labels were made with"
                    raise MismatchError(f"{place}: {problem}", hint=hint)
                unit.append(block)
                hashes.append(hash_keys(block.keys))
            expected = sum(part.rows for part in parts)
            if unit.rows != expected:
                message = f"{place}: expected {expected} rows, found {unit.rows}"
                hint = "the source changed while it was read; run it again"
                raise MismatchError(message, hint=hint)
            own = {"dataset_id": target.dataset.dataset_id, "split": target.split}
            contents = unit.close({"kind": "split", "encoder_id": target.spec.encoder_id, **own})
        finally:
            unit.abandon()
        _check_unique(np.concatenate(hashes), staging.path, contents, place)
        signed = sign("split", contents, own, {"parts": parts})
        (staging.path / COMMIT_FILE).write_bytes(signed)
        staging.publish(target.path)


def _check_unique(
    hashes: NDArray[np.int64], unit: Path, contents: UnitContents, place: str
) -> None:
    """Refuse keys that come twice, by the hash of each."""
    if twice := repeated_keys(hashes, map_unit(unit, contents).read_keys()):
        raise StoreError(
            f"{place}: {len(twice)} keys come more than once: {first_few(twice)}",
            hint="a shard is listed under two names, or shards overlap: list every sample once; "
            f"or, where shards count anew: {command('extract', key_prefix='shard')}",
        )
