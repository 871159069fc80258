"""Scores equal scikit-learn's where it has them, and a worked example where it has not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn import metrics as oracle

from linprobe.errors import OptionError
from linprobe_train.scores.intervals import resample, wilson
from linprobe_train.scores.metrics import metric_named, score_names, score_value, scores_of
from linprobe_train.scores.predictions import predictions_of

Float64 = NDArray[np.float64]


def predictions(n: int, k: int, seed: int) -> tuple[Float64, NDArray[np.int64]]:
    """Probabilities (n, k) that know a little of the labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    z = rng.standard_normal((n, k)) + 1.5 * np.eye(k)[labels]
    p = np.exp(z)
    return p / p.sum(1, keepdims=True), labels


@pytest.mark.parametrize(("n", "k"), [(50, 2), (200, 7), (30, 12)])
@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learns(n: int, k: int, seed: int) -> None:
    p, labels = predictions(n, k, seed)
    best = p.argmax(1)
    ids = range(k)
    expected = {
        "top1": oracle.accuracy_score(labels, best),
        "mean_per_class": np.mean(
            oracle.recall_score(labels, best, labels=np.unique(labels), average=None)
        ),
        "macro_f1": oracle.f1_score(labels, best, average="macro"),
        "nll": oracle.log_loss(labels, p, labels=ids),
    }
    if k == 2:
        expected["roc_auc"] = oracle.roc_auc_score(labels, p[:, 1])
    else:
        expected["top5"] = oracle.top_k_accuracy_score(labels, p, k=5, labels=ids)
        expected["mean_top1_top5"] = (expected["top1"] + expected["top5"]) / 2
    for name, value in expected.items():
        assert score_value(name, p, labels) == pytest.approx(value, abs=1e-12), name


def test_roc_auc_counts_ties_half() -> None:
    labels = np.array([0, 0, 1, 1, 0, 1])
    score = np.array([0.1, 0.5, 0.5, 0.5, 0.9, 0.9])
    p = np.column_stack([1 - score, score])

    assert score_value("roc_auc", p, labels) == oracle.roc_auc_score(labels, score)


@pytest.mark.parametrize("seed", range(5))
def test_mean_average_precision_is_scikit_learns_ties_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (60, 4)).astype(np.uint8)
    p = np.round(rng.random((60, 4)) + 0.3 * labels.astype(np.float64), 1)

    assert score_value("map", p, labels) == pytest.approx(
        oracle.average_precision_score(labels, p, average="macro")
    )


def test_eleven_point_average_precision_of_a_worked_example() -> None:
    # Ranked by score the rows are: yes, no, yes, no, no, yes, no, no, no, yes.
    # Recall rises to 1/4, 2/4, 3/4, 1 with precisions 1, 2/3, 3/6, 4/10. Levels 0, .1, .2 see 1;
    # .3, .4, .5 see 2/3; .6, .7 see 1/2; .8, .9, 1 see 2/5.
    ranked = np.array([1, 0, 1, 0, 0, 1, 0, 0, 0, 1], np.uint8)
    p = np.linspace(0.95, 0.05, 10)[:, None]
    shuffled = np.random.default_rng(0).permutation(10)
    expected = (3 * 1 + 3 * 2 / 3 + 2 * 1 / 2 + 3 * 2 / 5) / 11

    found = score_value("map_11_point", p[shuffled], ranked[shuffled][:, None])
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_recall_of_three_tenths_reaches_the_level_of_three_tenths() -> None:
    labels = np.ones((10, 1), np.uint8)
    p = np.linspace(1, 0.1, 10)[:, None]

    assert score_value("map_11_point", p, labels) == 1.0


def test_classes_that_no_row_has_are_left_out_of_the_mean() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 0]], np.uint8)
    p = np.array([[0.9, 0.5], [0.1, 0.4], [0.8, 0.3]])

    assert score_value("map", p, labels) == 1.0
    assert score_value("map_11_point", p, labels) == 1.0


def test_top5_breaks_ties_by_class_id_so_that_constant_scores_earn_nothing_extra() -> None:
    p = np.full((10, 10), 0.1)
    labels = np.arange(10)

    assert score_value("top1", p, labels) == 0.1
    assert score_value("top5", p, labels) == 0.5


@given(
    st.integers(0, 10_000),
    st.sampled_from(["top1", "mean_per_class", "macro_f1", "nll", "confidence_gap", "top5"]),
)
@settings(max_examples=60, deadline=None)
def test_a_weight_is_a_multiplicity(seed: int, name: str) -> None:
    p, labels = predictions(25, 7, seed)
    w = np.random.default_rng(seed).integers(0, 3, 25)
    w[0] = 1
    repeated = np.repeat(np.arange(25), w)

    statistic = metric_named(name).statistic(predictions_of(p, labels))
    assert statistic(w.astype(np.float64)) == pytest.approx(
        score_value(name, p[repeated], labels[repeated])
    )


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_renaming_classes_changes_no_accuracy(seed: int) -> None:
    p, labels = predictions(40, 6, seed)
    names = np.random.default_rng(seed).permutation(6)
    renamed = np.empty_like(p)
    renamed[:, names] = p
    for name in ("top1", "top5", "mean_per_class", "macro_f1", "nll", "ece"):
        assert score_value(name, renamed, names[labels]) == pytest.approx(
            score_value(name, p, labels)
        )


def test_a_metric_that_the_labels_do_not_have_is_refused() -> None:
    p, labels = predictions(20, 3, 0)
    with pytest.raises(OptionError, match="top1"):
        score_value("top5", p, labels)


def test_every_score_has_a_value_inside_its_interval() -> None:
    scores = scores_of(predictions_of(*predictions(300, 7, 1)), 7, seed=0)
    for score in scores:
        assert score.interval.low <= score.value <= score.interval.high, score.name
    assert {score.name for score in scores} == set(score_names(7, multi_label=False))


def test_the_bootstrap_is_a_function_of_its_seed() -> None:
    rows = predictions_of(*predictions(100, 4, 1))

    assert scores_of(rows, 4, seed=3) == scores_of(rows, 4, seed=3)
    assert scores_of(rows, 4, seed=3) != scores_of(rows, 4, seed=4)


def test_the_bootstrap_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    found = resample([lambda w: float(w @ values / w.sum())], 400, seed=0).interval(0)

    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_wilson_covers_a_share_about_95_times_in_100(n: int) -> None:
    for share in (0.1, 0.5, 0.9):
        inside = [wilson(x, n).low <= share <= wilson(x, n).high for x in range(n + 1)]
        coverage = float(binom.pmf(np.arange(n + 1), n, share)[inside].sum())
        assert 0.92 < coverage < 0.98


def test_wilson_stays_inside_0_and_1_at_the_ends() -> None:
    assert wilson(0, 20).low == 0
    assert wilson(20, 20).high == 1
    assert 0 < wilson(0, 20).high < 0.2


def test_the_usual_headline_of_labels_comes_first() -> None:
    assert score_names(10, multi_label=False)[0] == "top1"
    assert score_names(20, multi_label=True)[0] == "map"
    assert "roc_auc" in score_names(2, multi_label=False)
    assert "roc_auc" not in score_names(3, multi_label=False)
    assert "mean_top1_top5" in score_names(700, multi_label=False)
