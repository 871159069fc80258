"""Labels as programs have them: integers, booleans or texts, of one kind; k classes, n rows."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linprobe.errors import DataError
from linprobe.names import first_few

LabelKind: TypeAlias = Literal["int", "bool", "text"]
"""What classes are to the program that fitted a probe."""
Labels: TypeAlias = NDArray[np.generic]
"""(n,) integers, booleans or texts."""


def as_labels(labels: ArrayLike) -> Labels:
    """Labels as an array, objects as what they all are; ``DataError``: they are of several kinds.

    What is no label of a class, such as a float, stays as it is.
    """
    array = np.asarray(labels)
    is_list = isinstance(labels, list | tuple)  # of which numpy makes texts, or numbers, silently
    if array.ndim != 1 or not (is_list or array.dtype == object):
        return array
    items: list[Any] = list(labels) if isinstance(labels, list | tuple) else array.tolist()
    kinds = {_kind_of_type(each) for each in set(map(type, items))}
    if len(kinds) > 1:
        problem = f"labels of several kinds: {first_few(sorted(kinds))}"
        raise DataError(problem, hint="give texts, integers or booleans, and one of them for all")
    return np.array(items) if kinds & {"int", "bool", "text"} else array


def _kind_of_type(kind: type) -> str:
    if issubclass(kind, bool | np.bool_):
        return "bool"
    if issubclass(kind, int | np.integer):
        return "int"
    return "text" if issubclass(kind, str) else kind.__name__


def kind_of(labels: Labels) -> LabelKind | None:
    """Kind of an array of labels, by its type; None for what is none."""
    kinds: dict[str, LabelKind] = {"b": "bool", "i": "int", "u": "int", "U": "text"}
    return kinds.get(labels.dtype.kind)


def labels_of(classes: Sequence[str], kind: LabelKind) -> Labels:
    """Classes of a card, (k,), as labels of their kind; ``ValueError``: they are none."""
    if kind == "text":
        return np.array(classes, dtype=np.str_)
    numbers = [name == "True" if kind == "bool" else int(name) for name in classes]
    labels = np.array(numbers)
    if kind_of(labels) != kind or tuple(map(str, labels.tolist())) != tuple(classes):
        raise ValueError(f"not {kind}")
    return labels


def as_names(labels: Labels, classes: Sequence[str], kind: LabelKind) -> NDArray[np.str_]:
    """Labels that a probe is scored by, (n,), as names of its classes, which are of a kind.

    Of another kind, they are taken as the classes that they mean: 1 is "1", and of booleans True.
    ``DataError``: one means none, or they are no labels.
    """
    found = kind_of(labels)
    if found is None:
        problem = f"labels of type {labels.dtype}; expected classes that are {kind} labels"
        raise DataError(problem, hint="give every row its class, as the probe was fitted on")
    if found == kind:
        return labels.astype(np.str_)
    values, places = np.unique(labels, return_inverse=True)
    names = [_meant(value, kind) for value in values.tolist()]
    known = set(classes)
    for value, name in zip(values.tolist(), names, strict=True):
        if name not in known:
            raise DataError(
                f"the label {value} ({found}) is no class of a probe of {kind} labels: "
                f"{first_few(classes)}",
                hint="give labels of the kind that the probe was fitted on",
            )
    return np.array(names, dtype=np.str_)[places]


def _meant(value: object, kind: LabelKind) -> str:
    if kind == "bool" and value in (0, 1):
        return str(bool(value))
    return str(int(value)) if kind == "int" and isinstance(value, bool) else str(value)
