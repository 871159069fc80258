"""Taps that are stored one by one and joined when they are read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from store_factories import encoder_spec, root_of, sealed_split

from linprobe.errors import NotFoundError, OptionError, StoreError
from linprobe_store.format.spec import EncoderSpec, Tap
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore
from linprobe_train.api import fit_probe
from linprobe_train.protocol.splits import open_splits
from linprobe_train.solver.rows import rows_of_split

DIMS = {"embedding": 3, "cls": 5, "patch_mean": 4} | {f"block-{i}": 2 for i in range(2, 6)}


def spec_of(dims: dict[str, int], n_blocks: int) -> EncoderSpec:
    taps = tuple(Tap(name, dim) for name, dim in dims.items())
    return replace(encoder_spec(), taps=taps, n_blocks=n_blocks)


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    # Files of other rows for every tap.
    monkeypatch.setattr("linprobe_store.arrays.unit_writer.MAX_SHARD_FILE_BYTES", 2048 * 5 * 2)
    return sealed_split(tmp_path, [5000], spec_of(DIMS, 5))[0]


def joined(split: Split, *names: str) -> np.ndarray:
    return np.concatenate([np.concatenate(split.maps(name)) for name in names], axis=1)


@pytest.mark.parametrize(
    ("tap", "names"),
    [
        ("cls+patch_mean", ("cls", "patch_mean")),
        ("last4+patch_mean", ("block-2", "block-3", "block-4", "block-5", "patch_mean")),
        ("patch_mean", ("patch_mean",)),
    ],
)
def test_joined_taps_are_their_columns_side_by_side(
    split: Split, tap: str, names: tuple[str, ...]
) -> None:
    expected = joined(split, *names)
    assert len({len(split.maps(name)) for name in ("embedding", "cls", "block-2")}) > 1
    assert split.dim(tap) == expected.shape[1]
    np.testing.assert_array_equal(np.concatenate([*split.blocks(tap, rows=700)]), expected)
    np.testing.assert_array_equal(split.rows([4999, 7], tap), expected[[4999, 7]])
    rows = rows_of_split(split, tap)
    wanted = np.arange(0, 5000, 3)
    assert rows.dim == expected.shape[1]
    np.testing.assert_array_equal(rows.gather(wanted), expected[wanted])


def test_a_probe_of_joined_taps_is_that_of_their_concatenation(split: Split) -> None:
    probe, _ = fit_probe(split, tap="cls+patch_mean")
    expected, _ = fit_probe(joined(split, "cls", "patch_mean"), split.labels)
    np.testing.assert_allclose(probe.coef, expected.coef, rtol=1e-6, atol=1e-9)


def test_rows_of_joined_taps_are_views_of_the_maps(split: Split) -> None:
    for block in rows_of_split(split, "cls+patch_mean").blocks:
        assert not any(view.flags.owndata for view in (block.features, *block.beside))


@pytest.mark.parametrize(
    ("tap", "problem"),
    [
        ("cls+nothing", "no tap 'nothing'"),
        ("cls+cls", "names a tap twice"),
        ("last4+block-5", "names a tap twice"),
        ("", "no tap ''"),
        ("cls+", "no tap ''"),
    ],
)
def test_what_cannot_be_joined_is_refused_with_what_there_is(
    split: Split, tap: str, problem: str
) -> None:
    with pytest.raises(NotFoundError, match=problem) as refusal:
        split.dim(tap)
    assert "patch_mean" in refusal.value.hint
    with pytest.raises(OptionError, match=problem):
        open_splits(FeatureStore(root_of(split)).encoder(), None, tap)


def test_last4_is_of_the_tower_and_not_of_what_is_stored(tmp_path: Path) -> None:
    dims = {f"block-{i}": 2 for i in range(1, 5)}
    early = sealed_split(tmp_path, [9], spec_of(dims, 12))[0]
    with pytest.raises(NotFoundError, match="no tap 'block-9'"):
        early.dim("last4")


def test_joined_taps_have_no_map(split: Split) -> None:
    with pytest.raises(StoreError, match="2 taps"):
        split.maps("cls+patch_mean")
