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
    write_part,
)

from linprobe.disk import remove_unit
from linprobe.errors import StoreError
from linprobe_store.arrays.seal import SealTarget, seal_parts
from linprobe_store.care.remove import remove_folder
from linprobe_store.format.spec import DatasetNames, SplitSpec


@pytest.mark.parametrize("moment", ["before the first row", "between rows", "before the commit"])
def test_a_part_of_a_removed_encoder_leaves_no_ghost(tmp_path: Path, moment: str) -> None:
    encoder = register(tmp_path)
    whole = block(encoder.spec, 4)
    if moment == "before the first row":
        remove_folder(encoder.path)
        with pytest.raises(StoreError):
            write_part(encoder, fingerprint(0), whole)
    else:
        with encoder.part_writer(fingerprint(0)) as writer:
            if moment == "before the commit":
                writer.append(whole)
            remove_folder(encoder.path)
            with pytest.raises(StoreError):
                writer.append(whole)
                writer.commit(skipped=[], batch_size=1, planned=4, labelling="cls")

    assert [path.name for path in tmp_path.iterdir()] == ["FORMAT"]


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
