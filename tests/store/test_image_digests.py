"""Every row of images says of which image it is, from the part to whoever reads it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from store_factories import (
    block,
    encoder_spec,
    fingerprint,
    register,
    root_of,
    sealed_split,
    write_part,
)

from linprobe.errors import IntegrityError, MismatchError
from linprobe_store.care.copy import copy_store
from linprobe_store.care.importing import import_files
from linprobe_store.format.spec import DatasetNames
from linprobe_store.handles.store import FeatureStore


def test_digests_are_those_of_the_parts_in_the_order_of_their_rows(tmp_path: Path) -> None:
    split, blocks = sealed_split(tmp_path, (2500, 0, 3))

    images = split.image_sha256

    assert images is not None
    assert not images.flags.writeable
    given = [b.image_sha256 for b in blocks if b.image_sha256 is not None]
    np.testing.assert_array_equal(images, np.concatenate(given))


def test_a_packed_copy_unpacks_to_the_same_digests(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path / "a", (300,))
    for source, target, pack in (("a", "b", True), ("b", "c", False)):
        list(copy_store(str(tmp_path / source), str(tmp_path / target), pack=pack))

    copied = FeatureStore(tmp_path / "c").split("train")

    assert copied.digest == split.digest
    np.testing.assert_array_equal(copied.image_sha256, split.image_sha256)


def test_imported_features_have_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", features=np.ones((3, 2), "f4"), labels=np.zeros(3, int))
    store = FeatureStore(tmp_path / "store")

    (split,) = import_files(store, [f"train={tmp_path / 'x.npz'}"], "e", DatasetNames("d"))

    assert split.image_sha256 is None
    assert not split.commit.has_image_digests
    assert not (split.path / "data.zarr/image_sha256").exists()


@pytest.mark.parametrize(
    "images", [np.zeros((5, 31), np.uint8), np.zeros((4, 32), np.uint8), np.zeros((5, 32), "i8")]
)
def test_digests_of_another_shape_are_refused(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    wrong = replace(block(encoder_spec(), 5), image_sha256=images)

    with pytest.raises(MismatchError, match=r"image_sha256 \(5, 32\) uint8, found"):
        write_part(register(tmp_path), fingerprint(0), wrong)


@pytest.mark.parametrize("first", [True, False])
def test_rows_with_and_rows_without_digests_are_not_mixed(tmp_path: Path, *, first: bool) -> None:
    whole = block(encoder_spec(), 5)
    bare = replace(whole, keys=tuple("abcde"), image_sha256=None)

    with register(tmp_path).part_writer(fingerprint(0)) as part:
        part.append(whole if first else bare)
        with pytest.raises(MismatchError, match="expected image_sha256"):
            part.append(bare if first else whole)


def test_a_damaged_digest_is_found_when_it_is_read(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path, (5,))
    file = split.path / "data.zarr/image_sha256/c/0/0"
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)

    with pytest.raises(IntegrityError, match="image_sha256"):
        _ = FeatureStore(root_of(split)).split("train").image_sha256
