"""Small stores for the tests of the feature store."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from linprobe.records import canonical_json, digest_json, plain
from linprobe_store.format.checksums import FileDigest, digest_bytes
from linprobe_store.format.commit import PartCommit
from linprobe_store.format.layout import COMMIT_FILE
from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    EncoderNames,
    EncoderSpec,
    FeatureBlock,
    LabelArray,
    ShardFingerprint,
    SkippedSample,
    SplitSpec,
    StorageDtype,
    Tap,
)
from linprobe_store.handles.dataset import StoredDataset
from linprobe_store.handles.encoder import StoredEncoder, open_encoder
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

NAMES = EncoderNames("ViT-T/8", "vit-t-8-test")
CLASSES = ("cat", "dog", "eel")


def encoder_spec(
    *dims: int, storage_dtype: StorageDtype = "float16", weights: str = "0"
) -> EncoderSpec:
    """Spec of an encoder with one or two taps."""
    names = ("embedding", "pre_projection")
    return EncoderSpec(
        architecture="test:ViT-T-8",
        config={"width": 8, "patch": [8, 8]},
        activation="quick_gelu",
        weights_sha256=weights * 64,
        taps=tuple(Tap(name, dim) for name, dim in zip(names, dims or (5,), strict=False)),
        preprocess=None,
        precision="fp32",
        storage_dtype=storage_dtype,
    )


def fingerprint(i: int, name: str = "train") -> ShardFingerprint:
    """Fingerprint of a source tar that does not exist."""
    return ShardFingerprint(f"{name}-{i:05d}.tar", 1000 + i, f"{i:064x}")


def dataset_spec(
    shards: Iterable[ShardFingerprint], classes: tuple[str, ...] = CLASSES
) -> DatasetSpec:
    """Dataset with one split, ``train``."""
    return DatasetSpec((SplitSpec("train", tuple(shards)),), "cls", classes)


def block(
    spec: EncoderSpec, n: int, *, seed: int = 0, prefix: str = "s", n_columns: int | None = None
) -> FeatureBlock:
    """Random features, never zero, with class ids or multi-hot labels."""
    rng = np.random.default_rng([seed, n])
    labels: LabelArray = rng.integers(0, len(CLASSES), n)
    if n_columns is not None:
        labels = rng.integers(0, 2, (n, n_columns)).astype(np.uint8)
    return FeatureBlock(
        keys=tuple(f"{prefix}/é{i:05d}" for i in range(n)),
        features={
            tap.name: rng.standard_normal((n, tap.dim)).astype(spec.storage_dtype) + 8
            for tap in spec.taps
        },
        labels=labels,
        image_sha256=rng.integers(0, 256, (n, 32), np.uint8),
    )


def slice_block(whole: FeatureBlock, start: int, stop: int) -> FeatureBlock:
    """Rows ``start`` to ``stop`` of a block."""
    features = {tap: x[start:stop] for tap, x in whole.features.items()}
    images = None if whole.image_sha256 is None else whole.image_sha256[start:stop]
    return FeatureBlock(whole.keys[start:stop], features, whole.labels[start:stop], images)


def write_part(
    encoder: StoredEncoder,
    shard: ShardFingerprint,
    whole: FeatureBlock,
    *,
    rows_at_once: int = 1000,
    skipped: Sequence[SkippedSample] = (),
) -> PartCommit:
    """Write and commit a part block by block."""
    n = len(whole.keys)
    with encoder.part_writer(shard) as writer:
        for start in range(0, n, rows_at_once):
            writer.append(slice_block(whole, start, start + rows_at_once))
        planned = n + len(skipped)
        return writer.commit(skipped=skipped, batch_size=32, planned=planned, labelling="cls")


def register(root: Path, spec: EncoderSpec | None = None) -> StoredEncoder:
    """An encoder in the store at ``root``."""
    return FeatureStore(root).register_encoder(spec or encoder_spec(), NAMES)


def sealed_split(
    root: Path, sizes: Sequence[int] = (7, 5), spec: EncoderSpec | None = None
) -> tuple[Split, list[FeatureBlock]]:
    """A sealed split of one part per size, and what it was made of."""
    encoder = register(root, spec)
    shards = [fingerprint(i) for i in range(len(sizes))]
    blocks = [block(encoder.spec, n, seed=i, prefix=shards[i].name) for i, n in enumerate(sizes)]
    for shard, whole in zip(shards, blocks, strict=True):
        write_part(encoder, shard, whole)
    return encoder.seal(dataset_spec(shards), "train", names=DatasetNames("Pets")), blocks


def root_of(split: Split) -> Path:
    """The store that a split lies in."""
    return split.path.parents[3]


def encoder_of(split: Split) -> StoredEncoder:
    """The stored encoder of a split."""
    return open_encoder(split.path.parents[2])


def dataset_of(split: Split) -> StoredDataset:
    """The stored dataset of a split."""
    return encoder_of(split).open_dataset(split.path.parent)


def sign_again(unit: Path, *names: str) -> None:
    """Sign the commit of a unit anew, with some files as they are now: a writer that lies."""
    path = unit / COMMIT_FILE
    fields = json.loads(path.read_bytes())
    for name in names:
        is_strong = fields["files"][name]["sha256"] is not None
        fields["files"][name] = plain(digest_bytes((unit / name).read_bytes(), strong=is_strong))
    fields.pop("digest", None)
    path.write_bytes(canonical_json({**fields, "digest": digest_json(fields)}))


def table_of(folder: Path) -> dict[str, FileDigest]:
    """Digests of all files below a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): digest_bytes(path.read_bytes(), strong=False)
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere; without the privilege, permissions count."""
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(65534)
        yield
    finally:
        if is_root:
            os.seteuid(0)
