"""Loss and gradient of the rows of a lane."""

from dataclasses import dataclass
from typing import cast

import numpy as np

from linprobe_train.solver.preparation import Float64, Real
from linprobe_train.solver.reads.reading import Reading
from linprobe_train.solver.rows import BLOCK_ROWS, Rows


@dataclass(frozen=True)
class LossAt:
    """Reads loss and gradient at one place, not yet divided by the total weight."""

    reading: Reading
    """How rows are read."""
    columns: Real
    """(d, m) W' for the rows."""
    offset: Real
    """(m,) b."""

    def __call__(self, rows: Rows, first: int) -> tuple[float, Float64]:
        """Sums of some rows: the loss, and the gradient (m, d + 1)."""
        (d, m), arithmetic = self.columns.shape, self.columns.dtype.name
        gradient, loss = np.zeros((m, d + 1)), 0.0
        # Fresh memory of this size costs the kernel a tenth of what the product takes.
        room, product = np.empty((BLOCK_ROWS, m), arithmetic), np.empty((m, d), arithmetic)
        for span, features in self.reading.blocks(rows):
            x = cast("Real", features.astype(arithmetic, copy=False))
            z = np.matmul(x, self.columns, out=room[: len(x)])
            z += self.offset
            loss += self.reading.loss_of(rows, span, z)
            gradient[:, :-1] += np.matmul(z.T, x, out=product)
            gradient[:, -1] += z.sum(axis=0, dtype=np.float64)
        return loss, gradient


def add_sums(one: tuple[float, Float64], other: tuple[float, Float64]) -> tuple[float, Float64]:
    """Add numbers, and arrays in the place of the first."""
    total = one[1]
    total += other[1]
    return one[0] + other[0], total
