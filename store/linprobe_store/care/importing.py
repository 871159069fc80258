"""Importing features made elsewhere: arrays of features and labels become sealed splits.

Such features are known by their bytes alone, so the digest of the bytes stands where the digest
of the weights is for our own: other features under the same name are another encoder.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from linprobe.disk import Staging, told_as_store_error
from linprobe.errors import MismatchError, NotFoundError
from linprobe.names import check_class_names, read_class_names, slugify
from linprobe.records import digest_json
from linprobe_store.arrays.seal import BLOCK_ROWS, SealTarget, write_split
from linprobe_store.care.array_files import ArrayFile, map_array, map_member, member_names
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
from linprobe_store.handles.store import FeatureStore, write_format

_FEATURES = ("features", "x", "X")
_LABELS = ("labels", "y")
_KEYS = "keys"
_CLASSES = "classes"
_HINT = "--split NAME=FILE.npz[:FEATURES,LABELS] or --split NAME=FEATURES.npy,LABELS.npy"


@dataclass(frozen=True)
class _Source:
    """The arrays of one split."""

    name: str
    """``train``, ``val`` or ``test``."""
    features: ArrayFile
    """(n, d) floating point."""
    labels: ArrayFile
    """(n,) integers, or (n, k) of 0 and 1."""
    keys: ArrayFile | None = None
    """(n,) strings; None numbers the samples."""
    classes: ArrayFile | None = None
    """(k,) class names by label."""

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.features.values)


def import_files(
    store: FeatureStore,
    splits: Sequence[str],
    *,
    encoder_name: str,
    dataset_name: str,
    metric: str | None = None,
    tap: str = "embedding",
    classes: Path | None = None,
    storage_dtype: StorageDtype | None = None,
) -> tuple[Split, ...]:
    """Import arrays as sealed splits; what is there already is opened.

    Memory is O(block): the arrays are mapped, those of a ``.npz`` after unzipping them into the
    store for as long as the import lasts; they are read twice, once for their digest and once to
    store them.

    Parameters
    ----------
    splits : all splits of the dataset, each ``NAME=FILE.npz``, ``NAME=FILE.npz:FEATURES,LABELS``
        or ``NAME=FEATURES.npy,LABELS.npy``; together they are the identity of encoder and dataset.
        Features are (n, d) floating point; labels (n,) integers, or (n, k) of 0 and 1.
    encoder_name, dataset_name : what people call them; no part of the dataset's identity.
    metric : headline metric of the dataset, such as ``mean_per_class``; None declares none.
    tap : tap that the features come from.
    classes : text file of class names by label; None takes the array ``classes`` of the first
        ``.npz``, or numbers the classes where it has none.
    storage_dtype : None keeps float16 and float32, and stores float64 as float32.

    Raises
    ------
    MismatchError : a split that cannot be read or comes twice, shapes or dtypes that do not fit,
        labels outside the classes, class names that cannot be told apart.
    NotFoundError : no such file or array.
    StoreError : a value is not finite, a row is all zero, a key comes twice, the disk refuses.
    """
    if metric is not None and not re.fullmatch("[a-z0-9_]+", metric):
        raise MismatchError(
            f"--metric {metric!r}: expected a name of a-z, 0-9 and _", hint="--metric top1"
        )
    write_format(store.root)
    with told_as_store_error(store.root), Staging(store.root) as unzipped:
        sources = tuple(_open_split(text, unzipped.path) for text in splits)
        for source in sources:
            _check_source(source, sources)
        digests = {source.name: _digest(source.features) for source in sources}
        spec = _encoder_spec(f"imported:{encoder_name}", tap, sources[0].features, digests)
        spec = replace(spec, storage_dtype=storage_dtype or spec.storage_dtype)
        dataset = _dataset_spec(sources, digests, _class_names(classes, sources))
        names = EncoderNames(encoder_name, slugify(encoder_name))
        encoder = store.register_encoder(spec, names)
        stored = encoder.register_dataset(dataset, DatasetNames(dataset_name, metric))
        shards = {split.name: split.shards[0] for split in dataset.splits}
        for source in sources:
            if not (stored.path / source.name).exists():
                rows = PartRows(shards[source.name], 0, source.n, {})
                target = SealTarget(stored.path / source.name, spec, dataset, source.name)
                write_split(target, _blocks(source, spec), (rows,))
    return tuple(stored.split(source.name) for source in sources)


def _open_split(text: str, unzipped: Path) -> _Source:
    """Map the arrays that a ``--split`` names; those of a ``.npz`` are unzipped first."""
    name, _, rest = text.partition("=")
    if not rest:
        raise MismatchError(f"--split {text!r}: expected NAME=FILE", hint=_HINT)
    check_split_name(name)
    stem, extension, members = rest.rpartition(".npz")
    if not extension:
        paths = rest.split(",")
        if len(paths) != 2:
            raise MismatchError(f"--split {text!r}: expected two .npy files", hint=_HINT)
        return _Source(name, map_array(Path(paths[0])), map_array(Path(paths[1])))
    path, chosen = Path(stem + extension), members.removeprefix(":").split(",")
    held = member_names(path)
    if not members:
        chosen = [_first_of(names, held, path) for names in (_FEATURES, _LABELS)]
    elif len(chosen) != 2:
        raise MismatchError(f"--split {text!r}: expected FEATURES,LABELS", hint=_HINT)
    features, labels = (map_member(path, member, unzipped / name) for member in chosen)
    keys = map_member(path, _KEYS, unzipped / name) if _KEYS in held and not members else None
    classes = map_member(path, _CLASSES, unzipped / name) if _CLASSES in held else None
    return _Source(name, features, labels, keys, classes)


def _first_of(names: Sequence[str], held: Sequence[str], path: Path) -> str:
    for name in names:
        if name in held:
            return name
    raise NotFoundError(
        f"{path}: no array called {' or '.join(names)}; it has {', '.join(held)}", hint=_HINT
    )


def _check_source(source: _Source, sources: Sequence[_Source]) -> None:
    if [other.name for other in sources].count(source.name) > 1:
        raise MismatchError(f"--split {source.name} is given twice", hint="give each split once")
    features, labels, first = source.features.values, source.labels.values, sources[0]
    if features.dtype.kind != "f" or features.ndim != 2:
        raise MismatchError(
            f"{source.features.place}: expected features (n, d) of floating point, found "
            f"{features.shape} {features.dtype}",
            hint="one row per sample; name the array with NAME=FILE.npz:FEATURES,LABELS",
        )
    wanted = first.features.values
    if (features.shape[1:], features.dtype) != (wanted.shape[1:], wanted.dtype):
        raise MismatchError(
            f"{source.features.place}: expected rows {wanted.shape[1:]} {wanted.dtype} as in "
            f"{first.name!r}, found {features.shape[1:]} {features.dtype}",
            hint="all splits of one import come from one encoder",
        )
    if labels.dtype.kind not in ("iu" if labels.ndim == 1 else "biu") or labels.ndim > 2:
        raise MismatchError(
            f"{source.labels.place}: expected labels (n,) of integers or (n, k) of 0 and 1, "
            f"found {labels.shape} {labels.dtype}",
            hint="number the classes from 0 and give their names with --classes",
        )
    for other in (source.labels, source.keys):
        if other is not None and len(other.values) != source.n:
            raise MismatchError(
                f"{other.place}: expected {source.n} rows as in the features, found "
                f"{len(other.values)}",
                hint="give one label, and one key, per row of features",
            )


def _class_names(path: Path | None, sources: Sequence[_Source]) -> tuple[str, ...]:
    """Class names from a file, else from the first split, else ``0``, ``1``, ... by label."""
    if path is not None:
        return read_class_names(path, error=MismatchError)
    given = sources[0].classes
    if given is not None:
        names = tuple(given.values.astype(str).ravel().tolist())
        check_class_names(names, given.place, error=MismatchError)
        return names
    largest = -1
    for source in sources:
        if source.labels.values.ndim == 2:
            largest = max(largest, source.labels.values.shape[1] - 1)
        elif source.n:
            largest = max(largest, int(source.labels.values.max()))
    return tuple(map(str, range(largest + 1)))


def _digest(array: ArrayFile) -> str:
    """Sha256 of dtype, shape and bytes, as 64 hex digits."""
    values = array.values
    sha256 = hashlib.sha256(f"{values.dtype.str} {values.shape}\n".encode())
    sha256.update(values.data if values.size else b"")
    return sha256.hexdigest()


def _encoder_spec(
    architecture: str, tap: str, features: ArrayFile, digests: Mapping[str, str]
) -> EncoderSpec:
    return EncoderSpec(
        architecture=architecture,
        config={},
        activation="unknown",
        weights_sha256=digest_json(digests),
        taps=(Tap(tap, features.values.shape[1]),),
        preprocess=None,
        precision="unknown",
        storage_dtype="float16" if features.values.dtype.itemsize == 2 else "float32",
    )


def _dataset_spec(
    sources: Sequence[_Source], digests: Mapping[str, str], classes: tuple[str, ...]
) -> DatasetSpec:
    """Dataset of one made-up shard per split, whose digest covers features, labels and keys."""
    splits = []
    for source in sorted(sources, key=lambda s: s.name):
        keys = "numbered" if source.keys is None else _digest(source.keys)
        content = digest_json([digests[source.name], _digest(source.labels), keys])
        shard = ShardFingerprint(f"imported-{source.name}", source.features.values.nbytes, content)
        splits.append(SplitSpec(source.name, (shard,)))
    return DatasetSpec(tuple(splits), "imported", classes)


def _blocks(source: _Source, spec: EncoderSpec) -> Iterator[FeatureBlock]:
    """The rows of a split as the writer takes them."""
    for start in range(0, source.n, BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, source.n))
        with np.errstate(over="ignore"):  # infinities are refused by name when written
            features = source.features.values[rows].astype(spec.storage_dtype)
        taps = {spec.taps[0].name: cast("FeatureArray", features)}
        yield FeatureBlock(_keys(source, rows), taps, _labels(source.labels, rows))


def _labels(labels: ArrayFile, rows: slice) -> LabelArray:
    """Labels as the store keeps them."""
    block = labels.values[rows]
    if block.ndim == 1:
        return block.astype(np.int64)
    if not np.isin(block, (0, 1)).all():
        raise MismatchError(
            f"{labels.place}: expected multi-hot labels of 0 and 1, found other values",
            hint="give class ids (n,), or 1 where a sample has the class and 0 elsewhere",
        )
    return block.astype(np.uint8)


def _keys(source: _Source, rows: slice) -> tuple[str, ...]:
    """The keys given, or numbers below the name of the split."""
    if source.keys is not None:
        return tuple(source.keys.values[rows].astype(str).tolist())
    width = len(str(source.n))
    return tuple(f"{source.name}/{i:0{width}d}" for i in range(rows.start, rows.stop))
