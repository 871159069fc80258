"""What a person calls taps: one, several joined by ``+``, or ``last4`` for four blocks."""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import cast

import numpy as np

from linprobe.errors import NotFoundError
from linprobe_store.format.spec import EncoderSpec, FeatureArray

LAST4 = "last4"
"""The class tokens of the last four blocks, concatenated: DINOv2's linear evaluation."""
_BLOCK = re.compile(r"block-([1-9]\d*)")


def is_block(name: str) -> bool:
    """Whether a tap is the class token of a block, such as ``block-12``."""
    return _BLOCK.fullmatch(name) is not None


def expand_taps(names: Sequence[str], n_blocks: int) -> tuple[str, ...]:
    """Write ``last4`` out for a tower of so many blocks, where it has four."""
    last = [f"block-{i}" for i in range(n_blocks - 3, n_blocks + 1)] if n_blocks >= 4 else [LAST4]
    return tuple(chain.from_iterable(last if name == LAST4 else [name] for name in names))


def joined_taps(text: str, spec: EncoderSpec) -> tuple[str, ...]:
    """Names of the stored taps whose features, side by side, are those of ``text``.

    Parameters
    ----------
    text : such as ``embedding``, ``cls+patch_mean`` or ``last4+patch_mean``.
    spec : the encoder that the features are of.

    Raises
    ------
    NotFoundError : the encoder has no such tap stored, or one is named twice.
    """
    n_blocks = spec.n_blocks if isinstance(spec.n_blocks, int) else 0
    names, stored = expand_taps(text.split("+"), n_blocks), [tap.name for tap in spec.taps]
    known = ", ".join(stored)
    if missing := [name for name in names if name not in stored]:
        raise NotFoundError(f"no tap {missing[0]!r}", hint=f"this encoder has: {known}")
    if len(set(names)) < len(names):
        raise NotFoundError(f"{text!r} names a tap twice", hint=f"join different ones of: {known}")
    return names


def join_features(
    features: Mapping[str, FeatureArray], text: str, spec: EncoderSpec
) -> FeatureArray:
    """Features (n, d) of taps joined as :func:`joined_taps` has them, of those by tap."""
    columns = [features[name] for name in joined_taps(text, spec)]
    return columns[0] if len(columns) == 1 else cast("FeatureArray", np.concatenate(columns, 1))
