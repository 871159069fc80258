"""What somebody removes stays removed, whoever was writing into it."""

from pathlib import Path

import numpy as np
import pytest
from store_factories import (
    block,
    dataset_spec,
    encoder_of,
    fingerprint,
    register,
    sealed_split,
)

from linprobe.disk import remove_unit
from linprobe.errors import StoreError
from linprobe_store.arrays.seal import SealTarget, seal_parts
from linprobe_store.care.remove import remove_folder
from linprobe_store.format.spec import DatasetNames, SplitSpec


def test_a_part_of_a_removed_encoder_leaves_no_ghost(tmp_path: Path) -> None:
    """Removed before it is begun, before its first row, and before its commit."""
    encoders = [register(tmp_path / name) for name in "abc"]
    whole = block(encoders[0].spec, 4)
    remove_folder(encoders[0].path)
    with pytest.raises(StoreError):
        encoders[0].part_writer(fingerprint(0))
    with encoders[1].part_writer(fingerprint(0)) as writer:
        remove_folder(encoders[1].path)
        with pytest.raises(StoreError):
            writer.append(whole)
    with encoders[2].part_writer(fingerprint(0)) as writer:
        writer.append(whole)
        remove_folder(encoders[2].path)
        with pytest.raises(StoreError):
            writer.commit(skipped=[], batch_size=1, planned=4, labelling="cls")

    assert [path.name for name in "abc" for path in (tmp_path / name).iterdir()] == ["FORMAT"] * 3


def test_a_dataset_of_a_removed_encoder_leaves_no_ghost(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    remove_folder(encoder.path)

    with pytest.raises(StoreError):
        encoder.register_dataset(dataset_spec([fingerprint(0)]), DatasetNames("Pets"))

    assert [path.name for path in tmp_path.iterdir()] == ["FORMAT"]


def test_a_split_of_a_removed_dataset_leaves_no_ghost(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path)
    encoder, folder = encoder_of(split), split.path.parent
    remove_unit(folder)
    shards = tuple(fingerprint(i) for i in range(2))
    dataset = dataset_spec(shards)
    assert dataset.splits == (SplitSpec("train", shards),)

    with pytest.raises(StoreError, match="removed meanwhile"):
        seal_parts(SealTarget(split.path, encoder.spec, dataset, "train"), encoder.path, None)

    assert not folder.exists()


def test_canaries_of_a_removed_encoder_leave_no_ghost(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    remove_folder(encoder.path)

    with pytest.raises(StoreError, match="removed meanwhile"):
        encoder.check_canary({"embedding": np.ones((2, 5), "f2")})

    assert [path.name for path in tmp_path.iterdir()] == ["FORMAT"]
