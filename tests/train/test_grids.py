"""Sweeps try the values their protocol names, in any landscape of scores."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linprobe.errors import DataError, OptionError
from linprobe_train.protocol.cuts import stratified_folds, stratified_tenth
from linprobe_train.protocol.protocols import (
    HALVING,
    PROTOCOLS,
    Grid,
    best_C,
    list_grid,
    protocol_named,
)


def walk(grid: Grid, score: Callable[[float], float]) -> tuple[dict[float, float], int]:
    """Run a plan to its end; scores by C, and the number of fits."""
    scores: dict[float, float] = {}
    fits = 0
    while wanted := grid.next_values(scores):
        for C in wanted:
            fits += 1
            scores[C] = score(C)
    return scores, fits


def test_the_paper_search_fits_15_values_around_a_peak() -> None:
    scores, fits = walk(HALVING, lambda C: -abs(math.log10(C) - 0.7))

    assert fits == len(scores) == 15
    assert {round(math.log10(C), 6) for C in scores} == {
        *(-6, -4, -2, 0, 2, 4, 6),
        *(-1, 1),
        *(0.5, 1.5),
        *(0.25, 0.75),
        *(0.625, 0.875),
    }
    assert math.log10(best_C(scores)) == pytest.approx(0.75)


def test_the_search_stays_between_1e_minus_6_and_1e6() -> None:
    up, _ = walk(HALVING, math.log)
    down, _ = walk(HALVING, lambda C: -C)
    for scores in (up, down):
        assert min(scores) == pytest.approx(1e-6)
        assert max(scores) == pytest.approx(1e6)
    assert best_C(up) == max(up)
    assert best_C(down) == min(down)


@given(st.dictionaries(st.integers(-48, 48), st.integers(0, 3)))
@settings(max_examples=200, deadline=None)
def test_no_value_is_fitted_twice_and_the_best_is_the_smallest_of_the_best(
    landscape: dict[int, int],
) -> None:
    scores, fits = walk(HALVING, lambda C: landscape.get(round(8 * math.log10(C)), 0))
    best = best_C(scores)

    assert fits == len(scores)
    assert 7 <= fits <= 15
    assert scores[best] == max(scores.values())
    assert all(best <= C for C, score in scores.items() if score == scores[best])


def test_dino_has_45_values_four_a_decade() -> None:
    values = np.log10(PROTOCOLS["dino"].grid.values)

    assert len(values) == 45
    assert (values[0], values[-1]) == (pytest.approx(-6), pytest.approx(5))
    assert np.allclose(np.diff(values), 0.25)


def test_the_named_protocols_differ_in_features_as_they_should() -> None:
    found = {name: (p.tap, p.normalize) for name, p in PROTOCOLS.items()}

    assert found == {
        "default": ("embedding", True),
        "clip-paper": ("pre_projection", False),
        "clip-readme": ("embedding", False),
        "dino": ("embedding", False),
    }
    assert PROTOCOLS["clip-readme"].grid == list_grid(0.316)


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(OptionError, match="clip-readme"):
        protocol_named("paper")


def test_list_grids_are_sorted_and_refuse_what_is_not_positive() -> None:
    assert list_grid(3.0, 1.0, 3.0).values == (1.0, 3.0)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(OptionError):
            list_grid(1.0, bad)
    with pytest.raises(OptionError, match="no value"):
        list_grid()


@given(st.lists(st.integers(2, 40), min_size=2, max_size=8), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_tenth_is_near_a_tenth_of_every_class_and_leaves_every_class_rows(
    sizes: list[int], seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    held = stratified_tenth(labels, seed)
    for label, size in enumerate(sizes):
        count = int(held[labels == label].sum())
        assert size // 10 <= count <= -(-size // 10)
        assert count < size
    assert held.any()


@given(st.lists(st.integers(2, 20), min_size=2, max_size=6), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_folds_share_the_rows_of_every_class_evenly(sizes: list[int], k: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    folds = stratified_folds(labels, k, seed=0)
    for label in range(len(sizes)):
        counts = np.bincount(folds[labels == label], minlength=k)
        assert counts.max() - counts.min() <= 1


def test_the_cut_is_a_function_of_the_seed() -> None:
    labels = np.arange(200) % 4

    assert np.array_equal(stratified_tenth(labels, 1), stratified_tenth(labels, 1))
    assert not np.array_equal(stratified_tenth(labels, 1), stratified_tenth(labels, 2))


def test_multi_label_rows_are_cut_too() -> None:
    labels = np.ones((50, 3), np.uint8)

    assert stratified_tenth(labels, 0).sum() == 5
    assert np.bincount(stratified_folds(labels, 5, 0)).tolist() == [10] * 5


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="single training row"):
        stratified_tenth(np.array([0]), 0)
    with pytest.raises(DataError, match="2 to 2"):
        stratified_folds(np.array([0, 0, 1]), 3, 0)
    with pytest.raises(DataError, match="2 to 4"):
        stratified_folds(np.array([0, 0, 1, 1]), 5, 0)
