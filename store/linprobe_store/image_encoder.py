"""Features of image files, for a stage that must not know the one that makes them.

The train stage predicts on images; the extract stage encodes them; neither imports the other. What
encodes images is an :data:`ImageFeatures` in the entry points ``linprobe.image_features``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeAlias, cast

from linprobe.errors import LinprobeError
from linprobe.machine import Device
from linprobe.terminal import install
from linprobe_store.format.spec import EncoderSpec, FeatureArray, SkippedSample


@dataclass(frozen=True)
class ImageRequest:
    """Images, and the encoder whose features are wanted of them."""

    encoder: EncoderSpec
    """The very encoder: features of another are refused."""
    model: str
    """What people call it, enough to load it."""
    weights: Path | None
    """Local checkpoint, or None for the model's own."""
    device: Device
    """Where it runs."""
    paths: tuple[Path, ...]
    """Image files, folders of images (searched through, but for hidden ones), and tar shards."""
    upright: bool = False
    """Whether images are turned as their EXIF says, as those of the probe's dataset were."""


@dataclass(frozen=True)
class ImageRows:
    """What became of some images, in order."""

    keys: tuple[str, ...]
    """Names of those that were encoded: paths, or sample keys inside a shard."""
    features: Mapping[str, FeatureArray]
    """(b, d) by tap, in the storage dtype, un-normalised: what the store would hold."""
    skipped: tuple[SkippedSample, ...]
    """The others, with the reason of each."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Remarks on those that were encoded, such as ``orientation_ignored``, by count."""


ImageFeatures: TypeAlias = Callable[[ImageRequest], Iterator[ImageRows]]
"""Encodes images in batches; a LinprobeError where the encoder that loads is not the one asked for
(names both), a path is not there, or no image is found."""


def find_image_features() -> ImageFeatures:
    """The installed encoder of images; a LinprobeError where it, or a library of it, is missing."""
    missing = "the extract stage"
    for point in entry_points(group="linprobe.image_features"):
        try:
            return cast("ImageFeatures", point.load())
        except ImportError as error:
            missing = error.name or str(error)
    raise LinprobeError(
        f"encoding images needs {missing}, which is not installed here",
        hint=f"{install('extract')}, or predict on stored features",
    )
