"""Importing features made elsewhere: arrays of features and labels become sealed splits.

Such features are known by their bytes alone, so the digest of the bytes stands where the digest
of the weights is for our own: other features under the same name are another encoder, unless the
user asserts that they are of one.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np

from linprobe.disk import Staging, store_errors
from linprobe.errors import MismatchError, StoreError
from linprobe.names import slugify
from linprobe.records import digest_json
from linprobe.tars import MAX_NAME
from linprobe_store.arrays.seal import BLOCK_ROWS, SealTarget, write_split
from linprobe_store.care.array_checks import check_labels, check_sources, class_names, read_texts
from linprobe_store.care.array_files import ArrayFile, SplitArrays, open_split
from linprobe_store.format import spec
from linprobe_store.format.commit import PartRows
from linprobe_store.handles.newest import name_newest
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore, write_format

ASSERTED = "asserted_id"
"""Field of the configuration of an encoder that stands on the word of the user."""


def import_files(
    store: FeatureStore,
    splits: Sequence[str],
    encoder_name: str,
    names: spec.DatasetNames,
    *,
    tap: str = "embedding",
    classes: Path | None = None,
    storage_dtype: spec.StorageDtype | None = None,
    asserted_id: str | None = None,
) -> tuple[Split, ...]:
    """Import arrays as sealed splits; what is there already is opened.

    Memory is O(block): the arrays, unzipped into the store meanwhile, are mapped and read twice.

    Parameters
    ----------
    splits : all of the dataset, for :func:`open_split`; the identity of encoder and dataset.
    tap : tap that the features come from.
    classes : text file of names by label; None takes those of the first ``.npz``, or numbers.
    storage_dtype : None keeps float16 and float32, and stores float64 as float32.
    asserted_id : word of the user that features imported with the same one are of one encoder: it
        stands where the digest of their bytes is without, and the encoder's spec says so.

    Raises
    ------
    NotFoundError : no such file or array.
    MismatchError : a split unreadable or given twice; shapes, dtypes, labels or classes that clash.
    StoreError : a value is not finite, a row is all zero, a key comes twice, the disk refuses.
    """
    if names.metric is not None and not re.fullmatch("[a-z0-9_]+", names.metric):
        message = f"--metric {names.metric!r}: expected a name of a-z, 0-9 and _"
        raise MismatchError(message, hint="--metric top1")
    _check_text("--encoder-name", encoder_name)
    _check_text("--dataset", names.name)
    if asserted_id is not None:
        _check_text("--encoder-id", asserted_id)
        if not asserted_id.strip():
            raise MismatchError("--encoder-id is blank", hint="--encoder-id my-dinov2-run-3")
    write_format(store.root)
    with store_errors(store.root), _folder_for_unzipped(store.root) as unzipped:
        sources = [open_split(text, unzipped) for text in splits]
        check_sources(sources)
        digests = {source.name: _digest(source.features) for source in sources}
        features = sources[0].features.values
        kept: spec.StorageDtype = "float16" if features.dtype.itemsize == 2 else "float32"
        made_by = spec.EncoderSpec(
            architecture=f"imported:{encoder_name}",
            config={} if asserted_id is None else {ASSERTED: asserted_id},
            activation="unknown",
            weights_sha256=digest_json(digests if asserted_id is None else {ASSERTED: asserted_id}),
            taps=(spec.Tap(tap, features.shape[1]),),
            preprocess=None,
            precision="unknown",
            storage_dtype=storage_dtype or kept,
        )
        _check_asserted(store, made_by)
        shards = {s.name: _fingerprint(s, digests[s.name]) for s in sources}
        names_of_classes = class_names(classes, sources)
        check_labels(sources, len(names_of_classes))
        split_specs = tuple(spec.SplitSpec(name, (shards[name],)) for name in sorted(shards))
        dataset = spec.DatasetSpec(split_specs, "imported", names_of_classes)
        called = spec.EncoderNames(encoder_name, slugify(encoder_name))
        encoder = store.register_encoder(made_by, called)
        stored = encoder.register_dataset(dataset, names)
        for source in sources:
            path, rows = stored.path / source.name, PartRows(shards[source.name], 0, source.n, ())
            if not path.exists():
                target = SealTarget(path, made_by, dataset, source.name)
                write_split(target, _blocks(source, made_by), (rows,))
        name_newest(stored, encoder.datasets())
    return tuple(stored.split(source.name) for source in sources)


def _check_asserted(store: FeatureStore, made_by: spec.EncoderSpec) -> None:
    """Refuse features that cannot be of the encoder that their asserted id is in the store for."""
    asserted = made_by.config.get(ASSERTED)
    for other in (each.spec for each in store.encoders()):
        if asserted is None or other.config.get(ASSERTED) != asserted or other == made_by:
            continue
        theirs, ours = (
            f"{each.architecture}, {each.taps[0].name} of {each.taps[0].dim} {each.storage_dtype}"
            for each in (other, made_by)
        )
        raise MismatchError(
            f"--encoder-id {asserted!r}: the store has it as {theirs}; these features are {ours}",
            hint="import them under the same names and dtype, or with another --encoder-id",
        )


@contextmanager
def _folder_for_unzipped(root: Path) -> Iterator[Path]:
    """A folder in the store; elsewhere where that is read-only: what is there may be all asked."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(Staging(root)).path
        except StoreError:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="linprobe-")))
        yield folder


def _check_text(option: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MismatchError(f"{option} {text!r}: expected UTF-8", hint="type it again") from None
    if len(text) > MAX_NAME:
        message = f"{option}: expected at most {MAX_NAME:,} characters, found {len(text):,}"
        raise MismatchError(message, hint="choose a shorter name")


def _digest(array: ArrayFile) -> str:
    values = array.values
    sha256 = hashlib.sha256(f"{values.dtype.str} {values.shape}\n".encode())
    sha256.update(values.data if values.size else b"")
    return sha256.hexdigest()


def _fingerprint(source: SplitArrays, features_digest: str) -> spec.ShardFingerprint:
    """A made-up shard for a split, whose digest covers features, labels and keys."""
    keys = "numbered" if source.keys is None else _digest(source.keys)
    content = digest_json([features_digest, _digest(source.labels), keys])
    return spec.ShardFingerprint(f"imported-{source.name}", source.features.values.nbytes, content)


def _blocks(source: SplitArrays, encoder: spec.EncoderSpec) -> Iterator[spec.FeatureBlock]:
    """The rows of a split as the writer takes them; without keys, they are numbered."""
    width = len(str(source.n))
    for start in range(0, source.n, BLOCK_ROWS):
        rows = range(start, min(start + BLOCK_ROWS, source.n))
        labels = source.labels.values[start : rows.stop]
        if labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
            raise MismatchError(
                f"{source.labels.place}: expected multi-hot labels of 0 and 1, found other values",
                hint="give class ids (n,), or 1 where a sample has the class and 0 elsewhere",
            )
        with np.errstate(over="ignore"):  # infinities are refused by name when written
            features = source.features.values[start : rows.stop].astype(encoder.storage_dtype)
        if source.keys is None:
            keys = tuple(f"{source.name}/{i:0{width}d}" for i in rows)
        else:
            keys = read_texts(source.keys, slice(start, rows.stop))
        taps = {encoder.taps[0].name: cast("spec.FeatureArray", features)}
        kept = labels.astype(np.int64) if labels.ndim == 1 else labels.astype(np.uint8)
        yield spec.FeatureBlock(keys, taps, kept)
