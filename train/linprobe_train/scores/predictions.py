"""What a probe said of every test row: n rows, k classes, t = min(5, k) kept for each."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from linprobe_store.format.spec import LabelArray
from linprobe_train.solver.preparation import Float64

UNREADABLE = (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile, zlib.error)
"""What NumPy raises for a damaged ``.npz``."""
TOP = 5
"""Classes kept for a row."""
Hits = NDArray[np.bool_]
"""(n,) whether the class of a row is right."""
Probabilities = NDArray[np.float64] | NDArray[np.float32]
"""float64 as computed, float32 as kept in ``predictions.npz``."""


@dataclass(frozen=True)
class Predictions:
    """Row by row, in the order of the split."""

    keys: NDArray[np.str_]
    """(n,) sample keys; empty where nobody asks for them."""
    labels: LabelArray
    """(n,) int64, or (n, k) uint8."""
    top: NDArray[np.int64]
    """(n, t) class ids, most probable first; of equal ones the smaller id."""
    probability: Probabilities
    """(n, t) their probabilities."""
    label_probability: Probabilities
    """(n,) probability of the label; for multi-label rows (n, k), of every class."""

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.top)

    def hits(self, count: int = 1) -> Hits:
        """Whether the label of a single-label row is among its ``count`` best classes, (n,)."""
        return np.asarray((self.top[:, :count] == self.labels[:, None]).any(axis=1))

    def take(self, rows: NDArray[np.intp]) -> "Predictions":
        """The rows at these positions, in their order."""
        return Predictions(*(array[rows] for array in vars(self).values()))


def predictions_of(
    p: Float64, labels: LabelArray, keys: Sequence[str] = (), *, count: int = TOP
) -> Predictions:
    """Keep the ``count`` best classes of p (n, k) for labels (n,), or (n, k) multi-hot."""
    top = best_classes(p, count)
    own = p if labels.ndim == 2 else p[np.arange(len(p)), labels]
    best = np.take_along_axis(p, top, axis=1)
    return Predictions(np.array(keys, dtype=np.str_), labels, top, best, own)


def best_classes(p: Float64, count: int) -> NDArray[np.int64]:
    """Ids of the ``count`` largest of every row of p (n, k), (n, min(count, k)); ties by id."""
    if count == 1:  # without a copy of all probabilities: a sweep asks for this at every C
        return np.asarray(p.argmax(axis=1)[:, None], np.int64)
    rest, rows = p.copy(), np.arange(len(p))
    top = np.empty((len(p), min(count, p.shape[1])), np.int64)
    for place in range(top.shape[1]):
        top[:, place] = rest.argmax(axis=1)
        rest[rows, top[:, place]] = -np.inf
    return top


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write them as one ``.npz``, probabilities in float32."""
    kept = replace(
        predictions,
        probability=predictions.probability.astype(np.float32),
        label_probability=predictions.label_probability.astype(np.float32),
    )
    np.savez(path, **vars(kept))


def load_predictions(path: Path) -> Predictions:
    """Read them back."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return Predictions(*(arrays[field.name] for field in fields(Predictions)))
