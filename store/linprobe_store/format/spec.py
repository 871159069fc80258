"""Identity: what a stored feature is a function of.

Everything in an :class:`EncoderSpec` is hashed into the encoder id; everything in a
:class:`DatasetSpec` is hashed into the dataset id. Names people use, library versions, devices
and batch sizes are provenance: recorded beside, never hashed. A fingerprint never falls back.

The specs as files: canonical JSON whose sha256 is the id, and back.

The values that cross the border of the store.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import REPAIR, IntegrityError
from linprobe.records import JsonObject, JsonValue, canonical_json, damaged, digest_json

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


FeatureArray: TypeAlias = NDArray[np.float16] | NDArray[np.float32]
"""Features, C-contiguous (n, d)."""
LabelArray: TypeAlias = NDArray[np.int64] | NDArray[np.uint8]
"""Labels: class ids (n,) int64; or, for multi-label data, a multi-hot matrix (n, k) uint8."""


@dataclass(frozen=True)
class FeatureBlock:
    """Consecutive rows of one source tar, as the encoder gives them: contract 1."""

    keys: tuple[str, ...]
    """Sample keys, n entries, in tar order."""
    features: Mapping[str, FeatureArray]
    """One array (n, d_tap) per tap of the encoder, un-normalised, in the storage dtype."""
    labels: LabelArray
    """(n,) int64 class ids, or (n, k) uint8 multi-hot."""


@dataclass(frozen=True)
class SkippedSample:
    """A sample that was read and could not become a feature: lost, but counted."""

    key: str
    """Sample key."""
    reason: str
    """A short reason such as ``truncated``; equal reasons are counted together."""


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


def encoder_json(spec: EncoderSpec) -> bytes:
    """Bytes of ``encoder.json``; their sha256 is the encoder id."""
    return canonical_json(asdict(spec))


def dataset_json(spec: DatasetSpec) -> bytes:
    """Bytes of ``dataset.json``; their sha256 is the dataset id."""
    return canonical_json(asdict(spec))


def encoder_spec_from(json: JsonObject) -> EncoderSpec:
    """Encoder spec from ``encoder.json``.

    Raises
    ------
    IntegrityError : not an encoder spec of this version.
    """
    preprocess = json.get("preprocess")
    precision = json.one_of("precision", "fp32", "bf16", "unknown")
    return EncoderSpec(
        architecture=json.text("architecture"),
        config=json.object("config").fields,
        activation=json.text("activation"),
        weights_sha256=json.text("weights_sha256"),
        taps=taps_from(json),
        preprocess=None if preprocess is None else _preprocess(json.object("preprocess")),
        precision=cast(Literal["fp32", "bf16", "unknown"], precision),
        storage_dtype=storage_dtype_from(json, "storage_dtype"),
        key_version=json.integer("key_version"),
    )


def encoder_names_from(json: JsonObject) -> EncoderNames:
    """Names of an encoder from ``names.json``."""
    return EncoderNames(json.text("model"), json.text("slug"))


def dataset_names_json(names: DatasetNames) -> bytes:
    """Bytes of ``names.json`` of a dataset."""
    return canonical_json(asdict(names))


def dataset_names_from(json: JsonObject) -> DatasetNames:
    """Names of a dataset from ``names.json``; the metric may be absent."""
    is_declared = json.fields.get("metric") is not None
    return DatasetNames(json.text("name"), json.text("metric") if is_declared else None)


def dataset_spec_from(json: JsonObject) -> DatasetSpec:
    """Dataset spec from ``dataset.json``.

    Raises
    ------
    IntegrityError : not a dataset spec.
    """
    splits = tuple(
        SplitSpec(split.text("name"), tuple(shard_from(shard) for shard in split.objects("shards")))
        for split in json.objects("splits")
    )
    return DatasetSpec(splits, json.text("label_source"), json.texts("classes"))


def check_id(place: str, found: str, folder_digits: str) -> None:
    """Check that a spec's id begins with the digits in the name of its folder.

    Raises
    ------
    IntegrityError : it does not: the spec was changed, or the folder renamed.
    """
    if not found.startswith(folder_digits):
        raise IntegrityError(
            f"{place}: expected an id that begins with {folder_digits}, found {found[:12]}",
            hint=REPAIR,
        )


def taps_from(json: JsonObject) -> tuple[Tap, ...]:
    """Taps of a spec or commit."""
    return tuple(Tap(tap.text("name"), tap.integer("dim")) for tap in json.objects("taps"))


def shard_from(json: JsonObject) -> ShardFingerprint:
    """Fingerprint of a source tar."""
    return ShardFingerprint(json.text("name"), json.integer("bytes"), json.text("sha256"))


def storage_dtype_from(json: JsonObject, name: str) -> StorageDtype:
    """Storage dtype of a spec or commit."""
    return cast(StorageDtype, json.one_of(name, "float16", "float32"))


def _preprocess(json: JsonObject) -> PreprocessSpec:
    return PreprocessSpec(
        image_size=json.integer("image_size"),
        mean=_triple(json, "mean"),
        std=_triple(json, "std"),
        interpolation=json.text("interpolation"),
        resize_mode=json.text("resize_mode"),
        fill_color=json.integer("fill_color"),
        crop_pct=json.number("crop_pct"),
        path=cast(Literal["fast", "exact"], json.one_of("path", "fast", "exact")),
        canary=json.text("canary"),
        rgb_first=json.boolean("rgb_first"),
    )


def _triple(json: JsonObject, name: str) -> tuple[float, float, float]:
    values = tuple(v for v in json.list(name) if isinstance(v, int | float))
    if len(values) != 3:
        raise damaged(f"{json.place}: {name}", "three numbers", json.get(name))
    return values[0], values[1], values[2]
