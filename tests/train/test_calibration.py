"""Calibration is told as it is: labels drawn from known probabilities are the oracle."""

import numpy as np
import pytest
from numpy.typing import NDArray

from linprobe.errors import OptionError
from linprobe_train.scores.calibration import ece_interval, gap_interval
from linprobe_train.scores.metrics import metric_named, score_value, scores_of
from linprobe_train.scores.predictions import Predictions, predictions_of

Float64 = NDArray[np.float64]
REPEATS = 40


def simulated(n: int, T: float, seed: int, k: int = 5) -> tuple[Predictions, Float64, Float64]:
    """Rows whose labels follow softmax(z) and that are told softmax(z T); confidence and truth."""
    rng = np.random.default_rng(seed)
    z = 2.0 * rng.standard_normal((n, k))
    true, told = (np.exp(a) / np.exp(a).sum(axis=1, keepdims=True) for a in (z, z * T))
    labels = (true.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=k - 1)
    rows, best = np.arange(n), told.argmax(axis=1)
    return predictions_of(told, labels), told[rows, best], true[rows, best]


def true_error(T: float) -> float:
    """The calibration error over all rows there could be, by confidence."""
    _, confidence, right = simulated(400_000, T, 999)
    bins = (confidence * 200).astype(int)
    gaps = np.bincount(bins, confidence - right)
    return float(np.abs(gaps).sum() / len(confidence))


@pytest.mark.parametrize(("n", "T"), [(100, 1.0), (400, 1.0), (100, 1.6), (400, 1.6)])
def test_the_interval_of_ECE_covers_the_truth_and_the_estimate_is_near_it(n: int, T: float) -> None:
    truth = true_error(T)
    found = [
        scores_of(simulated(n, T, seed)[0], 5, seed, ("ece", "confidence_gap"))
        for seed in range(REPEATS)
    ]
    covered = [ece.interval.low <= truth + 1e-3 and truth <= ece.interval.high for ece, _ in found]
    bias = np.mean([ece.value for ece, _ in found]) - truth

    assert np.mean(covered) >= 0.93
    assert abs(bias) < 0.025
    assert all(ece.interval.low <= ece.value <= ece.interval.high for ece, _ in found)


def test_a_calibrated_probe_is_not_said_to_be_off_and_one_that_is_too_sure_is() -> None:
    lows = {
        T: [ece_interval(simulated(400, T, seed)[0], 0).low for seed in range(30)]
        for T in (1.0, 2.5)
    }

    assert np.mean(np.array(lows[1.0]) > 0) <= 0.1
    assert min(lows[2.5]) > 0.02


@pytest.mark.parametrize("T", [1.0, 1.6, 0.6])
def test_the_gap_of_confidence_and_accuracy_has_its_sign_and_its_interval(T: float) -> None:
    _, confidence, right = simulated(400_000, T, 999)
    truth = float((confidence - right).mean())
    found = [gap_interval(simulated(200, T, seed)[0], 0) for seed in range(200)]

    assert 0.9 <= np.mean([f.low <= truth <= f.high for f in found]) <= 0.99
    assert np.mean([(f.low + f.high) / 2 for f in found]) == pytest.approx(truth, abs=0.01)


def test_ECE_of_a_worked_example() -> None:
    # All 5 bins hold 20 rows of one confidence c, of which a share a is right.
    c, a = np.array([0.55, 0.65, 0.75, 0.85, 0.95]), np.array([0.2, 0.4, 0.5, 0.6, 0.7])
    told = np.repeat(c, 20)
    labels = np.concatenate([np.arange(20) >= share * 20 for share in a]).astype(np.int64)
    p = np.column_stack([told, 1 - told])
    E = np.abs(c - a).mean()
    E0 = np.sqrt(2 / np.pi) * np.sqrt(20 * c * (1 - c)).sum() / 100

    assert score_value("ece", p, labels) == pytest.approx(np.sqrt(E**2 - E0**2))
    assert score_value("confidence_gap", p, labels) == pytest.approx((c - a).mean())


def test_resampling_rows_does_not_raise_the_estimate() -> None:
    # Draws of rows add noise to that of the labels; for a calibrated probe all of it is to go.
    drawn, rng = [], np.random.default_rng(0)
    for seed in range(40):
        statistic = metric_named("ece").statistic(simulated(300, 1.0, seed)[0])
        for _ in range(10):
            w = np.bincount(rng.integers(0, 300, 300), minlength=300)
            drawn.append(statistic(w.astype(np.float64)))

    assert np.mean(np.array(drawn) > 0) < 0.55


def test_the_better_of_two_gaps_is_the_one_nearer_to_0() -> None:
    gap, loss, share = (metric_named(name) for name in ("confidence_gap", "nll", "top1"))

    assert gap.merit(-0.1) > gap.merit(0.2)
    assert loss.merit(0.1) > loss.merit(0.2)
    assert share.merit(0.2) > share.merit(0.1)


def test_calibration_is_nothing_to_choose_by() -> None:
    for name in ("ece", "confidence_gap"):
        with pytest.raises(OptionError, match="says the share of each class"):
            metric_named(name).check_choice()
    metric_named("nll").check_choice()
