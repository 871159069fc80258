"""The statistics of paired results: McNemar, the paired bootstrap, metrics of kept predictions."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from linprobe_train.scores.intervals import Statistic, resample
from linprobe_train.scores.metrics import metric_named, score_names
from linprobe_train.scores.predictions import (
    Predictions,
    encode_predictions,
    parse_predictions,
    predictions_of,
)
from linprobe_train.tasks.compare import mcnemar


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_rows(
    rows: list[tuple[bool, bool]],
) -> None:
    first, second = np.array([a for a, _ in rows]), np.array([b for _, b in rows])
    found = mcnemar(first, second)

    assert found.only_first == sum(a and not b for a, b in rows)
    assert found.only_second == sum(b and not a for a, b in rows)
    discordant = found.only_first + found.only_second
    expected = binomtest(found.only_first, discordant).pvalue if discordant else 1.0
    assert found.p == pytest.approx(expected)


def kept(rows: Predictions) -> Predictions:
    """What is left of predictions on disk."""
    return parse_predictions(Path("predictions.npz"), encode_predictions(rows))


@pytest.mark.parametrize("k", [2, 4, 9])
def test_what_is_kept_of_the_predictions_gives_the_metrics_of_all_probabilities(k: int) -> None:
    rng = np.random.default_rng(k)
    rows = predictions_of(rng.dirichlet(np.ones(k), 200), rng.integers(0, k, 200))
    w = rng.integers(0, 4, 200).astype(np.float64)
    for metric in map(metric_named, score_names(k, multi_label=False)):
        whole, less = metric.statistic(rows)(w), metric.statistic(kept(rows))(w)
        assert less == pytest.approx(whole, abs=1e-6), metric.name


@pytest.mark.parametrize("metric", ["map", "map_11_point"])
def test_multi_label_metrics_come_back_too(metric: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (100, 4)).astype(np.uint8)
    rows = predictions_of(rng.random((100, 4)), labels)
    statistic, ones = metric_named(metric).statistic, np.ones(100)

    assert statistic(kept(rows))(ones) == pytest.approx(statistic(rows)(ones), abs=1e-6)


def share_of(hits: NDArray[np.bool_]) -> Statistic:
    """Accuracy as a function of row weights."""
    return lambda w: float(w @ hits / w.sum())


def test_the_paired_interval_covers_as_often_as_it_says() -> None:
    """The intervals hold the true difference, and are narrower than those of separate rows."""
    rng = np.random.default_rng(1)
    n, draws, covered, widths = 300, 100, 0, []
    for draw in range(draws):
        easy = rng.random(n) < 0.7
        first, second = easy | (rng.random(n) < 0.20), easy | (rng.random(n) < 0.10)
        found = resample([share_of(first), share_of(second)], n, seed=draw)
        interval = found.difference(0, 1)
        covered += interval.low <= 0.3 * 0.10 <= interval.high
        widths.append(interval.high - interval.low)

    assert 0.88 <= covered / draws <= 0.99
    independent = 2 * 1.96 * np.sqrt((0.76 * 0.24 + 0.73 * 0.27) / n)
    assert np.mean(widths) < 0.65 * independent
