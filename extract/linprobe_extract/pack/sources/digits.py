"""``digits``: the handwritten digits of scikit-learn, 1,797 gray 8x8 images, without a download."""

from dataclasses import replace

import numpy as np

from linprobe_extract.pack.listing import Listing, PackOptions
from linprobe_extract.pack.png import pixel_samples
from linprobe_extract.pack.splits import split_by_options

NAME = FORM = "digits"
HELP = "the 1,797 handwritten digits inside scikit-learn; no download"
IS_PATH = False
NEVER_CHANGES = True

SHARD_SAMPLES = 500
"""Several shards even of so small a dataset, so that a demo shows how shards are worked through."""
GRAY_LEVELS = 16
"""The source counts dark pixels in 4x4 blocks: 0..16 (UCI, Optical Recognition of Handwritten
Digits)."""


def list_samples(words: str, options: PackOptions) -> Listing:  # it takes none
    """List UCI's test digits, as scikit-learn ships them: gray 0..255, a seeded fifth for test."""
    from sklearn.datasets import load_digits

    rows, labels = load_digits(return_X_y=True)
    pixels = np.rint(rows.reshape(-1, 8, 8) * (255 / GRAY_LEVELS)).astype(np.uint8)
    samples = pixel_samples(pixels, labels, "{:04d}")
    splits, note = split_by_options(samples, replace(options, test_fraction=0.2, val_fraction=0.0))
    return Listing(NAME, tuple("0123456789"), splits, shard_samples=SHARD_SAMPLES, notes=(note,))
