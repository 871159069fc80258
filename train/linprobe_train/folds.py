"""Cutting rows for validation: seeded, stratified, and never a class without training rows."""

import numpy as np
from numpy.typing import NDArray

from linprobe_store.records import LabelArray
from linprobe_train.errors import DataError

TENTH = 10
"""One row in ten is held out where a dataset has no official val split, as in DINOv2."""


def stratified_tenth(labels: LabelArray, seed: int) -> NDArray[np.bool_]:
    """Mark a tenth of the rows, (n,), as near a tenth of every class as whole rows allow.

    Multi-label rows are drawn without regard to their labels.

    Raises
    ------
    DataError : a class has a single row, or there are fewer than two rows.
    """
    order = _spread_by_class(labels, seed)
    held = np.zeros(len(labels), bool)
    # Every tenth row of the class-sorted order, from the middle of the first ten.
    held[order[min(TENTH // 2, len(order) - 1) :: TENTH]] = True
    return held


def stratified_folds(labels: LabelArray, k: int, seed: int) -> NDArray[np.int64]:
    """Give every row a fold in 0..k-1, (n,); each class is spread evenly over the folds.

    Raises
    ------
    DataError : k is not in 2..n, or a class has a single row.
    """
    if not 2 <= k <= len(labels):
        raise DataError(
            f"{k} folds of {len(labels)} rows; expected 2 to {len(labels)}", hint="--cv 5"
        )
    folds = np.empty(len(labels), np.int64)
    folds[_spread_by_class(labels, seed)] = np.arange(len(labels)) % k
    return folds


def _spread_by_class(labels: LabelArray, seed: int) -> NDArray[np.intp]:
    """Shuffled row numbers, sorted by class where rows have one, (n,)."""
    if len(labels) < 2:
        raise DataError(
            "a single training row cannot be split for validation", hint="fix C with --C"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 2:
        return order
    counts = np.bincount(labels)
    if (counts == 1).any():
        raise DataError(
            f"class {int(np.flatnonzero(counts == 1)[0])} has a single training row: "
            "none of it can be held out for validation",
            hint="extract a val split, fix C with --C, or give the class more rows",
        )
    return order[np.argsort(labels[order], kind="stable")]
