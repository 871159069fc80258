"""Every known dataset comes out of its on-disk format, through torchvision, as it was written."""

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pack_factories import read_members
from PIL import Image
from torchvision_arrays import (
    ARRAY_WRITERS,
    Expected,
    write_cifar10,
    write_mnist,
    write_stl10,
)
from torchvision_files import FILE_WRITERS

from linprobe.benchmarks import KnownDataset, PerClassRule, find_known
from linprobe.errors import PackError
from linprobe_extract.pack import registry as registry_module
from linprobe_extract.pack.listing import Listing, PackOptions, check_listing
from linprobe_extract.pack.pack import pack
from linprobe_extract.pack.registry import list_known

WRITERS = ARRAY_WRITERS | FILE_WRITERS
ANY = PackOptions(check_counts=False, download=False, jobs=1)


def row_of(slug: str) -> KnownDataset:
    """The row of a slug, with a rule that tiny datasets can meet."""
    row = find_known(slug)
    assert row is not None
    return replace(row, rule=PerClassRule(2, 1)) if row.rule else row


def list_tiny(slug: str, root: Path, arguments: str = "") -> Listing:
    """List the tiny dataset under ``root``."""
    return list_known(row_of(slug), arguments, replace(ANY, root=root))


def contents(listing: Listing) -> dict[str, Counter[tuple[tuple[int, ...], bytes]]]:
    """Labels and image of every sample, by split."""
    return {
        split: Counter((sample.labels, sample.read()) for sample in samples)
        for split, samples in listing.splits.items()
    }


def pixels_of(content: bytes) -> bytes:
    """Shape and pixels of an encoded image, as bytes."""
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    return repr(pixels.shape).encode() + pixels.tobytes()


def as_written(expected: Expected) -> dict[str, Counter[tuple[tuple[int, ...], bytes]]]:
    """What was written, in the form of :func:`contents`; pixels as pixels."""
    return {
        split: Counter(
            (
                labels,
                image if isinstance(image, bytes) else repr(image.shape).encode() + image.tobytes(),
            )
            for labels, image in pairs
        )
        for split, pairs in expected.items()
    }


@pytest.mark.parametrize("slug", sorted(set(WRITERS) - {"eurosat", "caltech101"}))
def test_images_and_labels_of_every_split_come_out_as_written(
    slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = WRITERS[slug](tmp_path / "root", monkeypatch)

    listing = list_tiny(slug, tmp_path / "root")

    check_listing(listing)
    found = contents(listing)
    holds_pixels = any(not isinstance(image, bytes) for _, image in expected["train"])
    if holds_pixels:
        found = {
            split: Counter({(labels, pixels_of(image)): n for (labels, image), n in pairs.items()})
            for split, pairs in found.items()
        }
    assert found == as_written(expected)


@pytest.mark.parametrize("slug", ["eurosat", "caltech101"])
def test_unsplit_datasets_are_split_by_the_rule_of_their_row(
    slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = as_written(WRITERS[slug](tmp_path / "root", monkeypatch))["all"]

    listing = list_tiny(slug, tmp_path / "root")

    found = contents(listing)
    assert set(found) == {"train", "test"}
    assert not set(found["train"]) & set(found["test"])
    assert found["train"] + found["test"] <= everything
    counts = Counter(sample.labels for sample in listing.splits["train"])
    assert set(counts.values()) == {2}


def test_caltech_has_its_background_as_a_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS["caltech101"](tmp_path / "root", monkeypatch)

    assert list_tiny("caltech101", tmp_path / "root").classes == (
        "BACKGROUND_Google",
        "Faces",
        "accordion",
    )


def test_classes_of_imagenet_with_the_same_synonyms_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS["imagenet"](tmp_path / "root", monkeypatch)

    listing = list_tiny("imagenet", tmp_path / "root")

    assert listing.classes == ("crane (n01)", "crane (n02)", "cat, tabby")


def test_voc_is_multi_label_with_its_own_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS["voc2007"](tmp_path / "root", monkeypatch)

    listing = list_tiny("voc2007", tmp_path / "root")

    assert listing.is_multi_label
    assert listing.headline_metric == "map_11_point"


def test_a_known_dataset_packs_end_to_end_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = write_cifar10(tmp_path / "root", monkeypatch)

    card = pack("cifar10", tmp_path / "out", replace(ANY, root=tmp_path / "root")).card

    assert (card.name, card.source, len(card.classes)) == ("cifar10", "cifar10", 10)
    members = read_members(tmp_path / "out/train/0.tar")
    assert members[1] == ("train-0000000-000000.cls", b"0")
    assert pixels_of(members[0][1]) == next(iter(as_written(expected)["train"]))[1]


def test_a_dataset_that_is_packed_is_found_without_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path / "root", monkeypatch)
    pack("cifar10", tmp_path / "out", replace(ANY, root=tmp_path / "root"))

    assert not pack("cifar10", tmp_path / "out", ANY).is_new


def test_other_sizes_than_the_tables_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path / "root", monkeypatch)
    options = replace(ANY, root=tmp_path / "root", check_counts=True)

    with pytest.raises(
        PackError, match="cifar10: expected 50,000 train, 10,000 test, found 10 train, 2 test"
    ) as caught:
        pack("cifar10", tmp_path / "out", options)

    assert "--any-counts" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_of_a_known_dataset_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS["dtd"](tmp_path / "root", monkeypatch)
    row = replace(row_of("dtd"), n_classes=2, sizes={"train": 2, "val": 2, "test": 2})
    monkeypatch.setattr(registry_module, "find_known", lambda name: row if name == "dtd" else None)
    options = replace(ANY, root=tmp_path / "root", check_counts=True)
    broken = tmp_path / "root/dtd/dtd/images/woven/woven_0.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:50])

    with pytest.raises(PackError, match=r"found 1 train, 2 val, 2 test; 1 unreadable: .*woven_0"):
        pack("dtd", tmp_path / "out", options)

    assert not (tmp_path / "out").exists()
    broken.write_bytes(whole)
    assert pack("dtd", tmp_path / "out", replace(options, overwrite=True)).is_new


def test_another_number_of_classes_than_the_tables_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS["food101"](tmp_path / "root", monkeypatch)
    options = replace(ANY, root=tmp_path / "root", check_counts=True)

    with pytest.raises(PackError, match="food101: expected 101 classes, found 2"):
        pack("food101", tmp_path / "out", options)


def test_a_fold_of_stl10_is_packed_by_an_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = as_written(write_stl10(tmp_path / "root", monkeypatch))

    listing = list_tiny("stl10", tmp_path / "root", "folds=0")

    assert [sample.labels[0] for sample in listing.splits["train"]] == [0, 4]
    assert len(listing.splits["test"]) == expected["test"].total()
    assert listing.expected is None


def test_a_class_of_torchvision_names_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "root", monkeypatch)

    card = pack("torchvision:MNIST", tmp_path / "out", replace(ANY, root=tmp_path / "root")).card

    assert (card.name, card.classes[3]) == ("mnist", "3 - three")


def test_a_class_beyond_the_table_packs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "root", monkeypatch)
    (tmp_path / "root" / "MNIST").rename(tmp_path / "root" / "FashionMNIST")
    options = replace(ANY, root=tmp_path / "root")

    card = pack("torchvision:FashionMNIST", tmp_path / "out", options).card

    assert (card.name, card.classes[9]) == ("fashionmnist", "Ankle boot")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("torchvision:CIFAR10", "not found or corrupted"),
        ("torchvision:CIFAR10:colour=3", "colour"),
        ("torchvision:STL10:folds=11", "folds"),
        ("torchvision:STL10:folds", "expected key=value, found 'folds'"),
        ("torchvision:Kinetics", "unknown torchvision dataset 'Kinetics'"),
        ("torchvision:utils", "unknown torchvision dataset 'utils'"),
        ("sun397", "not found"),
        ("fer2013", "not found"),
        ("imagenet", "ILSVRC2012_devkit"),
    ],
)
def test_files_that_are_not_there_and_wrong_arguments_are_told(
    source: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(PackError, match=told):
        pack(source, tmp_path / "out", replace(ANY, root=tmp_path / "root"))

    assert not (tmp_path / "out").exists()
