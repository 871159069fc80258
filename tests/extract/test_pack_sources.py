"""Folders and tables are listed as their layout says, and refused where it says nothing."""

import os
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pack_factories import (
    image_bytes,
    labels_of,
    read_members,
    sizes,
    write_image,
    write_image_folder,
)

from linprobe.errors import PackError
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.shards.card import DatasetCard

OPTIONS = PackOptions(jobs=1)


def pack_folder(root: Path, options: PackOptions = OPTIONS) -> DatasetCard:
    """Pack ``root`` as an image folder, beside it."""
    return pack(f"imagefolder:{root}", root.with_name("out"), options).card


def test_folders_are_splits_and_classes_and_deeper_folders_stay_in_their_class(
    tmp_path: Path,
) -> None:
    root = write_image_folder(tmp_path / "Haus Tiere")
    write_image(root / "train/b/deep/er/7.PNG", 77, "PNG")

    card = pack_folder(root)

    assert (card.name, card.classes, sizes(card)) == (
        "haus-tiere",
        ("a", "b"),
        {"train": 7, "test": 6},
    )
    assert labels_of(tmp_path / "out", "train")["er_7"] == b"1"


def test_one_folder_of_classes_is_split_stratified_and_says_so(tmp_path: Path) -> None:
    for index in range(20):
        write_image(tmp_path / "pets" / "ab"[index % 2] / f"{index}.jpg", index)

    card = pack_folder(tmp_path / "pets", replace(OPTIONS, val_fraction=0.1, test_fraction=0.3))

    assert sizes(card) == {"train": 12, "val": 2, "test": 6}
    assert any("seed 0" in note and "stratified" in note for note in card.notes)


def test_val_is_the_test_split_where_there_is_no_test(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "pets")
    (root / "test").rename(root / "val")

    card = pack_folder(root)

    assert sizes(card) == {"train": 6, "test": 6}
    assert any("folder val is taken for the test split" in note for note in card.notes)


def test_a_train_folder_alone_is_split_by_the_rule(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "pets", per_class=5)
    shutil.rmtree(root / "test")

    card = pack_folder(root)

    assert (card.classes, sizes(card)) == (("a", "b"), {"train": 8, "test": 2})


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for the system call, since root may read everything."""
    root = write_image_folder(tmp_path / "pets")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    with pytest.raises(PackError, match="b cannot be read: Permission denied"):
        pack_folder(root)


def test_classes_may_be_called_train_and_test(tmp_path: Path) -> None:
    for name in ("train", "test", "tram"):
        for index in range(5):
            write_image(tmp_path / "rail" / name / f"{index}.jpg", index)

    assert pack_folder(tmp_path / "rail").classes == ("test", "train", "tram")


def test_other_files_are_left_aside_and_counted(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "pets")
    for name in ("README.txt", "train/a/Thumbs.db", "train/a/.DS_Store", "train/a/._0.jpg"):
        (root / name).write_text("x")
    write_image(root / "train/.thumbnails/0.jpg", 6)

    card = pack_folder(root)

    assert "left aside what is no image: 1 .db, 1 .txt, 2 hidden, 1 hidden folders" in card.notes


def test_a_class_that_a_split_lacks_is_noted(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "pets", classes="abc")
    for path in (root / "test" / "c").iterdir():
        path.unlink()

    assert "test has no images of c" in pack_folder(root).notes


def test_names_of_any_script_and_length_become_plain_keys_and_are_recorded(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "pets")
    long, odd = "x" * 240 + ".jpg", "猫 и кот\n'1.2.jpg"
    write_image(root / "train/a" / long, 1001)
    write_image(root / "train/a" / odd, 1002)
    (root / "train/a").rename(root / "train/ångström")
    (root / "test/a").rename(root / "test/ångström")

    card = pack_folder(root)

    table = (tmp_path / "out/train/samples.csv").read_text()
    assert long in table
    assert "猫 и кот" in table
    assert "ångström" in card.classes
    for name, _ in read_members(tmp_path / "out/train/0.tar"):
        assert name.isascii()
        assert len(name) <= 100
        assert name.count(".") == 1


def test_a_file_name_that_is_no_utf8_is_packed_and_written_with_escapes(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "pets")
    raw = os.fsencode(root / "train" / "a") + b"/caf\xe9.jpg"
    Path(os.fsdecode(raw)).write_bytes(image_bytes(1003))

    card = pack_folder(root)

    assert sizes(card)["train"] == 7
    assert "train/a/caf\\xe9.jpg" in (tmp_path / "out/train/samples.csv").read_text()


def test_a_loop_of_links_is_told_and_not_followed_and_other_links_are(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "pets")
    (root / "train/a/loop").symlink_to(root / "train")
    write_image(tmp_path / "elsewhere" / "9.jpg", 1004)
    (root / "train/b/linked").symlink_to(tmp_path / "elsewhere")

    card = pack_folder(root)

    assert sizes(card)["train"] == 7
    assert "not followed, a loop of links: train/a/loop" in card.notes


def _two_train(root: Path) -> None:
    write_image(root / "training" / "a" / "1.jpg", 5)


def _strange(root: Path) -> None:
    write_image(root / "extra" / "a" / "1.jpg", 5)


def _no_train(root: Path) -> None:
    (root / "train").rename(root / "val")


def _same_name(root: Path) -> None:
    write_image(root / "train" / unicodedata.normalize("NFC", "é") / "1.jpg", 5)
    write_image(root / "train" / unicodedata.normalize("NFD", "é") / "1.jpg", 6)


def _one_class(root: Path) -> None:
    for split in ("train", "test"):
        (root / split / "b").rename(root / split / "a" / "b")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_two_train, "two folders for one split: test, train, training"),
        (_strange, "test, train look like splits, and extra do not"),
        (_no_train, "expected a train folder, found test, val"),
        (_same_name, "occurs 2 times"),
        (_one_class, "at least 2 classes, found 1: a"),
    ],
)
def test_a_folder_that_can_be_read_two_ways_or_none_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    root = write_image_folder(tmp_path / "pets")
    damage(root)

    with pytest.raises(PackError, match=told):
        pack_folder(root)

    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there_or_empty_is_told(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="is not a folder"):
        pack_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(PackError, match=r"holds no images of classes; left aside .* 1 \.txt"):
        pack_folder(tmp_path / "empty")


def test_shards_are_not_written_into_what_is_packed(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "pets")

    with pytest.raises(PackError, match="lies inside"):
        pack(f"imagefolder:{root}", root / "packed", OPTIONS)


@pytest.mark.parametrize("source", ["", "imagefolder:", "csv:", "cifar11", "zip:x", "digits:1"])
def test_an_unknown_source_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(PackError, match="unknown source"):
        pack(source, tmp_path / "out", OPTIONS)
