"""What a stored feature is a function of, and the values that enter and leave the store.

A spec is hashed whole into its id; names, versions, devices and batch sizes never are.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from linprobe.errors import REPAIR, IntegrityError
from linprobe.records import NonNegative, canonical_json, digest_json, parse, plain

KEY_VERSION = 1
"""Raised by one when the meaning of our own code behind a feature changes."""

StorageDtype = Literal["float16", "float32"]
"""Dtype of the stored rows."""
Number: TypeAlias = int | float
"""A number of a spec; an integer stays one, since ``1`` and ``1.0`` are hashed as written."""
KeyPrefix: TypeAlias = Literal["shard"] | UnsetType
"""``shard``: the key ``s0`` in ``7.tar`` is ``7.tar/s0``, for shards that count anew."""
FeatureArray: TypeAlias = NDArray[np.float16] | NDArray[np.float32]
"""Features, C-contiguous (n, d)."""
LabelArray: TypeAlias = NDArray[np.int64] | NDArray[np.uint8]
"""Labels: class ids (n,) int64; or, for multi-label data, a multi-hot matrix (n, k) uint8."""
DigestArray: TypeAlias = NDArray[np.uint8]
"""Sha256 of the bytes of images, (n, 32)."""


@dataclass(frozen=True)
class Tap:
    """A point of the encoder that features are taken from."""

    name: str
    """``embedding`` (what the model returns), ``pre_projection`` (what enters its last linear map),
    ``cls`` and ``patch_mean`` (the class token, and the mean of the patch tokens, after the final
    norm), or ``block-N`` (the class token as it leaves block N, counted from 1)."""
    dim: NonNegative
    """Feature dimension d, at least 1."""


@dataclass(frozen=True)
class PreprocessSpec:
    """How image bytes become pixels; all of it changes features."""

    image_size: NonNegative
    """Side of the square input in pixels."""
    mean: tuple[Number, Number, Number]
    """Per-channel mean of RGB in [0, 1], subtracted."""
    std: tuple[Number, Number, Number]
    """Per-channel standard deviation of RGB in [0, 1], divided by."""
    interpolation: str
    """``bicubic`` or ``bilinear``."""
    resize_mode: str
    """``shortest`` (resize the short side, crop the centre), ``squash`` or ``longest``."""
    fill_color: NonNegative
    """Gray level 0..255 of the padding where ``resize_mode`` pads."""
    crop_pct: Number
    """Crop side over resized side: 1.0 for CLIP, often 0.875 for ImageNet models."""
    path: Literal["fast", "exact", "nvjpeg", "own"]
    """``fast``: uint8 JPEG decode and resize; ``exact``: the model's own transform; ``nvjpeg``:
    JPEG decode and resize on a GPU; ``own``: a function, whose pixels the canary tells alone."""
    canary: str
    """Sha256 of the uint8 pixels of the built-in canary images after this preprocessing."""
    rgb_first: bool = False
    """Whether palette, alpha and CMYK images become RGB before the resize (timm's loader) or
    after it (open_clip's transform); the two differ by up to 255 gray levels."""
    crop_halves: Literal["down"] | UnsetType = UNSET
    """``down``: half a pixel beside the crop is rounded down, as transformers does; absent from the
    file where it is rounded to even, as torchvision does."""


@dataclass(frozen=True)
class EncoderSpec:
    """A frozen tower with its preprocessing, taps and arithmetic: what makes features.

    Examples
    --------
    >>> spec = FeatureStore("features").split("test").encoder_spec
    >>> spec.taps, spec.storage_dtype, len(spec.encoder_id)    # dim is d of (n, d)
    ((Tap(name='embedding', dim=12),), 'float16', 64)
    """

    architecture: str
    """Library and name, such as ``open_clip:ViT-B-16`` or ``timm:tf_efficientnet_lite0``."""
    config: Mapping[str, Any]
    """The resolved vision configuration as plain JSON, as the library describes it."""
    activation: str
    """The effective activation (``quick_gelu``, ``gelu``, ...): the same weights with another
    activation are another encoder."""
    weights_sha256: str
    """Digest over sorted (name, dtype, shape, bytes) of the loaded visual tower."""
    taps: tuple[Tap, ...]
    """Every tap stored, in a fixed order; at least one."""
    preprocess: PreprocessSpec | None
    """None for features imported from elsewhere."""
    precision: Literal["fp32", "bf16", "fp16", "unknown"]
    """Arithmetic of the forward pass; ``unknown`` for imported features."""
    storage_dtype: StorageDtype
    """Dtype of the stored rows."""
    n_blocks: int | UnsetType = UNSET
    """Blocks of the tower, where taps of some are stored; absent from the file else."""
    key_version: NonNegative = KEY_VERSION
    """Version of this key."""

    @cached_property
    def encoder_id(self) -> str:
        """Sha256 of the canonical JSON of this spec, as 64 hex digits."""
        return digest_json(plain(self))


@dataclass(frozen=True)
class ShardFingerprint:
    """A source tar by its content; where it lies and when it was touched do not count."""

    name: str
    """Basename, such as ``train-00000.tar``."""
    bytes: NonNegative
    """Size in bytes."""
    sha256: str
    """Sha256 of the whole file, as 64 hex digits."""


@dataclass(frozen=True)
class SplitSpec:
    """One split of a dataset: its shards, in row order."""

    name: str
    """``train``, ``val`` or ``test``."""
    shards: tuple[ShardFingerprint, ...]
    """Source tars in row order."""


@dataclass(frozen=True)
class DatasetSpec:
    """A labelled dataset by its content.

    Examples
    --------
    >>> spec = FeatureStore("features").split("test").dataset_spec
    >>> spec.classes, [split.name for split in spec.splits]    # k names
    (('c0', 'c1', 'c2', 'c3'), ['test', 'train'])
    """

    splits: tuple[SplitSpec, ...]
    """All splits, sorted by name."""
    label_source: str
    """Where labels come from: ``cls``, ``json:<field>``, ``npy``, ``txt`` or ``folder``."""
    classes: tuple[str, ...]
    """Class names by label; k entries."""
    key_prefix: KeyPrefix = UNSET
    """What is put before the keys of the samples, where anything is; absent from the file else."""

    @cached_property
    def dataset_id(self) -> str:
        """Sha256 of the canonical JSON of this spec, as 64 hex digits."""
        return digest_json(plain(self))


@dataclass(frozen=True)
class EncoderNames:
    """What people call an encoder; recorded beside the spec, never hashed."""

    model: str
    """As given on the command line, such as ``ViT-B/16``."""
    slug: str
    """Lower-case file-name form, such as ``vit-b-16-openai``."""


@dataclass(frozen=True)
class DatasetNames:
    """What is declared about a dataset; recorded beside the spec, never hashed."""

    name: str
    """As given on the command line, such as ``cifar10``."""
    metric: str | None = None
    """Its headline metric, such as ``mean_per_class``; None where nobody declared one."""
    upright: Literal[True] | UnsetType = UNSET
    """Set where images were turned as their EXIF says, before anything was encoded."""

    def completed(self, other: "DatasetNames") -> "DatasetNames":
        """These names, with what the other declares and they do not."""
        metric = other.metric if self.metric is None else self.metric
        return replace(self, metric=metric, upright=self.upright or other.upright)


@dataclass(frozen=True)
class FeatureBlock:
    """Consecutive rows of one source tar, as the encoder gives them.

    Examples
    --------
    >>> import numpy as np
    >>> rows = {"embedding": np.ones((2, 5), np.float16)}    # (n, d) by tap
    >>> FeatureBlock(("cat/0", "cat/1"), rows, np.zeros(2, np.int64)).labels
    array([0, 0])
    """

    keys: Sequence[str]
    """Sample keys, n entries, in tar order; unique within the tar, valid UTF-8."""
    features: Mapping[str, FeatureArray]
    """One array (n, d_tap) per tap of the encoder, un-normalised, in the storage dtype; finite,
    and no row all zero."""
    labels: LabelArray
    """(n,) int64 class ids, or (n, k) uint8 multi-hot."""
    image_sha256: DigestArray | None = None
    """Sha256 of the bytes of each image, (n, 32); None for features imported from elsewhere."""


@dataclass(frozen=True)
class SkippedSample:
    """A sample that was read and could not become a feature: lost, but counted."""

    key: str
    """Sample key."""
    reason: str
    """A short reason such as ``truncated``; equal reasons are counted together."""


def prefix_of(prefix: KeyPrefix, shard: ShardFingerprint) -> str:
    """What a dataset with this prefix puts before the keys of a shard."""
    return "" if prefix is UNSET else f"{shard.name}/"


def prefixed(prefix: KeyPrefix, shard: ShardFingerprint, keys: Sequence[str]) -> Sequence[str]:
    """Keys of samples of a shard, as a dataset with this prefix has them."""
    start = prefix_of(prefix, shard)
    return tuple(start + key for key in keys) if start else keys


Spec = TypeVar("Spec", EncoderSpec, DatasetSpec)


def parse_spec(kind: type[Spec], data: bytes, place: str, folder_digits: str) -> Spec:
    """Read the spec of an encoder or dataset, whose id is the sha256 of its file.

    Raises an IntegrityError where it is no such spec, not canonical JSON, or its id does not begin
    with ``folder_digits``: it was changed, or its folder renamed.
    """
    spec = parse(kind, data, place)
    file_id = hashlib.sha256(data).hexdigest()
    if not file_id.startswith(folder_digits):
        message = f"{place}: expected an id that begins with {folder_digits}, found {file_id[:12]}"
        raise IntegrityError(message, hint=REPAIR)
    if canonical_json(plain(spec)) != data:
        raise IntegrityError(f"{place}: expected canonical JSON of every field", hint=REPAIR)
    return spec
