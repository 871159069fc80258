"""What goes into a part comes out of the sealed split: same rows, same order, nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_factories import (
    block,
    dataset_spec,
    encoder_of,
    encoder_spec,
    fingerprint,
    register,
    sealed_split,
    write_part,
)

from linprobe.errors import NotFoundError, StoreError
from linprobe_store.format.spec import DatasetNames, FeatureArray, SkippedSample
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

EDGES = (0, 1, 2047, 2048, 2049, 4095, 4096, 4097)


def read_all(split: Split, tap: str, rows: int = 8192) -> FeatureArray:
    empty = np.empty((0, split.dim(tap)), split.dtype)
    return np.concatenate([empty, *split.blocks(tap, rows)])


@pytest.mark.parametrize("n", EDGES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_split_holds_the_rows_of_its_parts_in_order(tmp_path: Path, n: int, dtype: str) -> None:
    spec = encoder_spec(3, 4, storage_dtype="float32" if dtype == "float32" else "float16")

    split, blocks = sealed_split(tmp_path, (n, 3, n), spec)

    assert split.n == len(split.labels) == len(split.keys) == 2 * n + 3
    assert list(split.keys) == [key for b in blocks for key in b.keys]
    np.testing.assert_array_equal(split.labels, np.concatenate([b.labels for b in blocks]))
    for tap in ("embedding", "pre_projection"):
        expected = np.concatenate([b.features[tap] for b in blocks])
        np.testing.assert_array_equal(read_all(split, tap), expected)
        np.testing.assert_array_equal(split.array(tap), expected)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    rows_at_once=st.integers(1, 20),
    rows=st.integers(1, 20),
    data=st.data(),
)
def test_any_sizes_survive_any_shard_edges(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    rows_at_once: int,
    rows: int,
    data: st.DataObject,
) -> None:
    """With shard files of 16 rows in chunks of 8, every edge is met by every other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("linprobe_store.arrays.unit_writer.INNER_ROWS", 8)
        patch.setattr("linprobe_store.arrays.unit_writer.MAX_SHARD_FILE_BYTES", 16 * 2 * 5)
        patch.setattr("linprobe_store.arrays.unit_writer.INNER_BYTES", 64)
        split, blocks = sealed_split(tmp_path_factory.mktemp("store"), sizes)

    expected = np.concatenate([b.features["embedding"] for b in blocks])
    np.testing.assert_array_equal(read_all(split, "embedding", rows), expected)
    assert len(split.maps("embedding")) == -(-len(expected) // 16)
    assert list(split.keys) == [key for b in blocks for key in b.keys]
    np.testing.assert_array_equal(split.labels, np.concatenate([b.labels for b in blocks]))
    if len(expected):
        wanted = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=30))
        np.testing.assert_array_equal(split.rows(wanted, "embedding"), expected[wanted])
        i = data.draw(st.integers(-len(expected), len(expected) - 1))
        assert split.keys[i] == list(split.keys)[i]


def test_maps_are_read_only_and_never_copies(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path, (3000,))

    whole = split.array("embedding")
    first = next(split.blocks("embedding", 100))

    assert isinstance(whole, np.memmap)
    assert not first.flags.owndata
    assert not whole.flags.writeable
    assert not first.flags.writeable
    assert not split.labels.flags.writeable
    assert np.shares_memory(first, split.array("embedding"))


def test_several_shard_files_have_maps_but_no_single_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linprobe_store.arrays.unit_writer.MAX_SHARD_FILE_BYTES", 2048 * 5 * 2)
    split, blocks = sealed_split(tmp_path, (5000,))

    with pytest.raises(StoreError, match="3 shard files") as caught:
        split.array("embedding")

    assert "split.blocks" in caught.value.hint
    assert [len(m) for m in split.maps("embedding")] == [2048, 2048, 904]
    np.testing.assert_array_equal(
        np.concatenate(split.maps("embedding")), blocks[0].features["embedding"]
    )


@pytest.mark.parametrize("wanted", [[-1], [12], [0, 99]])
def test_rows_outside_the_split_are_refused(tmp_path: Path, wanted: list[int]) -> None:
    split, _ = sealed_split(tmp_path)

    with pytest.raises(IndexError, match="split of 12"):
        split.rows(wanted, "embedding")


def test_an_unknown_tap_is_told_with_the_known_ones(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path)

    with pytest.raises(NotFoundError) as caught:
        split.dim("pre_projection")

    assert "embedding" in caught.value.hint


def test_multi_hot_labels_come_back(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    whole = block(encoder.spec, 10, n_columns=3)
    write_part(encoder, fingerprint(0), whole)
    write_part(encoder, fingerprint(1), block(encoder.spec, 0))

    split = encoder.seal(
        dataset_spec([fingerprint(1), fingerprint(0)]), "train", names=DatasetNames("Pets")
    )

    assert split.labels.dtype == np.uint8
    np.testing.assert_array_equal(split.labels, whole.labels)


def test_skipped_samples_are_counted_by_reason(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    lost = [SkippedSample("x", "truncated"), SkippedSample("y", "no label")]
    for i in range(2):
        whole = block(encoder.spec, 2, prefix=str(i))
        commit = write_part(encoder, fingerprint(i), whole, skipped=lost[i:] + lost[1:])
        assert commit == encoder.committed_part(fingerprint(i))
    split = encoder.seal(
        dataset_spec([fingerprint(0), fingerprint(1)]), "train", names=DatasetNames("Pets")
    )

    assert split.skipped_by_reason == {"truncated": 1, "no label": 4}


def test_sealing_again_opens_what_is_there(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path)

    again = encoder_of(split).seal(split.dataset_spec, "train", names=DatasetNames("other name"))

    assert (again.digest, again.path) == (split.digest, split.path)


def test_the_first_name_and_metric_of_a_dataset_stay_and_are_returned(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    spec = dataset_spec([fingerprint(0)])
    first = encoder.register_dataset(spec, DatasetNames("Pets", "mean_per_class"))
    write_part(encoder, fingerprint(0), block(encoder.spec, 2))

    again = encoder.register_dataset(spec, DatasetNames("Animals", "top1"))
    split = encoder.seal(spec, "train", names=DatasetNames("Animals"))

    assert again == first == encoder.dataset("Pets")
    assert (again.name, again.metric) == ("Pets", "mean_per_class")
    assert (split.dataset_name, split.metric) == ("Pets", "mean_per_class")


def test_a_metric_declared_later_fills_the_gap_and_no_other(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    spec = dataset_spec([fingerprint(0)])
    encoder.register_dataset(spec, DatasetNames("Pets"))

    filled = encoder.register_dataset(spec, DatasetNames("Animals", "mean_per_class"))
    again = encoder.register_dataset(spec, DatasetNames("Animals", "top1"))

    assert filled.names == again.names == DatasetNames("Pets", "mean_per_class")
    assert encoder.dataset("Pets").names == filled.names


def test_a_dataset_without_a_declared_metric_says_so(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path)

    stored = json.loads((split.path.parent / "names.json").read_bytes())

    assert (stored["name"], stored["metric"]) == ("Pets", None)
    assert (split.dataset_name, split.metric) == ("Pets", None)


def test_the_digest_of_a_split_depends_on_its_rows_alone(tmp_path: Path) -> None:
    first, _ = sealed_split(tmp_path / "a")
    encoder = register(tmp_path / "b")
    for i, n in enumerate((7, 5)):
        whole = block(encoder.spec, n, seed=i, prefix=fingerprint(i).name)
        write_part(encoder, fingerprint(i), whole, rows_at_once=2)
    second = encoder.seal(first.dataset_spec, "train", names=DatasetNames("other name"))

    assert first.digest == second.digest
    other, _ = sealed_split(tmp_path / "c", (5, 7))
    assert first.digest != other.digest


def test_three_lines_in_a_notebook(tmp_path: Path) -> None:
    sealed_split(tmp_path)

    split = FeatureStore(tmp_path).split("train")
    X, y = split.array("embedding"), split.labels

    assert X.shape == (12, 5)
    assert y.shape == (12,)
    assert split.classes == ("cat", "dog", "eel")
