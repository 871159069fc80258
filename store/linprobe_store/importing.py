"""Importing features made elsewhere: arrays of features and labels become sealed splits.

Such features are known by their bytes alone, so the digest of the bytes stands where the digest
of the weights is for our own: other features under the same name are another encoder.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from linprobe_store.arrayfiles import ArraySource
from linprobe_store.canonical import digest_json
from linprobe_store.commits import PartRows
from linprobe_store.errors import MismatchError
from linprobe_store.layout import check_split_name, slugify
from linprobe_store.records import EncoderNames, FeatureArray, FeatureBlock, LabelArray
from linprobe_store.sealing import BLOCK_ROWS, SealTarget, write_split
from linprobe_store.spec import (
    DatasetSpec,
    EncoderSpec,
    ShardFingerprint,
    SplitSpec,
    StorageDtype,
    Tap,
)
from linprobe_store.splits import Split
from linprobe_store.store import FeatureStore


@dataclass(frozen=True)
class SplitSource:
    """The arrays of one split."""

    name: str
    """``train``, ``val`` or ``test``."""
    features: ArraySource
    """(n, d) floating point."""
    labels: ArraySource
    """(n,) integers, or (n, k) of 0 and 1."""
    keys: ArraySource | None
    """(n,) strings; None numbers the samples."""


@dataclass(frozen=True)
class ImportRequest:
    """What to import under which names."""

    encoder_name: str
    """What people call the encoder."""
    dataset_name: str
    """What people call the dataset."""
    tap: str
    """Tap that the features come from."""
    splits: tuple[SplitSource, ...]
    """All splits of the dataset; together they are the identity of encoder and dataset."""
    classes: tuple[str, ...] | None
    """Class names by label; None numbers the classes."""
    storage_dtype: StorageDtype | None
    """None keeps float16 and float32, and stores float64 as float32."""


def import_features(store: FeatureStore, request: ImportRequest) -> tuple[Split, ...]:
    """Import arrays as sealed splits; what is there already is opened.

    Memory is O(block): the arrays are read twice, once for their digest and once to store them.

    Raises
    ------
    MismatchError : shapes or dtypes do not fit, or labels are outside the classes.
    StoreError : a value is not finite, a row is all zero, a key comes twice, the disk refuses.
    """
    for source in request.splits:
        _check_source(source, request.splits[0])
    digests = {source.name: _digest(source.features) for source in request.splits}
    spec = _encoder_spec(request, digest_json(digests))
    dataset = _dataset_spec(request, digests)
    names = EncoderNames(request.encoder_name, slugify(request.encoder_name))
    encoder = store.register_encoder(spec, names)
    folder = encoder.make_dataset(dataset, request.dataset_name)
    shards = {split.name: split.shards[0] for split in dataset.splits}
    for source in request.splits:
        if not (folder / source.name).exists():
            rows = PartRows(shards[source.name], 0, source.features.shape[0], {})
            target = SealTarget(folder / source.name, spec, dataset, source.name)
            write_split(target, _blocks(source, spec), (rows,))
    stored = encoder.open_dataset(folder)
    return tuple(stored.split(source.name) for source in request.splits)


def _check_source(source: SplitSource, first: SplitSource) -> None:
    check_split_name(source.name)
    n = source.features.shape[0]
    dims = (source.features.shape[1:], source.features.dtype)
    if source.features.dtype.kind != "f" or len(source.features.shape) != 2:
        raise MismatchError(
            f"{source.features.place}: expected features (n, d) of floating point, found "
            f"{source.features.shape} {source.features.dtype}",
            hint="one row per sample; name the array with NAME=FILE.npz:FEATURES,LABELS",
        )
    if dims != (first.features.shape[1:], first.features.dtype):
        raise MismatchError(
            f"{source.features.place}: expected rows {first.features.shape[1:]} "
            f"{first.features.dtype} as in {first.name!r}, found {dims[0]} {dims[1]}",
            hint="all splits of one import come from one encoder",
        )
    kinds = "iu" if len(source.labels.shape) == 1 else "biu"
    if source.labels.dtype.kind not in kinds or len(source.labels.shape) not in (1, 2):
        raise MismatchError(
            f"{source.labels.place}: expected labels (n,) of integers or (n, k) of 0 and 1, "
            f"found {source.labels.shape} {source.labels.dtype}",
            hint="number the classes from 0 and give their names with --classes",
        )
    for other in (source.labels, source.keys):
        if other is not None and other.shape[0] != n:
            raise MismatchError(
                f"{other.place}: expected {n} rows as in the features, found {other.shape[0]}",
                hint="give one label, and one key, per row of features",
            )


def _digest(array: ArraySource) -> str:
    """Sha256 of dtype, shape and bytes, as 64 hex digits."""
    sha256 = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    for block in array.blocks(BLOCK_ROWS):
        sha256.update(np.ascontiguousarray(block).data if block.size else b"")
    return sha256.hexdigest()


def _encoder_spec(request: ImportRequest, digest: str) -> EncoderSpec:
    features = request.splits[0].features
    own: StorageDtype = "float16" if features.dtype.itemsize == 2 else "float32"
    return EncoderSpec(
        architecture=f"imported:{request.encoder_name}",
        config={},
        activation="unknown",
        weights_sha256=digest,
        taps=(Tap(request.tap, features.shape[1]),),
        preprocess=None,
        precision="unknown",
        storage_dtype=request.storage_dtype or own,
    )


def _dataset_spec(request: ImportRequest, digests: dict[str, str]) -> DatasetSpec:
    """Dataset of one made-up shard per split, whose digest covers features, labels and keys."""
    splits = []
    for source in sorted(request.splits, key=lambda s: s.name):
        keys = "numbered" if source.keys is None else _digest(source.keys)
        content = [digests[source.name], _digest(source.labels), keys]
        n_bytes = (
            source.features.shape[0] * source.features.shape[1] * source.features.dtype.itemsize
        )
        shard = ShardFingerprint(f"imported-{source.name}", n_bytes, digest_json(content))
        splits.append(SplitSpec(source.name, (shard,)))
    classes = request.classes or _numbered_classes(request.splits)
    return DatasetSpec(tuple(splits), "imported", classes)


def _numbered_classes(splits: Sequence[SplitSource]) -> tuple[str, ...]:
    """``0``, ``1``, ... up to the largest label of all splits."""
    largest = -1
    for source in splits:
        if len(source.labels.shape) == 2:
            largest = max(largest, source.labels.shape[1] - 1)
            continue
        for block in source.labels.blocks(1 << 16):
            largest = max(largest, int(block.max()))
    return tuple(str(i) for i in range(largest + 1))


def _blocks(source: SplitSource, spec: EncoderSpec) -> Iterator[FeatureBlock]:
    """The rows of a split as the writer takes them."""
    labels = _labels(source.labels)
    keys = _keys(source)
    for features in source.features.blocks(BLOCK_ROWS):
        with np.errstate(over="ignore"):  # infinities are refused by name when written
            stored = features.astype(spec.storage_dtype)
        taps = {spec.taps[0].name: cast("FeatureArray", stored)}
        yield FeatureBlock(next(keys), taps, next(labels))


def _labels(source: ArraySource) -> Iterator[LabelArray]:
    """Labels as the store keeps them."""
    for block in source.blocks(BLOCK_ROWS):
        if block.ndim == 1:
            yield block.astype(np.int64)
            continue
        if not np.isin(block, (0, 1)).all():
            raise MismatchError(
                f"{source.place}: expected multi-hot labels of 0 and 1, found other values",
                hint="give class ids (n,), or 1 where a sample has the class and 0 elsewhere",
            )
        yield block.astype(np.uint8)


def _keys(source: SplitSource) -> Iterator[tuple[str, ...]]:
    """The keys given, or numbers below the name of the split."""
    if source.keys is not None:
        for block in source.keys.blocks(BLOCK_ROWS):
            yield tuple(block.astype(str).tolist())
        return
    n = source.features.shape[0]
    for start in range(0, n, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, n)
        yield tuple(f"{source.name}/{i:0{len(str(n))}d}" for i in range(start, stop))
