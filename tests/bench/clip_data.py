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
