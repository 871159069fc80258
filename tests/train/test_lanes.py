"""Sums go up one fixed tree over lanes: no bit of a probe depends on who reads which lane."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from train_factories import features, make_rows

from linprobe_train.api import fit_probe, sweep
from linprobe_train.estimator import LinearProbe
from linprobe_train.estimator_cv import LinearProbeCV
from linprobe_train.protocol.protocols import DEFAULT, list_grid
from linprobe_train.solver import memory
from linprobe_train.solver.fit import FitSettings, plan_fit
from linprobe_train.solver.passes import FLOORS, crew_of, joined
from linprobe_train.solver.preparation import Real
from linprobe_train.solver.rows import MAX_LANES, rows_of_array

X, Y = features(9000, 16, 5, noise=1.5)
FORMS = {
    "in memory": FitSettings(),
    "without logits": FitSettings(memory_bytes=9 * 10**6),
    "streamed": FitSettings(streamed=True),
}


def of_fit(settings: FitSettings) -> Real:
    return fit_probe(X, Y, C=10.0, settings=replace(settings, standardize=True))[0].coef


def of_sweep(settings: FitSettings) -> Real:
    protocol = DEFAULT.changed(grid=list_grid(1.0, 10.0))
    return sweep(X, Y, protocol=protocol, settings=settings).probe.coef


def of_estimator(settings: FitSettings) -> Real:
    return LinearProbe(n_jobs=settings.threads).fit(X, Y).coef_


def of_folds(settings: FitSettings) -> Real:
    return LinearProbeCV(Cs=[1.0, 10.0], cv=2, n_jobs=settings.threads).fit(X, Y).coef_


@pytest.mark.parametrize(
    ("fit", "form"),
    [
        *[(of_fit, form) for form in FORMS],
        (of_sweep, "in memory"),
        (of_sweep, "streamed"),
        (of_estimator, "in memory"),
        (of_folds, "in memory"),
    ],
)
def test_coefficients_are_the_same_bits_on_any_number_of_threads(
    fit: Callable[[FitSettings], Real], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SLACK_BYTES_OF_THREAD", 10**5)
    settings = FORMS[form]
    bits = [fit(replace(settings, threads=threads)).tobytes() for threads in (1, 2, 7)]

    assert bits[1:] == bits[:1] * 2


def test_what_is_kept_in_memory_does_not_depend_on_the_number_of_threads() -> None:
    """Rows that are copied, streamed, or kept with their logits give other last bits."""
    rows, kept = rows_of_array(X, Y, 5), set()
    for limit in range(12 * 10**6, 16 * 10**6, 250_000):
        plans = [
            plan_fit(rows, FitSettings(memory_bytes=limit, threads=threads)) for threads in (1, 7)
        ]
        assert len({(plan.resident, plan.logits) for plan in plans}) == 1
        assert all(plan.total_bytes <= limit for plan in plans)
        kept.add((plans[0].resident, plans[0].logits > 0))
    assert kept == {(False, False), (True, False), (True, True)}


def test_threads_that_memory_does_not_hold_are_not_started() -> None:
    rows = rows_of_array(X, Y, 5)
    few, all_of_them = (
        plan_fit(rows, FitSettings(memory_bytes=limit, threads=7)) for limit in (30 * 10**6, 10**9)
    )

    assert 1 < few.threads < all_of_them.threads == 7
    with crew_of(7) as crew:
        assert crew.at_most(few.threads).threads == few.threads


@given(st.integers(1, 3 * MAX_LANES))
def test_the_tree_joins_neighbours_in_order_and_few_parts_wait(count: int) -> None:
    waiting, most = 0, 0

    def parts() -> Iterator[tuple[int, int]]:
        nonlocal waiting, most
        for i in range(count):
            waiting += 1
            most = max(most, waiting)
            yield i, i + 1

    def join(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
        nonlocal waiting
        waiting -= 1
        assert one[1] == other[0]
        size = one[1] - one[0]
        assert size & (size - 1) == 0  # a whole subtree
        assert one[0] % size == 0
        assert other[1] - other[0] <= size
        return one[0], other[1]

    assert joined(parts(), join) == (0, count)
    if count <= MAX_LANES:
        assert most <= FLOORS + 1


@given(st.integers(1, 200))
def test_lanes_cover_all_rows_in_order_and_their_number_is_bounded(blocks: int) -> None:
    rows = make_rows(blocks, 2, 2)
    rows = replace(rows, blocks=tuple(rows.blocks[0].at(np.array([i])) for i in range(blocks)))
    rows = replace(rows, weights=np.arange(blocks, dtype=float))
    firsts = [first for first, _ in rows.lanes]
    sizes = [lane.n for _, lane in rows.lanes]

    assert len(rows.lanes) == min(blocks, MAX_LANES)
    assert firsts == np.cumsum([0, *sizes[:-1]]).tolist()
    assert max(sizes) - min(sizes) <= 1
    weights = [lane.weights for _, lane in rows.lanes if lane.weights is not None]
    assert np.array_equal(np.concatenate(weights), np.arange(blocks))
