"""Which rows C is chosen on."""

from dataclasses import dataclass

import numpy as np

from linprobe_train.protocol.cuts import lone_rows, stratified_folds, stratified_tenth
from linprobe_train.protocol.protocols import BAND, Rule
from linprobe_train.solver.rows import Rows

VAL_ROWS = 100
"""Least rows of val that ``nll-band-1`` chooses C on. Smaller ones join the folds, which were
better there; from here on the official split is worth more than the 0.05 points that they gain."""
FOLDED_ROWS = 10_000
"""Rows from which ``nll-band-1`` holds a tenth out: with a few hundred held-out rows folds gained
nothing, and they cost five times the fits."""
FOLDS = 5
"""Of ``nll-band-1``; ten, or three times five, were no better."""


@dataclass(frozen=True)
class HeldOut:
    """Rows C was chosen on."""

    source: str
    """Such as ``val`` or ``5 stratified folds of train``."""
    n: int
    """How many were scored; 0 for none."""
    folds: int = 0
    """Folds they were scored in; 0 for one held-out set."""
    seed: int | None = None
    """Of the cut; None for val."""
    never: int = 0
    """Rows that are the only ones of their class: in every fit, and never scored."""
    absent: int = 0
    """Scored rows whose class has no row to fit."""


def cut_rows(
    train: Rows, val: Rows | None, everything: Rows, rule: Rule, *, folds: int, seed: int
) -> tuple[list[tuple[Rows, Rows]], HeldOut]:
    """Pairs of rows to fit and rows to score; none where ``nll-band-1`` can hold no row out.

    ``everything`` is train and val, of which ``folds`` are, 0 for one held-out set.
    ``DataError``: there are too few rows to hold some out.
    """
    lone = int(lone_rows(everything.labels).sum())
    if val is not None and not folds and (rule == "score" or val.n >= VAL_ROWS):
        absent = 0 if val.multi_label else int((~np.isin(val.labels, train.labels)).sum())
        return [(train, val)], HeldOut("val", val.n, absent=absent)
    pool, name = (train, "train") if val is None else (everything, "train+val")
    if rule == BAND:
        if pool.n - lone < 2:
            return [], HeldOut("none", 0, never=lone)
        folds = min(FOLDS, pool.n - lone) if pool.n < FOLDED_ROWS else 0
    if folds:
        fold = stratified_folds(pool.labels, folds, seed)
        pairs = [(pool.select(fold != i), pool.select(fold == i)) for i in range(folds)]
        source = f"{folds} stratified folds of {name}"
        return pairs, HeldOut(source, pool.n - lone, folds, seed, lone)
    held = stratified_tenth(pool.labels, seed)
    cut = pool.select(held)
    source = f"a stratified tenth of {name}"
    return [(pool.select(~held), cut)], HeldOut(source, cut.n, 0, seed, lone)
