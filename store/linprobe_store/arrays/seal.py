"""Sealing: the parts of a split, in shard-list order, into one array per field.

Parts are read one after the other: memory is O(block), some 30 MB to find keys that come twice,
and what the commit says of every part.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from linprobe.disk import Staging, refuse_links, store_errors
from linprobe.errors import MismatchError, NotFoundError, StoreError
from linprobe.names import first_few
from linprobe.terminal import command
from linprobe_store.arrays.keys import Keys
from linprobe_store.arrays.part import part_name, part_names, part_path, read_part
from linprobe_store.arrays.unique import KeyHashes, keys_of_hashes
from linprobe_store.arrays.unit_maps import map_unit
from linprobe_store.arrays.unit_writer import UnitWriter
from linprobe_store.arrays.values import label_problem
from linprobe_store.format import spec
from linprobe_store.format.commit import PartCommit, PartRows, UnitContents, sign
from linprobe_store.format.layout import COMMIT_FILE
from linprobe_store.format.spec import (
    DatasetSpec,
    EncoderSpec,
    FeatureBlock,
    LabelArray,
    ShardFingerprint,
)

BLOCK_ROWS = 4096
"""Rows read and written at once."""
_COPIED_BYTES = 1 << 18
"""Of a file of a part that is read at once: to map it takes longer."""
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
    shards = _shards_of(target)
    present = part_names(encoder_path)
    _refuse_missing(target, [shard.name for shard in shards if part_name(shard) not in present])
    rows: list[PartRows] = []
    write_split(target, _part_blocks(target, encoder_path, read_labels, rows), rows)


def _shards_of(target: SealTarget) -> tuple[ShardFingerprint, ...]:
    """The source tars of a split, in row order."""
    splits = {split.name: split.shards for split in target.dataset.splits}
    if target.split not in splits:
        hint = f"its splits are: {', '.join(splits)}"
        raise NotFoundError(f"the dataset has no split {target.split!r}", hint=hint)
    shards = splits[target.split]
    if len(set(shards)) < len(shards):
        message = f"split {target.split!r} lists a shard twice"
        raise MismatchError(message, hint="list every shard once")
    return shards


def _refuse_missing(target: SealTarget, names: Sequence[str]) -> None:
    if names:
        lack = f"{len(names)} of {len(_shards_of(target))} shards have no part: {first_few(names)}"
        hint = f"{command('extract')} makes them"
        raise NotFoundError(f"split {target.split!r}: {lack}", hint=hint)


def _part_blocks(
    target: SealTarget, encoder_path: Path, read_labels: ReadLabels | None, rows: list[PartRows]
) -> Iterator[FeatureBlock]:
    """All rows of the parts in order; every byte of a part is verified before it is used.

    Where the rows of each part lie goes into ``rows``.
    """
    start, ways = 0, set[str]()
    for shard in _shards_of(target):
        path = part_path(encoder_path, shard)
        try:
            part = read_part(path, target.spec, shard)
            ways.add(part.labelling)
            _check_labelling(target, ways, read_labels)
            yield from _blocks_of(target, path, part, read_labels)
        except StoreError:
            if not os.path.lexists(path):  # sealed, and removed, by somebody else meanwhile
                _refuse_missing(target, [shard.name])
            raise
        rows.append(PartRows(shard, start, part.rows, part.skipped))
        start += part.rows


def _check_labelling(target: SealTarget, ways: set[str], read_labels: ReadLabels | None) -> None:
    if len(ways) > 1 and read_labels is None:
        raise MismatchError(
            f"split {target.split!r}: the labels of its parts were read in different ways: "
            f"{first_few(sorted(ways))}",
            hint=f"{command('extract')} reads them again, without the encoder",
        )


def _blocks_of(
    target: SealTarget, path: Path, part: PartCommit, read_labels: ReadLabels | None
) -> Iterator[FeatureBlock]:
    """The rows of a part, verified."""
    arrays = map_unit(path, part, _COPIED_BYTES)
    keys, labels = arrays.read_keys(), arrays.read_labels()
    if read_labels is not None:
        labels = read_labels(part, keys, labels)
    prefix = spec.prefix_of(target.dataset.key_prefix, part.shard)
    taps = {tap: arrays.read_features(tap).whole() for tap in arrays.features}
    mapped = arrays.read_image_sha256()
    images = None if mapped is None else cast("spec.DigestArray", mapped.whole())
    for start in range(0, part.rows, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, part.rows)
        features = {tap: cast("spec.FeatureArray", x[start:stop]) for tap, x in taps.items()}
        digests = None if images is None else images[start:stop]
        named = keys.rows(start, stop).prefixed(prefix)
        yield FeatureBlock(named, features, labels[start:stop], digests)
    arrays.check_unchanged()


def write_split(
    target: SealTarget, blocks: Iterable[FeatureBlock], parts: Sequence[PartRows]
) -> None:
    """Write a sealed split and make it visible by one rename; harmless if another one was first.

    ``parts`` say where the rows came from, once all blocks were given. Raises a MismatchError where
    labels are out of range or rows do not add up to those of ``parts``, and a StoreError where a
    key comes twice, a value cannot be stored or the disk fails.
    """
    place = f"split {target.split!r}"
    refuse_links(*target.path.parents[:3])  # the dataset, the sets, the encoder
    with (
        store_errors(target.path),
        Staging(target.path.parent) as staging,
        KeyHashes(staging.path) as hashes,
    ):
        unit = UnitWriter(staging.path, target.spec, place, strong=True)
        try:
            for block in blocks:
                if problem := label_problem(block.labels, len(target.dataset.classes)):
                    hint = "give the class list that the labels were made with"
                    raise MismatchError(f"{place}: {problem}", hint=hint)
                unit.append(block)
                hashes.take(Keys.encoded(block.keys))
            expected = sum(part.rows for part in parts)
            if unit.rows != expected:
                message = f"{place}: expected {expected} rows, found {unit.rows}"
                hint = "the source changed while it was read; run it again"
                raise MismatchError(message, hint=hint)
            own = {"dataset_id": target.dataset.dataset_id, "split": target.split}
            contents = unit.close({"kind": "split", "encoder_id": target.spec.encoder_id, **own})
        finally:
            unit.abandon()
        _check_unique(hashes, staging.path, contents, place)
        signed = sign("split", contents, own, {"parts": parts})
        (staging.path / COMMIT_FILE).write_bytes(signed)
        staging.publish(target.path)


def _check_unique(hashes: KeyHashes, unit: Path, contents: UnitContents, place: str) -> None:
    """Refuse keys that come twice, by the hash of each."""
    values = hashes.repeated()
    if len(values) and (twice := keys_of_hashes(values, map_unit(unit, contents).read_keys())):
        raise StoreError(
            f"{place}: {len(twice)} keys come more than once: {first_few(twice)}",
            hint="a shard is listed under two names, or shards overlap: list every sample once; "
            f"or, where shards count anew: {command('extract', key_prefix='shard')}",
        )
