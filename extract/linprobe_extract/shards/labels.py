"""Labels of samples, from what lies beside the image: one class id or several, or refused.

webdataset's decoders take ``1_0`` for ten, a field that comes twice for its last value, and memory
for what an array claims to hold: so what is decoded here is what can be meant in one way alone.
"""

import io
import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from linprobe.errors import ShardError
from linprobe.names import MAX_CLASSES, first_few
from linprobe_extract.shards.types import Label, Labelling
from linprobe_store.format.npy import read_header
from linprobe_store.format.spec import LabelArray

LABEL_FILES = ("cls", "json", "npy", "txt")
"""Extensions of files that hold labels, as webdataset has them."""
_MAX_DIGITS = 64
"""Bytes of a ``.cls``, spaces and line ends included."""


def label_file(files: Mapping[str, bytes | None], labelling: Labelling) -> str:
    """The extensions of the file with the label: ``cls``, or ``v2.cls``; empty where none has it.

    Raises ValueError where it may be one or another.
    """
    kind = labelling.source.partition(":")[0]
    if kind in files or kind not in LABEL_FILES:
        return kind if kind in files else ""
    names = [name for name in files if name.endswith(f".{kind}")]
    if len(names) > 1:
        raise ValueError(f"it may be in {first_few(names)}")
    return names[0] if names else ""


def find_label(key: str, files: Mapping[str, bytes | None], labelling: Labelling) -> Label | None:
    """The class id or ids of a sample by its files, by extension; None where it has none.

    Raises ValueError, or RecursionError for JSON nested too deep, where they cannot be understood.
    """
    kind, _, field = labelling.source.partition(":")
    value: object
    if kind == "folder":
        value = PurePosixPath(key).parent.name
    else:
        data = files.get(label_file(files, labelling))
        if data is None:
            return None
        value = _decoded(kind, field, data, labelling)
    if not isinstance(value, list):
        return None if value is None else _class_id(value, labelling)
    if labelling.classes is None:
        raise ValueError("it has several labels, and the number of classes is not known")
    return tuple(sorted({_class_id(item, labelling) for item in value}))


def _decoded(kind: str, field: str, data: bytes, labelling: Labelling) -> object:
    if kind == "cls":
        return _number(data)
    if kind == "json":
        return _field(data, field)
    if kind == "npy":
        return _ones(data, labelling)
    text = data.decode().strip()
    return _number(data) if text.isdigit() and text not in labelling.ids else text


def _number(data: bytes) -> int:
    if not data.strip().isdigit() or len(data) > _MAX_DIGITS:
        raise ValueError(f"{reprlib.repr(data)} is no class id")
    return int(data)


def _field(data: bytes, name: str) -> object:
    fields = json.loads(data, object_pairs_hook=_object)
    if not isinstance(fields, dict):
        raise ValueError(f"{reprlib.repr(fields)} has no fields")  # noqa: TRY004
    return fields.get(name)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field comes twice")
    return fields


def _ones(data: bytes, labelling: Labelling) -> list[int]:
    """Where an array (k,) of 0 and 1 is 1, as CLIP_benchmark writes multi-label samples."""
    header = read_header(io.BytesIO(data))
    n_classes = None if labelling.classes is None else len(labelling.classes)
    if len(header.shape) != 1 or n_classes not in (None, header.shape[0]):
        wanted = "(k,)" if n_classes is None else f"({n_classes},), one number a class"
        raise ValueError(f"an array of the shape {wanted} is expected, not {header.shape}")
    if header.dtype.kind not in "biuf" or header.file_bytes != len(data):
        raise ValueError(f"{header.shape} {header.dtype} is no whole array of numbers")
    values = np.frombuffer(data, header.dtype, offset=header.n_bytes)
    if not np.isin(values, (0, 1)).all():
        raise ValueError("it holds other numbers than 0 and 1")
    ones: list[int] = np.flatnonzero(values).tolist()
    return ones


def _class_id(value: object, labelling: Labelling) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{reprlib.repr(value)} is neither a class id nor a class name")  # noqa: TRY004
    if isinstance(value, str):
        if value not in labelling.ids:
            raise ValueError(f"no class is called {reprlib.repr(value)}")
        return labelling.ids[value]
    n_classes = MAX_CLASSES if labelling.classes is None else len(labelling.classes)
    if not 0 <= value < n_classes:
        of_them = "" if labelling.classes is None else f" of {n_classes} classes"
        raise ValueError(f"{reprlib.repr(value)} is not the id{of_them} counted from 0")
    return value


def expected_label(source: str) -> str:
    """Say what a label read from ``source`` is: for messages."""
    kind, _, field = source.partition(":")
    texts = {
        "cls": "a member '<key>.cls' that holds a class id",
        "json": f"a member '<key>.json' with the field '{field}'",
        "npy": "a member '<key>.npy' with an array of 0 and 1, one number a class",
        "txt": "a member '<key>.txt' that holds a class name or a class id",
    }
    return texts.get(kind, "keys such as 'class-name/0001'")


def label_array(labels: Sequence[Label], classes: tuple[str, ...] | None) -> LabelArray:
    """Labels as the store takes them: (n,) int64, or (n, k) uint8 for multi-label samples.

    Raises ShardError where a sample has several labels and the class names are not known.
    """
    if not any(isinstance(label, tuple) for label in labels):
        return np.array(labels, np.int64)
    if classes is None:
        fault = "samples have several labels each and the number of classes is unknown"
        hint = "name the classes in classnames.txt or with --classes FILE"
        raise ShardError(fault, hint=hint)
    hot = np.zeros((len(labels), len(classes)), np.uint8)
    for row, label in zip(hot, labels, strict=True):
        row[list(label) if isinstance(label, tuple) else [label]] = 1
    return hot
