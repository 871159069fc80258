"""What happens to a stored row, as it is read: cast, unit norm, standardised."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import DataError
from linprobe_train.solver.rows import AnyFeatures, Rows

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Real = Float32 | Float64
Arithmetic = Literal["float32", "float64"]
"""Of prepared rows and of the products with them; sums over blocks are always float64."""
SIGN_AND_HALF = np.int32(-0x70002000)
"""Bit 31, and bits 13 to 27, where the 15 low bits of a half land."""
PLAIN_SQUARES = 1e30
"""Sums of squares below it, and above its inverse, neither overflow nor lose bits in float32."""


@dataclass(frozen=True)
class Preparation:
    """``x -> (unit(x) - shift) / scale``, where each of the three steps is optional."""

    normalize: bool
    """Divide every row by its L2 norm first."""
    shift: Float64 | None = None
    """(d,) subtracted from the (normalised) row; None for nothing."""
    scale: Float64 | None = None
    """(d,) divided by after the shift, all positive; None for ones."""
    arithmetic: Arithmetic = "float32"
    """Type of the prepared rows."""

    def apply(self, features: AnyFeatures) -> Real:
        """Prepare rows (b, d): a new array, the input is left as it is."""
        if features.dtype == np.float16 and self.arithmetic == "float32":
            rows: Real = _widen(features)
        else:
            with np.errstate(over="ignore" if self.normalize else "warn"):
                rows = features.astype(self.arithmetic)
        if self.normalize:
            squares = np.einsum("ij,ij->i", rows, rows)
            far = ~((squares > 1 / PLAIN_SQUARES) & (squares < PLAIN_SQUARES))
            if far.any():
                rows[far], squares[far] = _far_units(features[far]), 1
            rows *= (1 / np.sqrt(squares))[:, None]
        if self.shift is not None:
            rows -= self.shift.astype(self.arithmetic)
        if self.scale is not None:
            rows *= (1 / self.scale).astype(self.arithmetic)
        return rows


def _far_units(features: AnyFeatures) -> Float64:
    """Rows (b, d) over their L2 norms, by way of their largest values; rows of zeros stay zeros."""
    rows = features.astype(np.float64)
    rows /= np.where(rows.any(axis=1), np.abs(rows).max(axis=1), 1)[:, None]
    squares = np.einsum("ij,ij->i", rows, rows)
    rows /= np.sqrt(np.maximum(squares, 1))[:, None]
    return rows


def _widen(halves: AnyFeatures) -> Float32:
    # IEEE 754: half's 15 low bits, moved up 13, are the float of 2^-112 times the value, because
    # the exponents' biases differ by 127 - 15; the sign comes along in the widened integer. Exact
    # for every finite half, and six times as fast as astype.
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= SIGN_AND_HALF
    rows = bits.view(np.float32)
    rows *= np.float32(2.0**112)
    return rows


def check_features(rows: Rows, *, normalize: bool, standardize: bool = False) -> None:
    """Refuse what no fit can be made of, by a DataError.

    A row with NaN or infinity, or of zeros to be normalised, is named. Refused are also rows that
    are all equal, and values too large or small for float32 products as they are.
    """
    first, equal, most = rows.blocks[0].read()[0], True, 0.0
    for start, block in rows.pairs():
        features = block.read()
        largest = _largest(features)
        bad = ~np.isfinite(largest) | ((largest == 0) & normalize)
        if bad.any():
            row = int(bad.argmax())
            what = "all zeros" if largest[row] == 0 else "NaN or infinite values"
            hint = "remove the row, or extract or import the features again"
            raise DataError(f"row {start + row} of the features is {what}", hint=hint)
        equal, most = equal and bool((features == first).all()), max(most, float(largest.max()))
    if equal:
        what = f"all {rows.n} rows of the features are equal: nothing tells the classes apart"
        raise DataError(what, hint="check the encoder and its preprocessing, or the imported array")
    reach = PLAIN_SQUARES if standardize else math.sqrt(PLAIN_SQUARES)
    if not normalize and not 1 / reach <= most <= reach:
        what = f"the largest value of the features is {most:.3g}; expected {1 / reach:.0e} to "
        what += f"{reach:.0e}, whose products float32 holds"
        raise DataError(
            what, hint="scale the features to about 1, or normalise or standardise them"
        )


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


def column_moments(rows: Rows, *, normalize: bool) -> tuple[Float64, Float64]:
    """Mean and standard deviation of every feature, each (d,) float64, in one read of the rows.

    A feature that is constant gets deviation 1: dividing by it changes nothing.
    """
    plain = Preparation(normalize)
    # Sums of deviations from one typical row do not cancel, unlike raw second moments.
    pivot = plain.apply(rows.blocks[0].read()[:1])[0].astype(np.float64)
    total, squares = np.zeros(rows.dim), np.zeros(rows.dim)
    for block in rows.blocks:
        deviations = plain.apply(block.read()).astype(np.float64) - pivot
        total += deviations.sum(0)
        squares += np.einsum("ij,ij->j", deviations, deviations)
    mean = total / rows.n
    deviation = np.sqrt(np.maximum(squares / rows.n - mean**2, 0))
    # Rounding leaves a constant column a deviation of about 1e-8 of its size, not 0.
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean + pivot), 1e-30)
    return mean + pivot, np.where(constant, 1.0, deviation)


def axes_of_span(
    share: Float32, rows: Rows, preparation: Preparation
) -> tuple[Float64, Float64, Float64]:
    """Mean, variances and axes (features, n) of few rows: QR keeps them orthonormal throughout.

    Half as many rows as features take no more memory than a covariance would.
    """
    centred = preparation.apply(rows.gather(np.arange(rows.n))).astype(np.float64)
    mean: Float64 = share @ centred
    centred -= mean
    span, inside = np.linalg.qr(centred.T)
    variances, turn = np.linalg.eigh((inside * share) @ inside.T)
    return mean, variances, span @ turn
