"""Cutting rows for validation, every class as evenly as whole rows allow."""

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError
from linprobe_store.format.spec import LabelArray


def stratified_tenth(labels: LabelArray, seed: int) -> NDArray[np.bool_]:
    """Mark a tenth of the rows, (n,), and of every class as near as whole rows allow (DINOv2).

    ``DataError``: a class has a single row, or there are fewer than two rows.
    """
    order = _spread_by_class(labels, seed)
    held = np.zeros(len(labels), bool)
    # Every tenth row of the class-sorted order, from the middle of the first ten.
    held[order[min(5, len(order) - 1) :: 10]] = True
    return held


def stratified_folds(labels: LabelArray, k: int, seed: int) -> NDArray[np.int64]:
    """Give every row a fold in 0..k-1, (n,); each class is spread evenly over the folds.

    ``DataError``: k is not in 2..n, or a class has a single row.
    """
    if not 2 <= k <= len(labels):
        what = f"{k} folds of {len(labels)} rows; expected 2 to {len(labels)}"
        raise DataError(what, hint="--cv 5")
    folds = np.empty(len(labels), np.int64)
    folds[_spread_by_class(labels, seed)] = np.arange(len(labels)) % k
    return folds


def _spread_by_class(labels: LabelArray, seed: int) -> NDArray[np.intp]:
    """Shuffled row numbers, sorted by class where rows have one, (n,)."""
    if len(labels) < 2:
        what = "a single training row cannot be split for validation"
        raise DataError(what, hint="fix C with --C")
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 2:
        return order
    single = np.flatnonzero(np.bincount(labels) == 1)
    if len(single):
        what = f"class {single[0]} has a single training row: none of it can be held out"
        hint = "extract a val split, fix C with --C, or give the class more rows"
        raise DataError(f"{what} for validation", hint=hint)
    return order[np.argsort(labels[order], kind="stable")]
