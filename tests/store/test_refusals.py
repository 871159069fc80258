"""What must not enter the store, and what must not be sealed, is refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from store_factories import block, dataset_spec, encoder_spec, fingerprint, register, write_part

from linprobe.errors import MismatchError, NotFoundError, StoreError
from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    LabelArray,
    SkippedSample,
    SplitSpec,
)


@pytest.mark.parametrize(
    ("value", "told"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
@pytest.mark.parametrize("row", [0, 255, 256, 299])
def test_a_value_that_is_not_finite_fails_the_part(
    tmp_path: Path, value: float, told: str, row: int
) -> None:
    encoder = register(tmp_path, encoder_spec(5, 6))
    whole = block(encoder.spec, 300)
    whole.features["pre_projection"][row, 3] = value

    with pytest.raises(StoreError, match=told) as caught:
        write_part(encoder, fingerprint(0), whole)

    for name in ("train-00000.tar", "pre_projection", whole.keys[row]):
        assert name in caught.value.message
    assert "float32" in caught.value.hint
    assert encoder.committed_part(fingerprint(0)) is None
    assert list((encoder.path / "parts").iterdir()) == []


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_an_all_zero_row_fails_the_part(tmp_path: Path, zero: float) -> None:
    encoder = register(tmp_path)
    whole = block(encoder.spec, 10)
    whole.features["embedding"][4] = zero

    with pytest.raises(StoreError, match="all zeros") as caught:
        write_part(encoder, fingerprint(0), whole)

    assert whole.keys[4] in caught.value.message


def test_the_largest_and_the_smallest_numbers_are_stored(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    whole = block(encoder.spec, 2)
    whole.features["embedding"][:] = 0
    whole.features["embedding"][:, 0] = [np.finfo("f2").max, np.finfo("f2").smallest_subnormal]

    assert write_part(encoder, fingerprint(0), whole).rows == 2


def test_a_block_must_be_as_the_spec_says(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    good = block(encoder.spec, 4)
    x = good.features["embedding"]
    for bad in (
        replace(good, features={}),
        replace(good, features={"embedding": x, "other": x}),
        replace(good, features={"embedding": x[:, :4]}),
        replace(good, features={"embedding": x[:3]}),
        replace(good, features={"embedding": x.astype(np.float32)}),
        replace(good, labels=good.labels[:3]),
        replace(good, labels=cast("LabelArray", good.labels.astype(np.int32))),
        replace(good, keys=good.keys[:3]),
    ):
        with encoder.part_writer(fingerprint(0)) as writer, pytest.raises(MismatchError):
            writer.append(bad)


def test_class_ids_and_multi_hot_labels_do_not_mix(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    with encoder.part_writer(fingerprint(0)) as writer:
        writer.append(block(encoder.spec, 2, prefix="a"))
        with pytest.raises(MismatchError, match="columns"):
            writer.append(block(encoder.spec, 2, prefix="b", n_columns=3))


def test_read_and_skipped_must_add_up_to_what_was_planned(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    with encoder.part_writer(fingerprint(0)) as writer:
        writer.append(block(encoder.spec, 3))
        skipped = [SkippedSample("x", "truncated")]
        with pytest.raises(MismatchError, match=r"expected 5 samples, found 3 rows and 1 skipped"):
            writer.commit(skipped=skipped, batch_size=1, planned=5, labelling="cls")

    assert encoder.committed_part(fingerprint(0)) is None


def test_a_part_that_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    with encoder.part_writer(fingerprint(0)) as writer:
        writer.append(block(encoder.spec, 3))

    assert list((encoder.path / "parts").iterdir()) == []


def test_a_key_that_comes_twice_in_a_tar_is_named(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    with encoder.part_writer(fingerprint(0)) as writer:
        writer.append(block(encoder.spec, 3))
        with pytest.raises(StoreError, match="s/é00000"):
            writer.append(block(encoder.spec, 1))


def test_a_key_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    bad = replace(block(encoder.spec, 1), keys=("a\udc80",))
    with encoder.part_writer(fingerprint(0)) as writer, pytest.raises(StoreError, match="UTF-8"):
        writer.append(bad)


def test_keys_that_come_twice_in_a_split_are_named(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    for i in range(2):
        write_part(encoder, fingerprint(i), block(encoder.spec, 8, seed=i))

    with pytest.raises(StoreError, match=r"8 keys .*s/é00000.* and 3 more"):
        encoder.seal(dataset_spec(map(fingerprint, range(2))), "train", names=DatasetNames("Pets"))

    assert encoder.dataset("Pets").splits == ()


def test_missing_parts_are_named(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    write_part(encoder, fingerprint(1), block(encoder.spec, 2))

    with pytest.raises(NotFoundError, match=r"2 of 3 shards.*train-00000.tar, train-00002.tar"):
        encoder.seal(dataset_spec(map(fingerprint, range(3))), "train", names=DatasetNames("Pets"))


def test_a_part_of_another_encoder_is_refused(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    other = register(tmp_path, encoder_spec(weights="1"))
    write_part(other, fingerprint(0), block(other.spec, 2))
    (other.path / "parts").rename(encoder.path / "parts")

    with pytest.raises(MismatchError, match="expected encoder"):
        encoder.committed_part(fingerprint(0))
    with pytest.raises(MismatchError, match="expected encoder"):
        encoder.seal(dataset_spec([fingerprint(0)]), "train", names=DatasetNames("Pets"))


def test_a_tar_of_other_content_is_another_part(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    write_part(encoder, fingerprint(0), block(encoder.spec, 2))

    assert encoder.committed_part(replace(fingerprint(0), sha256="f" * 64)) is None


def test_labels_outside_the_classes_are_refused(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    whole = block(encoder.spec, 4)
    whole.labels[:] = [0, 1, 2, 3]
    write_part(encoder, fingerprint(0), whole)

    with pytest.raises(MismatchError, match=r"0\.\.2 \(3 classes\), found 0\.\.3"):
        encoder.seal(dataset_spec([fingerprint(0)]), "train", names=DatasetNames("Pets"))


def test_multi_hot_labels_of_another_width_are_refused(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    write_part(encoder, fingerprint(0), block(encoder.spec, 4, n_columns=2))

    with pytest.raises(MismatchError, match="expected 3 columns"):
        encoder.seal(dataset_spec([fingerprint(0)]), "train", names=DatasetNames("Pets"))


@pytest.mark.parametrize("split", ["../x", "a/b", "", "tmp-x", ".x", "a b"])
def test_a_split_name_must_be_a_folder_name(tmp_path: Path, split: str) -> None:
    encoder = register(tmp_path)
    spec = DatasetSpec((SplitSpec(split, ()),), "cls", ("cat",))

    with pytest.raises(MismatchError, match="cannot be called"):
        encoder.seal(spec, split, names=DatasetNames("Pets"))
