"""What a probe said about every test row, small enough to keep: ``predictions.npz``."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe_store.format.spec import LabelArray
from linprobe_train.solver.preparation import Float64

TOP = 5
"""Classes kept for a row."""


@dataclass(frozen=True)
class Predictions:
    """Row by row, in the order of the split."""

    keys: NDArray[np.str_]
    """(n,) sample keys."""
    labels: LabelArray
    """(n,) int64, or (n, k) uint8."""
    top: NDArray[np.int64]
    """(n, min(5, k)) class ids, most probable first; of equal ones the smaller id."""
    probability: NDArray[np.float32]
    """(n, min(5, k)) their probabilities."""
    label_probability: NDArray[np.float32]
    """(n,) probability of the label; for multi-label rows (n, k), of every class."""


def predictions_of(p: Float64, labels: LabelArray, keys: list[str]) -> Predictions:
    """Keep the best five of every row; p is (n, k)."""
    top = np.argsort(-p, axis=1, kind="stable")[:, :TOP].astype(np.int64)
    own = p if labels.ndim == 2 else p[np.arange(len(p)), labels]
    return Predictions(
        np.array(keys, dtype=np.str_),
        labels,
        top,
        np.take_along_axis(p, top, axis=1).astype(np.float32),
        own.astype(np.float32),
    )


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write them as one ``.npz``."""
    np.savez(
        path,
        keys=predictions.keys,
        labels=predictions.labels,
        top=predictions.top,
        probability=predictions.probability,
        label_probability=predictions.label_probability,
    )


def load_predictions(path: Path) -> Predictions:
    """Read them back."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return Predictions(
            arrays["keys"],
            arrays["labels"],
            arrays["top"],
            arrays["probability"],
            arrays["label_probability"],
        )
