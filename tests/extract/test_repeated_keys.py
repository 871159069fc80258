"""Keys that come in two shards of a split: found before the second is encoded, with a way out."""

from pathlib import Path

import numpy as np
import pytest
import typer
from encoder_factories import SmallModel
from msgspec import UNSET
from run_factories import extract_small, run_once
from tar_factories import labelled, tar_bytes

from linprobe import FeatureStore
from linprobe.errors import ExtractError, ShardError
from linprobe_extract.cli import extract
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.run.keys import SplitKeys
from linprobe_store.format.spec import ShardFingerprint


@pytest.fixture
def counted_anew(tmp_path: Path) -> Path:
    """Shards whose keys begin at the same number, as some writers make them."""
    folder = tmp_path / "anew"
    for path, first in (("train/0", 0), ("train/1", 10), ("train/2", 20), ("test/0", 30)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        keys = {f"s{i}": i % 2 for i in range(6)}
        (folder / f"{path}.tar").write_bytes(tar_bytes(labelled(keys, first_seed=first)))
    (folder / "classnames.txt").write_text("cat\ndog\n")
    return folder


def test_a_shard_with_the_keys_of_another_is_not_encoded(
    encoder: Encoder, counted_anew: Path, tmp_path: Path
) -> None:
    report = run_once(encoder, counted_anew, tmp_path / "store")

    assert report.n_images == 12  # of train/0 and test/0
    assert {Path(url).name for url in report.failed} == {"1.tar", "2.tar"}
    error = next(iter(report.failed.values()))
    assert "key 's0' of '1.tar' comes in '0.tar' of the same split too" in error.message
    assert "--key-prefix shard" in error.hint


def test_keys_of_parts_count_when_the_run_is_repeated(
    encoder: Encoder, counted_anew: Path, tmp_path: Path
) -> None:
    run_once(encoder, counted_anew, tmp_path / "store")
    again = run_once(encoder, counted_anew, tmp_path / "store")

    assert (again.n_images, again.n_shards_before, len(again.failed)) == (0, 2, 2)


def test_the_prefix_is_the_way_out_and_part_of_the_dataset(
    model: SmallModel, counted_anew: Path, tmp_path: Path
) -> None:
    """What was encoded stays: a part has the keys of its tar, whatever the dataset calls them."""
    store = tmp_path / "store"
    with pytest.raises(ExtractError):
        extract_small(model, counted_anew, store)

    report = extract_small(model, counted_anew, store, key_prefix="shard")

    (train,) = (split for split in report.sealed if split.name == "train")
    assert list(train.keys) == [f"{shard}.tar/s{i}" for shard in range(3) for i in range(6)]
    assert report.run is not None
    assert (report.run.n_shards_before, report.run.n_images) == (2, 12)
    assert train.dataset_spec.key_prefix == "shard"
    rows = np.asarray(train.array("embedding"))
    assert len(np.unique(rows, axis=0)) == 18

    again = extract_small(model, counted_anew, store, key_prefix="shard")
    assert again.run is None
    assert len(again.sealed) == 2
    (stored,) = FeatureStore(store).encoder().datasets()
    assert stored.spec == train.dataset_spec


def test_the_command_takes_the_prefix(
    model: SmallModel, counted_anew: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with pytest.raises(typer.Exit) as caught:
        extract(
            str(model.config), str(counted_anew), store, weights=model.weights, key_prefix="shard"
        )

    assert caught.value.exit_code == 0
    assert list(FeatureStore(store).split("test").keys) == [f"0.tar/s{i}" for i in range(6)]


def test_shards_of_one_name_need_names_of_their_own() -> None:
    first, second = (ShardFingerprint("0.tar", 1, digit * 64) for digit in "12")
    keys = SplitKeys("shard")
    keys.take(first, ["a", "b"])

    with pytest.raises(ShardError, match="key 'b'") as caught:
        keys.take(second, ["c", "b"])

    assert "a name of its own" in caught.value.hint


def test_a_shard_that_is_read_again_repeats_nobody() -> None:
    """As after the memory of a device was too small."""
    shards = [ShardFingerprint(f"{i}.tar", 1, str(i) * 64) for i in range(4)]
    keys = SplitKeys(UNSET)
    for _ in range(2):
        for i, shard in enumerate(shards):
            keys.take(shard, [f"{i}/{k}" for k in range(50)])
            keys.take(shard, [f"{i}/{k}" for k in range(50, 99)])

    with pytest.raises(ShardError, match=r"key '2/98' of '3\.tar' comes in '2\.tar'"):
        keys.take(shards[3], ["3/200", "2/98"])
