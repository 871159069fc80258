"""What a probe said of every test row: n rows, k classes, t = min(5, k) kept for each."""

import io
import math
import re
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from linprobe_store.format.spec import LabelArray
from linprobe_train.solver.preparation import Float64

PREDICTIONS_FILE = "predictions.npz"
"""What the predictions of a probe are kept in."""
TOP = 5
"""Classes kept for a row."""
Hits = NDArray[np.bool_]
"""(n,) whether the class of a row is right."""
Probabilities = NDArray[np.float64] | NDArray[np.float32]
"""float64 as computed, float32 as kept in ``predictions.npz``."""

_END = struct.Struct("<4s4H2LH")
"""The end of a zip archive without a comment."""
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<|]\w{2,12})', 'fortran_order': False, "
    rb"'shape': \((\d{1,12}(?:, \d{1,12})?,?)\), \} *\n",
    re.DOTALL,
)
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


def parse_predictions(data: bytes) -> Predictions:
    """Read them back, in no more memory than twice the bytes given.

    NumPy's own reader unpacks whatever an archive says, and takes memory before it looks.
    ``ValueError``: these are not the bytes of :func:`encode_predictions`.
    """
    names = [field.name for field in fields(Predictions)]
    signature, *_, entries, directory, _, comment = _END.unpack(data[-_END.size :].rjust(22))
    is_long = data[-42:-38] == b"PK\6\7"  # a second ending, which may list any number of entries
    if signature != b"PK\5\6" or entries != len(names) or directory > 1000 or comment or is_long:
        raise ValueError(f"expected an archive of {len(names)} arrays")
    try:
        with ZipFile(io.BytesIO(data)) as archive:
            infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if sorted(infos) != sorted(names):
                raise ValueError(f"expected the arrays {', '.join(names)}")
            if any(info.compress_type != ZIP_STORED for info in infos.values()):
                raise ValueError("expected arrays that are not compressed")
            if sum(info.file_size for info in infos.values()) > len(data):
                raise ValueError("expected no array larger than the archive")
            arrays = {name: _array_of(name, archive.read(infos[name])) for name in names}
    except (BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    return Predictions(**arrays)  # type: ignore[arg-type]  # of the types that were checked


def _array_of(name: str, data: bytes) -> NDArray[np.generic]:
    """An array from the bytes of an ``.npy`` file as NumPy writes it; ``ValueError``: another."""
    header = _NPY_HEADER.match(data)
    if header is None:
        raise ValueError(f"{name} is no array as NumPy writes it")
    dtype, shape = header[1].decode(), tuple(int(n) for n in header[2].split(b",") if n.strip())
    content = data[header.end() :]
    if not re.fullmatch(_DTYPES[name], dtype):
        raise ValueError(f"{name} is of the type {dtype}")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(content):
        raise ValueError(f"{name} of shape {shape} and {len(content)} bytes")
    return np.ndarray(shape, dtype, content)
