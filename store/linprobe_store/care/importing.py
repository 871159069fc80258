"""Importing features made elsewhere: arrays of features and labels become sealed splits.

Such features are known by their bytes alone, so the digest of the bytes stands where the digest
of the weights is for our own: other features under the same name are another encoder.

What ``--split`` and ``--classes`` of the command ``import`` mean.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from linprobe.errors import MismatchError, NotFoundError
from linprobe.names import slugify
from linprobe.records import digest_json
from linprobe_store.arrays.seal import BLOCK_ROWS, SealTarget, write_split
from linprobe_store.care.array_files import ArraySource, member_names, open_array
from linprobe_store.format.commit import PartRows
from linprobe_store.format.layout import check_split_name
from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    EncoderNames,
    EncoderSpec,
    FeatureArray,
    FeatureBlock,
    LabelArray,
    ShardFingerprint,
    SplitSpec,
    StorageDtype,
    Tap,
)
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore


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
    stored = encoder.register_dataset(dataset, DatasetNames(request.dataset_name))
    shards = {split.name: split.shards[0] for split in dataset.splits}
    for source in request.splits:
        if not (stored.path / source.name).exists():
            rows = PartRows(shards[source.name], 0, source.features.shape[0], {})
            target = SealTarget(stored.path / source.name, spec, dataset, source.name)
            write_split(target, _blocks(source, spec), (rows,))
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


_FEATURES = ("features", "x", "X")
_LABELS = ("labels", "y")
_KEYS = "keys"
_CLASSES = "classes"
_HINT = "--split NAME=FILE.npz[:FEATURES,LABELS] or --split NAME=FEATURES.npy,LABELS.npy"


def parse_splits(texts: Sequence[str]) -> tuple[SplitSource, ...]:
    """Open the arrays that ``--split`` options name.

    Raises
    ------
    MismatchError : an option that cannot be read, or a split named twice.
    NotFoundError : no such file or array.
    """
    sources = tuple(_parse_split(text) for text in texts)
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise MismatchError(f"a split is given twice: {', '.join(names)}", hint="give each once")
    return sources


def read_classes(path: Path | None, sources: Sequence[SplitSource]) -> tuple[str, ...] | None:
    """Class names from a file, else from an array ``classes`` beside the features, else None.

    Raises
    ------
    NotFoundError : no such file.
    """
    if path is not None:
        if not path.is_file():
            raise NotFoundError(f"{path}: no such file", hint="one class name a line, by label")
        return tuple(path.read_text(encoding="utf-8").splitlines())
    features = sources[0].features
    if features.member is None or _CLASSES not in member_names(features.path):
        return None
    names = open_array(features.path, _CLASSES)
    return tuple(str(name) for block in names.blocks(1 << 16) for name in block.astype(str))


def _parse_split(text: str) -> SplitSource:
    name, _, rest = text.partition("=")
    if not rest:
        raise MismatchError(f"--split {text!r}: expected NAME=FILE", hint=_HINT)
    if ".npz" in rest:
        return _parse_npz(name, rest)
    paths = rest.split(",")
    if len(paths) != 2:
        raise MismatchError(f"--split {text!r}: expected two .npy files", hint=_HINT)
    return SplitSource(name, open_array(Path(paths[0])), open_array(Path(paths[1])), None)


def _parse_npz(name: str, rest: str) -> SplitSource:
    stem, _, members = rest.rpartition(".npz")
    path = Path(f"{stem}.npz")
    there = member_names(path)
    if members:
        chosen = members.removeprefix(":").split(",")
        if len(chosen) != 2:
            raise MismatchError(f"--split {name}={rest}: expected FEATURES,LABELS", hint=_HINT)
    else:
        chosen = [_first(there, candidates, path) for candidates in (_FEATURES, _LABELS)]
    features, labels = (open_array(path, member) for member in chosen)
    has_keys = not members and _KEYS in there
    return SplitSource(name, features, labels, open_array(path, _KEYS) if has_keys else None)


def _first(there: Sequence[str], candidates: Sequence[str], path: Path) -> str:
    for candidate in candidates:
        if candidate in there:
            return candidate
    raise NotFoundError(
        f"{path}: no array called {' or '.join(candidates)}; it has {', '.join(there)}", hint=_HINT
    )
