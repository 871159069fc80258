"""Principal axes of a sample of the rows."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from linprobe_train.solver.preparation import Float32, Float64, Preparation
from linprobe_train.solver.rows import AnyFeatures, Rows, spans_of

Gather: TypeAlias = Callable[[NDArray[np.int64]], AnyFeatures]
"""Copies rows as stored, at ascending positions."""


def principal_axes(
    sample: Float32,
    share: Float64,
    gather: Gather,
    preparation: Preparation,
    chosen: NDArray[np.int64],
) -> tuple[Float64, Float64, Float64]:
    """Fill ``sample`` with prepared rows; their mean, variances and axes. It is centred then."""
    from scipy.linalg import eigh  # not before a fit, as in lbfgs

    d = sample.shape[1]
    mean, covariance = np.zeros(d), np.zeros((d, d))
    for span in spans_of(len(sample)):
        sample[span] = preparation.apply(gather(chosen[span]))
        mean += share[span] @ sample[span].astype(np.float64)
    for span in spans_of(len(sample)):
        sample[span] -= mean.astype(np.float32)
        weighted = sample[span] * share[span, None].astype(np.float32)
        covariance += weighted.T @ sample[span]
    # Read by columns it is the same matrix, and can be overwritten.
    variances, rotation = eigh(covariance.T, overwrite_a=True, check_finite=False, driver="evd")
    return mean, variances, rotation


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
