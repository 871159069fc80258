"""Cutting rows for validation, every class as evenly as whole rows allow."""

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError
from linprobe_store.format.spec import LabelArray


def lone_rows(labels: LabelArray) -> NDArray[np.bool_]:
    """Mark rows that are the only ones of their class, (n,); none of multi-label rows."""
    if labels.ndim == 2:
        return np.zeros(len(labels), bool)
    return np.asarray(np.bincount(labels)[labels] == 1)


def stratified_tenth(labels: LabelArray, seed: int) -> NDArray[np.bool_]:
    """Mark a tenth of the rows, (n,), and of every class as near as whole rows allow (DINOv2).

    The only row of a class is never marked. ``DataError``: no class has two rows.
    """
    order = _spread_by_class(labels, seed)
    held = np.zeros(len(labels), bool)
    # Every tenth row of the class-sorted order, from the middle of the first ten.
    held[order[min(5, len(order) - 1) :: 10]] = True
    return held


def stratified_folds(labels: LabelArray, k: int, seed: int) -> NDArray[np.int64]:
    """Give every row a fold in 0..k-1, (n,); each class is spread evenly over the folds.

    The only row of a class gets -1: it is in no fold, so in every fit.
    ``DataError``: no class has two rows, or k is not in 2..m, m the rows of classes that have.
    """
    order = _spread_by_class(labels, seed)
    if not 2 <= k <= len(order):
        what = f"{k} folds of {len(order)} rows; expected 2 to {len(order)}"
        raise DataError(what, hint="--cv 5")
    folds = np.full(len(labels), -1, np.int64)
    folds[order] = np.arange(len(order)) % k
    return folds


def stratified_part(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.bool_]:
    """Mark about ``count`` rows, (n,): of every class the same share, and at least one row."""
    sizes = np.bincount(labels)
    wanted = np.maximum(np.rint(sizes * (count / len(labels))), 1)
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    place = np.arange(len(labels)) - (np.cumsum(sizes) - sizes)[labels[order]]
    part = np.zeros(len(labels), bool)
    part[order] = place < wanted[labels[order]]
    return part


def _spread_by_class(labels: LabelArray, seed: int) -> NDArray[np.intp]:
    """Shuffled numbers of the rows that can be held out, sorted by class where rows have one."""
    if len(labels) < 2:
        what = "a single training row cannot be split for validation"
        raise DataError(what, hint="fix C with --C")
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 2:
        return order
    order = order[~lone_rows(labels)[order]]
    if len(order) < 2:
        what = "no class has two training rows: none can be held out for validation"
        raise DataError(what, hint="extract a val split, fix C with --C, or give a class more rows")
    return order[np.argsort(labels[order], kind="stable")]
