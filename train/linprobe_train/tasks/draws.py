"""Seeded draws of a few rows of each class, nested from few shots to many."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError, OptionError
from linprobe.names import first_few
from linprobe_train.solver.rows import Rows

HELD_OUT = 4
"""Most rows of a class on which C is chosen: CoOp's min(shots, 4)."""

RowNumbers = NDArray[np.int64]
"""Row numbers of one class, in the order in which they are drawn."""


@dataclass(frozen=True)
class Draws:
    """Which rows are drawn; a number out of range is an ``OptionError``."""

    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Rows of each class, ascending."""
    repeats: int = 5
    """How many times."""
    seed: int = 0
    """Of the random numbers."""

    def __post_init__(self) -> None:
        if not self.shots or min(self.shots) < 1 or self.repeats < 1:
            raise OptionError(
                f"shots {self.shots} with {self.repeats} draws; expected numbers from 1",
                hint="--shots 1,2,4,8,16 --repeats 5",
            )


@dataclass(frozen=True)
class Draw:
    """One shuffling of the rows of every class: s shots are the first s."""

    train: Rows
    """Where shots come from."""
    shots: tuple[RowNumbers, ...]
    """By class that has rows: rows of ``train``."""
    source: Rows
    """Where held-out rows come from: val, or train."""
    held: tuple[RowNumbers, ...]
    """By class: rows of ``source`` that no number of shots takes."""
    most: int
    """Largest number of shots."""

    def rows(self, shots: int) -> tuple[Rows, Rows]:
        """Rows to fit, and rows on which C is chosen."""
        fitted = _take(self.train, [rows[:shots] for rows in self.shots])
        held = _take(self.source, [rows[: min(shots, HELD_OUT)] for rows in self.held])
        return fitted, held

    def warnings(self, classes: list[str]) -> tuple[str, ...]:
        """Name classes that cannot give as many rows as asked for."""
        short = [rows for rows in self.shots if len(rows) < self.most]
        if not short:
            return ()
        names = first_few(classes[int(self.train.labels[rows[0]])] for rows in short)
        line = f"{len(short)} classes have fewer than {self.most} rows and give what they have"
        return (f"{line}: {names}",)


def draw_rows(
    train: Rows, val: Rows | None, shots: tuple[int, ...], seed: int, repeat: int
) -> Draw:
    """Shuffle the rows of every class.

    Parameters
    ----------
    val : where held-out rows come from; None takes them from train, from rows that are no shots.
        A class then keeps at least one row to fit, and holds out at least one.

    Raises
    ------
    DataError : no val, and a class with a single training row.
    """
    most = max(shots)
    rng = np.random.default_rng([seed, repeat])
    drawn = [rng.permutation(rows) for rows in _by_class(train)]
    if val is not None:
        held = tuple(rng.permutation(rows) for rows in _by_class(val))
        return Draw(train, tuple(rows[:most] for rows in drawn), val, held, most)
    for rows in drawn:
        if len(rows) < 2:
            raise DataError(
                f"class {int(train.labels[rows[0]])} has a single training row: none is left to "
                "choose C on",
                hint="extract a val split, or give the class more rows",
            )
    cuts = [min(most, len(rows) - min(HELD_OUT, len(rows) // 2)) for rows in drawn]
    first = tuple(rows[:cut] for rows, cut in zip(drawn, cuts, strict=True))
    last = tuple(rows[cut:] for rows, cut in zip(drawn, cuts, strict=True))
    return Draw(train, first, train, last, most)


def _by_class(rows: Rows) -> list[RowNumbers]:
    """Row numbers of every class that has rows, classes ascending."""
    order = np.argsort(rows.labels, kind="stable").astype(np.int64)
    edges = np.flatnonzero(np.diff(rows.labels[order])) + 1
    return list(np.split(order, edges))


def _take(rows: Rows, chosen: list[RowNumbers]) -> Rows:
    keep = np.zeros(rows.n, np.bool_)
    keep[np.concatenate(chosen)] = True
    return rows.select(keep)
