"""Rows are views until a block is read, and a block is prepared exactly."""

from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_factories import features, make_rows

from linprobe.errors import DataError
from linprobe_train.solver.passes import crew_of
from linprobe_train.solver.preparation import Preparation
from linprobe_train.solver.reads.features import column_moments
from linprobe_train.solver.rows import AnyFeatures, Rows, rows_of_array, rows_of_views


def whole(rows: Rows) -> np.ndarray:
    """All rows, copied."""
    return np.concatenate([block.read() for block in rows.blocks])


def test_every_finite_half_is_widened_exactly() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    rows = Preparation(False).apply(halves[:, None])

    assert np.array_equal(rows[:, 0], halves.astype(np.float32))
    assert np.array_equal(np.signbit(rows[:, 0]), np.signbit(halves))


def test_a_sliced_half_is_widened_too() -> None:
    halves = np.arange(24, dtype=np.float16).reshape(4, 6)[::2, ::3]

    assert np.array_equal(Preparation(False).apply(halves), halves.astype(np.float32))


def test_preparing_leaves_the_stored_rows_alone() -> None:
    for kind in ("float16", "float32", "float64"):
        X = cast("AnyFeatures", features(20, 4, 2)[0].astype(kind))
        before = X.copy()
        X.flags.writeable = False
        rows = Preparation(True, np.ones(4), np.full(4, 2.0)).apply(X)

        assert np.array_equal(X, before)
        unit = before / np.linalg.norm(before.astype(np.float64), axis=1, keepdims=True)
        assert np.allclose(rows, (unit - 1) / 2, atol=1e-3)


@given(st.integers(1, 40), st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_joining_selecting_and_gathering_are_what_they_are_on_arrays(
    n: int, m: int, data: st.DataObject
) -> None:
    X, y = features(n + m, 3, 2)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    rows = rows_of_views(np.split(X[:n], cuts), y[:n], 2).join(rows_of_array(X[n:], y[n:], 2))
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=n + m, max_size=n + m)))
    keep[0] = True
    once = rows.select(keep)
    again = np.arange(once.n) % 2 == 0
    chosen = np.flatnonzero(np.arange(n + m) % 3 == 0)

    assert np.array_equal(whole(rows), X)
    assert np.array_equal(whole(once), X[keep])
    assert np.array_equal(once.labels, y[keep])
    assert np.array_equal(whole(once.select(again)), X[keep][again])
    assert np.array_equal(rows.gather(chosen), X[chosen])


def test_rows_share_the_memory_of_the_array() -> None:
    X, y = features(3000, 4, 2)
    rows = rows_of_array(X, y, 2).join(rows_of_array(X, y, 2))

    assert all(np.shares_memory(block.features, X) for block in rows.blocks)


def test_rows_of_another_shape_do_not_join() -> None:
    with pytest.raises(DataError, match="cannot join"):
        make_rows(20, 4, 2).join(make_rows(20, 5, 2))


def test_moments_are_numpys_over_blocks_and_far_from_the_origin() -> None:
    X, y = features(2500, 5, 2)
    X += 1000
    X[:, 2] = 7
    with crew_of(1) as crew:
        mean, deviation = column_moments(rows_of_array(X, y, 2), crew, normalize=False)
    expected = X.astype(np.float64).std(0)
    expected[2] = 1

    assert np.allclose(mean, X.astype(np.float64).mean(0), rtol=1e-9)
    assert np.allclose(deviation, expected, rtol=1e-6)
