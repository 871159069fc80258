"""What the features of rows look like: whether a fit can be made of them, and their moments."""

import math
from dataclasses import dataclass
from operator import add, iadd
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError
from linprobe_train.solver.preparation import PLAIN_SQUARES, Float64, Preparation
from linprobe_train.solver.rows import AnyFeatures, Rows

if TYPE_CHECKING:
    from linprobe_train.solver.passes import Crew


@dataclass(frozen=True)
class Looked:
    """What rows look like."""

    first: AnyFeatures
    """(1, d), the first of them."""
    equal: bool
    """Whether all are."""
    most: float
    """Largest magnitude."""
    bad: str | None
    """The first that no fit can be made of, and why."""

    def __add__(self, other: "Looked") -> "Looked":
        """These rows, then the others."""
        equal = self.equal and other.equal and bool((self.first == other.first).all())
        return Looked(self.first, equal, max(self.most, other.most), self.bad or other.bad)


@dataclass(frozen=True)
class LookAt:
    """Reads what rows look like."""

    normalize: bool
    """Whether rows are to be normalised."""

    def __call__(self, rows: Rows, first: int) -> Looked:
        """Of some rows, the first of them being row ``first``."""
        row = rows.blocks[0].read()[:1]
        looked = Looked(row, True, 0.0, None)
        for start, block in rows.pairs():
            features = block.read()
            largest = _largest(features)
            unfit = ~np.isfinite(largest) | ((largest == 0) & self.normalize)
            bad = None
            if unfit.any():
                place = int(unfit.argmax())
                what = "all zeros" if largest[place] == 0 else "NaN or infinite values"
                bad = f"row {first + start + place} of the features is {what}"
            equal = looked.equal and bool((features == row).all())
            looked += Looked(row, equal, float(largest.max()), bad)
        return looked


def check_features(rows: Rows, crew: "Crew", *, normalize: bool, standardize: bool = False) -> None:
    """Refuse what no fit can be made of, by a DataError.

    A row with NaN or infinity, or of zeros to be normalised, is named. Refused are also rows that
    are all equal, and values too large or small for float32 products as they are.
    """
    looked = crew.total(rows, LookAt(normalize), add)
    if looked.bad:
        hint = "remove the row, or extract or import the features again"
        raise DataError(looked.bad, hint=hint)
    if looked.equal:
        what = f"all {rows.n} rows of the features are equal: nothing tells the classes apart"
        raise DataError(what, hint="check the encoder and its preprocessing, or the imported array")
    reach, most = PLAIN_SQUARES if standardize else math.sqrt(PLAIN_SQUARES), looked.most
    if not normalize and not 1 / reach <= most <= reach:
        what = f"the largest value of the features is {most:.3g}; expected {1 / reach:.0e} to "
        what += f"{reach:.0e}, whose products float32 holds"
        raise DataError(
            what, hint="scale the features to about 1, or normalise or standardise them"
        )


@dataclass(frozen=True)
class MomentsAround:
    """Reads sums of the deviations of prepared rows from a pivot, and of their squares, (2, d)."""

    plain: Preparation
    """Up to the standardisation."""
    pivot: Float64
    """(d,) one typical row: deviations from it do not cancel, unlike raw second moments."""

    def __call__(self, rows: Rows, first: int) -> Float64:
        """Of some rows."""
        sums = np.zeros((2, rows.dim))
        for block in rows.blocks:
            deviations = self.plain.apply(block.read()).astype(np.float64) - self.pivot
            sums[0] += deviations.sum(0)
            sums[1] += np.einsum("ij,ij->j", deviations, deviations)
        return sums


def column_moments(rows: Rows, crew: "Crew", *, normalize: bool) -> tuple[Float64, Float64]:
    """Mean and standard deviation of every feature, each (d,) float64, in one read of the rows.

    A feature that is constant gets deviation 1: dividing by it changes nothing.
    """
    plain = Preparation(normalize)
    pivot = plain.apply(rows.blocks[0].read()[:1])[0].astype(np.float64)
    total, squares = crew.total(rows, MomentsAround(plain, pivot), iadd)
    mean = total / rows.n
    deviation = np.sqrt(np.maximum(squares / rows.n - mean**2, 0))
    # Rounding leaves a constant column a deviation of about 1e-8 of its size, not 0.
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean + pivot), 1e-30)
    return mean + pivot, np.where(constant, 1.0, deviation)


def _largest(features: AnyFeatures) -> Float64:
    """Largest magnitude of each row, (b,); not finite where a value is not.

    Without their sign, halves order like integers, whose maximum is ninety times as fast.
    """
    largest: NDArray[np.generic]
    if features.dtype == np.float16:
        largest = (features.view(np.uint16) & np.uint16(0x7FFF)).max(axis=1).view(np.float16)
    else:
        largest = np.maximum(features.max(axis=1), -features.min(axis=1))
    return largest.astype(np.float64)
