"""The digits of scikit-learn as a source: 1,797 gray 8x8 images that need no download."""

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from linprobe_extract.pack.listing import Listing, SourceSample
from linprobe_extract.pack.shard import encode_png
from linprobe_extract.pack.splits import FractionRule, describe_rule, split_by_fraction

TEST_SHARE = 0.2
SHARD_SAMPLES = 500
"""Several shards even of so small a dataset, so that a demo shows how shards are worked through."""
GRAY_LEVELS = 16
"""The source counts dark pixels in 4x4 blocks: 0..16 (UCI, Optical Recognition of Handwritten
Digits)."""


def list_digits(seed: int) -> Listing:
    """List the test part of UCI's handwritten digits, as scikit-learn ships it.

    Pixels 0..16 become gray levels 0..255; a seeded stratified fifth is the test split.
    """
    from sklearn.datasets import load_digits

    load = cast(
        "Callable[..., tuple[NDArray[np.float64], NDArray[np.int64]]]", partial(load_digits)
    )
    rows, labels = load(return_X_y=True)
    pixels = np.rint(rows.reshape(-1, 8, 8) * (255 / GRAY_LEVELS)).astype(np.uint8)
    samples = [
        SourceSample(
            name=f"{index:04d}",
            labels=(int(label),),
            extension="png",
            n_bytes=len(encode_png(pixels[index])),
            stamp=0,
            read=partial(encode_png, pixels[index]),
        )
        for index, label in enumerate(labels)
    ]
    rule = FractionRule(test=TEST_SHARE)
    return Listing(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        splits=split_by_fraction(samples, rule, seed),
        shard_samples=SHARD_SAMPLES,
        notes=(describe_rule(rule, seed),),
    )
