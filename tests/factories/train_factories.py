"""Data for tests of the train stage: features that look like an encoder's, in miniature."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
    Tap,
)
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.store import FeatureStore
from linprobe_train.solver.preparation import Float64, Preparation
from linprobe_train.solver.problem import Problem, make_problem
from linprobe_train.solver.rows import Rows, rows_of_array


def features(
    n: int = 240, d: int = 12, k: int = 4, *, seed: int = 0, noise: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows (n, d) around k centres, off the origin as real features are, and their labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k).astype(np.int64)
    centres = rng.standard_normal((k, d))
    spectrum = np.arange(1, d + 1) ** -0.5
    rows = (centres[labels] + noise * rng.standard_normal((n, d))) * spectrum + 0.5
    return rows.astype(np.float32), labels


def make_rows(n: int = 240, d: int = 12, k: int = 4, *, seed: int = 0, noise: float = 1.0) -> Rows:
    """Rows over :func:`features`."""
    rows, labels = features(n, d, k, seed=seed, noise=noise)
    return rows_of_array(rows, labels, k)


def plain_problem(rows: Rows, *, resident: bool = True, weights: Float64 | None = None) -> Problem:
    """Rows as they are, neither normalised nor standardised."""
    return make_problem(rows, Preparation(False), weights=weights, resident=resident)


@dataclass(frozen=True)
class SplitData:
    """One split to be stored."""

    features: NDArray[np.float32]
    """(n, d)"""
    labels: LabelArray
    """(n,) or (n, k)"""


def image_digests(images: Sequence[bytes]) -> NDArray[np.uint8]:
    """Sha256 of each, (n, 32)."""
    digests = b"".join(hashlib.sha256(image).digest() for image in images)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def stored_dataset(
    root: Path,
    splits: Mapping[str, SplitData],
    *,
    classes: tuple[str, ...],
    name: str = "toys",
    metric: str | None = None,
    tars: str | None = None,
    skipped: Mapping[str, tuple[SkippedSample, ...]] | None = None,
    model: str = "ViT-T/8",
    keys: Mapping[str, tuple[str, ...]] | None = None,
    tap: str = "embedding",
    images: Mapping[str, Sequence[bytes]] | None = None,
) -> StoredEncoder:
    """Seal splits of one dataset by one encoder with a single tap.

    Parameters
    ----------
    tars : beginning of the names of the source tars; default the dataset's name.
    skipped : samples of a split's tar that have no row.
    images : the bytes of each row's image by split; None as of imported features.
    """
    dim = next(iter(splits.values())).features.shape[1]
    spec = EncoderSpec(
        architecture=f"test:{model}",
        config={},
        activation="gelu",
        weights_sha256="0" * 64,
        taps=(Tap(tap, dim),),
        preprocess=None,
        precision="unknown",
        storage_dtype="float16",
    )
    slug = model.lower().replace("/", "-")
    encoder = FeatureStore(root).register_encoder(spec, EncoderNames(model, slug))
    shards = {
        split: ShardFingerprint(f"{tars or name}-{split}.tar", 1, split[:1] * 64)
        for split in splits
    }
    dataset = DatasetSpec(
        tuple(SplitSpec(split, (shards[split],)) for split in sorted(splits)), "cls", classes
    )
    for split, data in splits.items():
        n = len(data.labels)
        own = tuple(f"{split}-{i}" for i in range(n))
        block = FeatureBlock(
            keys=own if keys is None else keys[split],
            features={tap: data.features.astype(np.float16)},
            labels=data.labels,
            image_sha256=None if images is None else image_digests(images[split]),
        )
        with encoder.part_writer(shards[split]) as writer:
            writer.append(block)
            lost = (skipped or {}).get(split, ())
            writer.commit(skipped=lost, batch_size=1, planned=n + len(lost), labelling="cls")
        encoder.seal(dataset, split, names=DatasetNames(name, metric))
    return encoder
