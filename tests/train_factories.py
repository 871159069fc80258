"""Data for tests of the train stage: features that look like an encoder's, in miniature."""

import numpy as np
from numpy.typing import NDArray

from linprobe_train.rows import Rows, rows_of_array


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
