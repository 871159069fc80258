"""Identity: what a stored feature is a function of.

Everything in an :class:`EncoderSpec` is hashed into the encoder id; everything in a
:class:`DatasetSpec` is hashed into the dataset id. Names people use, library versions, devices
and batch sizes are provenance: recorded beside, never hashed. A fingerprint never falls back.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

from linprobe_store.canonical import JsonValue, digest_json

KEY_VERSION = 1
"""Raised by one when the meaning of our own code behind a feature changes."""

StorageDtype = Literal["float16", "float32"]


@dataclass(frozen=True)
class Tap:
    """A point of the encoder that features are taken from."""

    name: str
    """``embedding`` (what ``encode_image`` returns) or ``pre_projection`` (the penultimate)."""
    dim: int
    """Feature dimension d, at least 1."""


@dataclass(frozen=True)
class PreprocessSpec:
    """How image bytes become pixels; all of it changes features."""

    image_size: int
    """Side of the square input in pixels."""
    mean: tuple[float, float, float]
    """Per-channel mean of RGB in [0, 1], subtracted."""
    std: tuple[float, float, float]
    """Per-channel standard deviation of RGB in [0, 1], divided by."""
    interpolation: str
    """``bicubic`` or ``bilinear``."""
    resize_mode: str
    """``shortest`` (resize the short side, crop the centre), ``squash`` or ``longest``."""
    fill_color: int
    """Gray level 0..255 of the padding where ``resize_mode`` pads."""
    crop_pct: float
    """Crop side over resized side: 1.0 for CLIP, often 0.875 for ImageNet models."""
    path: Literal["fast", "exact"]
    """``fast``: uint8 JPEG decode and resize; ``exact``: the model's own transform."""
    canary: str
    """Sha256 of the uint8 pixels of the built-in canary images after this preprocessing."""
    rgb_first: bool = False
    """Whether palette, alpha and CMYK images become RGB before the resize (timm's loader) or
    after it (open_clip's transform); the two differ by up to 255 gray levels."""


@dataclass(frozen=True)
class EncoderSpec:
    """A frozen tower with its preprocessing, taps and arithmetic: what makes features."""

    architecture: str
    """Library and name, such as ``open_clip:ViT-B-16`` or ``timm:tf_efficientnet_lite0``."""
    config: Mapping[str, JsonValue]
    """The resolved vision configuration, as the library describes it."""
    activation: str
    """The effective activation (``quick_gelu``, ``gelu``, ...): the same weights with another
    activation are another encoder."""
    weights_sha256: str
    """Digest over sorted (name, dtype, shape, bytes) of the loaded visual tower."""
    taps: tuple[Tap, ...]
    """Every tap stored, in a fixed order; at least one."""
    preprocess: PreprocessSpec | None
    """None for features imported from elsewhere."""
    precision: Literal["fp32", "bf16", "unknown"]
    """Arithmetic of the forward pass; ``unknown`` for imported features."""
    storage_dtype: StorageDtype
    """Dtype of the stored rows."""
    key_version: int = KEY_VERSION
    """Version of this key."""

    @cached_property
    def encoder_id(self) -> str:
        """Sha256 of the canonical JSON of this spec, as 64 hex digits."""
        return digest_json(asdict(self))


@dataclass(frozen=True)
class ShardFingerprint:
    """A source tar by its content; where it lies and when it was touched do not count."""

    name: str
    """Basename, such as ``train-00000.tar``."""
    bytes: int
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
    """A labelled dataset by its content."""

    splits: tuple[SplitSpec, ...]
    """All splits, sorted by name."""
    label_source: str
    """Where labels come from: ``cls``, ``json:<field>`` or ``folder``."""
    classes: tuple[str, ...]
    """Class names by label; k entries."""

    @cached_property
    def dataset_id(self) -> str:
        """Sha256 of the canonical JSON of this spec, as 64 hex digits."""
        return digest_json(asdict(self))
