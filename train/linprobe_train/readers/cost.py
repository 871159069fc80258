"""What a pass costs here, measured on a few blocks, and what it would cost over workers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from linprobe_train.solver.losses import Loss
from linprobe_train.solver.preparation import Float32, Preparation
from linprobe_train.solver.reads.loss import LossAt
from linprobe_train.solver.reads.reading import Reading
from linprobe_train.solver.rows import Rows

SAMPLED = 4
"""Blocks that are timed, after one that warms up."""


@dataclass(frozen=True)
class PassCost:
    """Seconds of one read of all rows for loss and gradient."""

    here: float
    """By the threads of this process."""
    overhead: float
    """To send W to the workers, and to add up and fetch what they give."""
    there: float
    """By the workers, their cores taken to be as fast as these, overhead included."""


def pass_cost(
    rows: Rows,
    columns: int,
    threads: int,
    slots: int,
    empty: Callable[[Float32], None],
    *,
    normalize: bool,
) -> PassCost:
    """Measure a pass for ``columns`` logits.

    ``slots`` are the tasks that workers do at once, ``empty`` a pass of theirs without rows.
    """
    W = np.zeros((rows.dim, columns), np.float32)
    several = rows.multi_label or columns == 1
    loss: Loss = "sigmoid" if several else "softmax"
    reading = Reading(loss, Preparation(normalize), np.zeros(rows.dim, np.float32), float(rows.n))
    read, seconds, count = LossAt(reading, W, np.zeros(columns, np.float32)), 0.0, 0
    places = np.linspace(0, len(rows.blocks) - 1, SAMPLED + 1).astype(int).tolist()
    for i in [places[0], *places]:
        block = rows.blocks[i]
        labels = np.zeros((block.n, columns) if several else block.n, np.uint8)
        one = replace(rows, blocks=(block,), labels=labels, weights=None)
        began = perf_counter()
        read(one, 0)
        seconds, count = seconds + perf_counter() - began, count + block.n
    alone = seconds / count * rows.n
    empty(W)  # connections are made
    began = perf_counter()
    empty(W)
    overhead = perf_counter() - began
    return PassCost(alone / threads, overhead, alone / slots + overhead)
