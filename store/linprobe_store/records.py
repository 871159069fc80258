"""The values that cross the border of the store."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

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
