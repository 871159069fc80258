"""Every row of images says of which image it is, from the part to whoever reads it."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from store_factories import (
    block,
    dataset_spec,
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
from linprobe_store.handles.same_images import same_images
from linprobe_store.handles.split import Split
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


def images_of(*texts: str) -> NDArray[np.uint8]:
    digests = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def sealed(root: Path, name: str, images: NDArray[np.uint8] | None) -> Split:
    """A split of one part with these images."""
    encoder, shard = register(root, encoder_spec(2)), fingerprint(0, name)
    n = 3 if images is None else len(images)
    write_part(encoder, shard, replace(block(encoder.spec, n), image_sha256=images))
    return encoder.seal(dataset_spec([shard]), "train", names=DatasetNames(name))


def test_every_row_whose_image_is_in_another_split_or_came_before_is_found(tmp_path: Path) -> None:
    train = sealed(tmp_path, "a", images_of("x", "y", "z", "y", "w", "y"))
    test = sealed(tmp_path, "b", images_of("q", "y", "r", "z", "y"))

    assert same_images(train, test).tolist() == [[1, 1], [2, 3], [1, 4]]
    assert same_images(test, train).tolist() == [[1, 1], [3, 2], [1, 3], [1, 5]]
    assert same_images(train, train).tolist() == [[1, 3], [1, 5]]


def test_digests_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    images = images_of("x", "y", "z")
    images = np.concatenate([images, images[1:2]])
    images[2, :8], images[0, :8] = images[1, :8], images[1, :8]
    train, test = sealed(tmp_path, "a", images), sealed(tmp_path, "b", images[1:2])

    assert same_images(train, train).tolist() == [[1, 3]]
    assert same_images(train, test).tolist() == [[1, 0]]


def test_equal_images_are_found_across_blocks_as_by_the_whole_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linprobe_store.handles.same_images._BLOCK_ROWS", 7)
    draws = np.random.default_rng(0).integers(0, 40, (2, 60))
    texts = [[str(i) for i in row] for row in draws]
    train, test = (
        sealed(tmp_path, name, images_of(*row)) for name, row in zip("ab", texts, strict=True)
    )

    expected = [[texts[0].index(t), i] for i, t in enumerate(texts[1]) if t in texts[0]]
    assert same_images(train, test).tolist() == expected
    again = [[texts[0].index(t), i] for i, t in enumerate(texts[0]) if texts[0].index(t) < i]
    assert same_images(train, train).tolist() == again


def test_splits_without_digests_or_rows_share_no_images(tmp_path: Path) -> None:
    bare, whole = sealed(tmp_path, "a", None), sealed(tmp_path, "b", images_of("x", "x"))
    empty = sealed(tmp_path, "c", images_of())

    for first, second in ((bare, whole), (whole, bare), (bare, bare), (empty, whole)):
        assert len(same_images(first, second)) == 0
