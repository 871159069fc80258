"""What a probe said of every test row: n rows, k classes, t = min(5, k) kept for each."""

import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from operator import add
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import ResultError
from linprobe.terminal import command
from linprobe_store.format.npy import read_npz
from linprobe_store.format.spec import LabelArray
from linprobe_train.solver.passes import Crew
from linprobe_train.solver.preparation import Float64
from linprobe_train.solver.probe import Probe
from linprobe_train.solver.rows import BLOCK_ROWS, Rows

REMAKE = f"copy it again from where it is whole, or make it again with {command('probe')}"
"""What to do about a damaged result or probe."""
PREDICTIONS_FILE = "predictions.npz"
"""What the predictions of a probe are kept in."""
TOP = 5
"""Classes kept for a row."""
Hits = NDArray[np.bool_]
"""(n,) whether the class of a row is right."""
Probabilities = NDArray[np.float64] | NDArray[np.float32]
"""float64 as computed, float32 as kept in ``predictions.npz``."""

_DTYPES = {
    "keys": "<U[1-9][0-9]{0,5}",
    "labels": "<i8|[|]u1",
    "top": "<i8",
    "probability": "<f4",
    "label_probability": "<f4",
}


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

    def check(self, n: int, k: int) -> None:
        """Refuse, by a ``ValueError``, what n rows of k classes cannot be."""
        labels, t = self.labels, min(TOP, k)
        shapes = {
            "keys": (n,),
            "labels": (n, k) if labels.ndim == 2 else (n,),
            "top": (n, t),
            "probability": (n, t),
            "label_probability": (n, k) if labels.ndim == 2 else (n,),
        }
        for name, expected in shapes.items():
            if (shape := getattr(self, name).shape) != expected:
                raise ValueError(f"expected {name} of shape {expected}, found {shape}")
        for name, below in (("labels", 2 if labels.ndim == 2 else k), ("top", k)):
            ids = getattr(self, name)
            if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < below:
                raise ValueError(f"expected {name} of 0 to {below - 1}, found {ids.max()}")
        for name in ("probability", "label_probability"):
            p = getattr(self, name)
            if not ((p >= 0) & (p <= 1 + 1e-6)).all():  # no NaN either
                raise ValueError(f"expected {name} of 0 to 1")
        points = self.keys.view(np.uint32)
        if ((points > sys.maxunicode) | ((points >= 0xD800) & (points < 0xE000))).any():
            raise ValueError("expected keys of UTF-8 text")

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


@dataclass(frozen=True)
class PredictAt:
    """Reads what a probe says of rows."""

    probe: Probe
    """Which."""
    count: int
    """Classes kept for a row."""

    def __call__(self, rows: Rows, first: int) -> tuple[Predictions, ...]:
        """Of some rows, block by block."""
        parts = []
        for start, block in rows.pairs():
            some = Rows((block,), rows.labels[start : start + block.n], rows.n_classes)
            probabilities = self.probe.probabilities(some)
            parts.append(predictions_of(probabilities, some.labels, count=self.count))
        return tuple(parts)


def predict(
    probe: Probe,
    rows: Rows,
    keys: Sequence[str] = (),
    *,
    count: int = TOP,
    crew: Crew | None = None,
) -> Predictions:
    """Keep the ``count`` best classes of what a probe says of rows, some of them at a time.

    ``crew`` reads them; None for this thread.
    """
    read = PredictAt(probe, count)
    parts = read(rows, 0) if crew is None else crew.total(rows, read, add)
    whole = join_predictions(parts)
    return replace(whole, keys=np.array(keys, dtype=np.str_), labels=rows.labels)


def predict_bytes(n: int, k: int, *, multi_label: bool) -> int:
    """Of n predicted rows of k classes, scored with intervals, and of a block on its way.

    A row has a key, its best classes and a label, some of it twice; with several labels, the
    probability, the rank and the step of every class.
    """
    return 8 * 8 * BLOCK_ROWS * k + n * (1000 + (64 * k if multi_label else 0))


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Rows after rows, of the same classes."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Predictions(*(np.concatenate(arrays) for arrays in columns))


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


def encode_predictions(predictions: Predictions) -> bytes:
    """The bytes of ``predictions.npz``, probabilities in float32."""
    kept = replace(
        predictions,
        probability=np.ascontiguousarray(predictions.probability, np.float32),
        label_probability=np.ascontiguousarray(predictions.label_probability, np.float32),
    )
    stream = io.BytesIO()
    np.savez(stream, **vars(kept))
    return stream.getvalue()


def parse_predictions(path: Path, data: bytes) -> Predictions:
    """Read them back from the content of a file; ``ResultError``: it is no such archive."""
    names = tuple(field.name for field in fields(Predictions))
    arrays = read_npz(path, limit=None, only=names, data=data, error=ResultError, hint=REMAKE)
    for name, rows in arrays.items():
        if not re.fullmatch(_DTYPES[name], rows.dtype.str):
            message = f"{path}: expected {name} of another type than {rows.dtype}"
            raise ResultError(message, hint=REMAKE)
    return Predictions(**arrays)  # type: ignore[arg-type]  # of the types that were checked
