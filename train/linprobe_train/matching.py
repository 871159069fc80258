"""Test rows of several results brought into one order, by key."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linprobe_train.collected import Collected
from linprobe_train.errors import ResultError
from linprobe_train.predictions import Predictions

Positions = NDArray[np.intp]
"""Row numbers, (n,)."""


@dataclass(frozen=True)
class Matched:
    """Results that share test rows, on the rows that all of them have."""

    members: tuple[Collected, ...]
    """The results."""
    predictions: tuple[Predictions, ...]
    """Theirs, row i of each being the same sample; ordered by key."""
    notes: tuple[str, ...]
    """Rows that not all of them have."""

    @property
    def n(self) -> int:
        """Rows, at least 1."""
        return len(self.predictions[0].keys)


def match_rows(results: Sequence[Collected]) -> tuple[Matched, ...]:
    """Group results that have test rows in common, and bring their rows into one order.

    Raises
    ------
    ResultError : two results name different classes for one key.
    """
    groups: list[list[tuple[Collected, Predictions]]] = []
    for one in results:
        rows = one.predictions()
        for group in groups:
            if len(np.intersect1d(_common([rows for _, rows in group]), rows.keys)):
                group.append((one, rows))
                break
        else:
            groups.append([(one, rows)])
    return tuple(_matched(group) for group in groups)


def _common(every: Sequence[Predictions]) -> NDArray[np.str_]:
    keys = np.unique(every[0].keys)
    for rows in every[1:]:
        keys = np.intersect1d(keys, rows.keys)
    return keys


def _matched(group: Sequence[tuple[Collected, Predictions]]) -> Matched:
    keys = _common([rows for _, rows in group])
    notes = [
        f"{one.label}: {len(rows.keys) - len(keys)} of {len(rows.keys)} test rows have no "
        "counterpart in every other result and are left out"
        for one, rows in group
        if len(rows.keys) > len(keys)
    ]
    members = tuple(one for one, _ in group)
    taken = tuple(_take(rows, _positions(rows, keys)) for _, rows in group)
    for one, rows in zip(members[1:], taken[1:], strict=True):
        _check_same_truth(members[0], taken[0], one, rows)
    return Matched(members, taken, tuple(notes))


def _positions(rows: Predictions, keys: NDArray[np.str_]) -> Positions:
    order = np.argsort(rows.keys, kind="stable")
    found: Positions = order[np.searchsorted(rows.keys[order], keys)]
    return found


def _take(rows: Predictions, at: Positions) -> Predictions:
    return Predictions(
        rows.keys[at],
        rows.labels[at],
        rows.top[at],
        rows.probability[at],
        rows.label_probability[at],
    )


def _check_same_truth(
    first: Collected, ours: Predictions, second: Collected, theirs: Predictions
) -> None:
    """Refuse results that do not mean the same by the same key; class ids may differ."""
    differ = np.flatnonzero(_truth(first, ours) != _truth(second, theirs))
    if len(differ) == 0:
        return
    i = int(differ[0])
    raise ResultError(
        f"'{first.folder}' and '{second.folder}' give different classes to {len(differ)} of "
        f"{len(ours.keys)} test rows; the first is '{ours.keys[i]}': "
        f"{_truth(first, ours)[i]} and {_truth(second, theirs)[i]}",
        hint="probe both encoders on the same labels",
    )


def _truth(one: Collected, rows: Predictions) -> NDArray[np.str_]:
    """Names of the classes of every row, (n,)."""
    names = np.array(one.result.classes, dtype=np.str_)
    if rows.labels.ndim == 1:
        found: NDArray[np.str_] = names[rows.labels]
        return found
    return np.array([", ".join(sorted(names[row == 1])) for row in rows.labels], dtype=np.str_)
