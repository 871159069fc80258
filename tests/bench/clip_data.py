"""Real CLIP features for the benchmarks of the train stage.

Found in ``$LINPROBE_SHARED_DATA``, else in ``../shared/data`` beside the repository; every set is
``clip_features/<name>.npz`` with train16, val and test features and labels.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""


@dataclass(frozen=True)
class ClipSet:
    """A set cut for solver benchmarks: fit on train16 + val + half of test, score on the rest."""

    name: str
    """Such as ``oxford_pets``."""
    features: NDArray[np.float16] | NDArray[np.float32]
    """(n, d), rows of unit norm where they are CLIP's."""
    labels: NDArray[np.int64]
    """(n,)"""
    held_out: NDArray[np.float16]
    """The other half of test."""
    held_out_labels: NDArray[np.int64]
    """Its labels."""
    n_classes: int
    """k"""


def data_folder() -> Path:
    """Folder of the shared data."""
    return Path(os.environ.get("LINPROBE_SHARED_DATA", ROOT.parent / "shared" / "data"))


def clip_sets() -> list[ClipSet]:
    """Every set there is.

    Raises
    ------
    SystemExit : there is none.
    """
    paths = sorted((data_folder() / "clip_features").glob("*.npz"))
    if not paths:
        raise SystemExit(f"no CLIP features under {data_folder()}: set LINPROBE_SHARED_DATA")
    return [_read(path) for path in paths]


def _read(path: Path) -> ClipSet:
    with np.load(path) as z:
        x = {name: z[f"{name}_x"] for name in ("train16", "val", "test")}
        y = {name: z[f"{name}_y"].astype(np.int64) for name in ("train16", "val", "test")}
    # Test rows come sorted by class in some sets: every second row keeps both halves alike.
    half = np.arange(len(y["test"])) % 2 == 0
    return ClipSet(
        path.stem,
        np.concatenate([x["train16"], x["val"], x["test"][half]]),
        np.concatenate([y["train16"], y["val"], y["test"][half]]),
        x["test"][~half],
        y["test"][~half],
        int(y["train16"].max()) + 1,
    )


def remixed(
    n: int, d: int, *, hardness: float = 2.0, seed: int = 0
) -> tuple[NDArray[np.float16], NDArray[np.int64], int]:
    """Many rows with the statistics of the real ones: features (n, d), labels (n,), classes k.

    A row is the mean of a class of any of the sets, plus three deviations of rows of that class
    with random weights (their squares sum to 1), plus ``hardness`` times that of a row of any
    class: so that 8 to 9 of 10 are told right, as of ImageNet's. Of 512 dimensions those of most
    variance stay; above 512, others follow with a tenth of the values of the first.
    """
    sets, rng = clip_sets(), np.random.default_rng(seed)
    first = np.cumsum([0, *(data.n_classes for data in sets)])
    parts = [np.concatenate([data.features, data.held_out]) for data in sets]
    labels = [np.concatenate([data.labels, data.held_out_labels]) for data in sets]
    y = np.concatenate([own + start for own, start in zip(labels, first, strict=False)])
    x = np.concatenate(parts).astype(np.float32)[order := np.argsort(y, kind="stable")]
    x, y, k = x / np.linalg.norm(x, axis=1, keepdims=True), y[order], int(first[-1])
    axes = np.linalg.eigh(np.cov(x.T))[1][:, ::-1].astype(np.float32)
    x = x @ axes[:, :d]
    x = np.concatenate([x, 0.1 * x[:, : max(0, d - x.shape[1])]], axis=1)
    counts, begins = np.bincount(y), np.searchsorted(y, np.arange(k))
    means = np.stack([x[y == label].mean(axis=0) for label in range(k)])
    deviations = (x - means[y]) * np.sqrt(counts / (counts - 1))[y][:, None].astype(np.float32)
    wanted = rng.permutation(np.arange(n) % k)
    out = np.empty((n, d), np.float16)
    for start in range(0, n, 8192):
        label = wanted[start : start + 8192]
        rows = means[label] + hardness * deviations[rng.integers(0, len(x), len(label))]
        for weight in np.sqrt(rng.dirichlet(np.ones(3), len(label))).T.astype(np.float32):
            own = begins[label] + (rng.random(len(label)) * counts[label]).astype(np.int64)
            rows += weight[:, None] * deviations[own]
        out[start : start + 8192] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return out, wanted.astype(np.int64), k
