"""What happens to a stored row, as it is read: cast, unit norm, standardised."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linprobe_train.solver.rows import AnyFeatures

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
