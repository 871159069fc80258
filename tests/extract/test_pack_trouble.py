"""Unreadable and repeated images are counted, told, and left out where they must be."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from pack_factories import (
    PowerCut,
    folder_source,
    image_bytes,
    raising,
    read_members,
    write_image,
)

from linprobe.errors import PackError
from linprobe_extract.pack import pack as pack_module
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack

SMALL = PackOptions(shard_samples=2, jobs=2)


def test_unreadable_images_are_kept_out_counted_and_listed(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    whole = image_bytes(77, side=64)
    train = tmp_path / "pets" / "train" / "a"
    (train / "cut.jpg").write_bytes(whole[:-200])
    (train / "empty.png").write_bytes(b"")
    (train / "page.jpg").write_bytes(b"<html>404</html>")
    (train / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")

    card = pack(source, tmp_path / "out", SMALL).card

    reasons = {image.name: image.reason for image in card.unreadable}
    assert sorted(reasons) == [
        "train/a/cut.jpg",
        "train/a/empty.png",
        "train/a/gone.jpg",
        "train/a/page.jpg",
    ]
    assert "truncated" in reasons["train/a/cut.jpg"]
    assert reasons["train/a/empty.png"] == "empty file"
    assert "not an image" in reasons["train/a/page.jpg"]
    assert "No such file" in reasons["train/a/gone.jpg"]
    assert card.splits["train"].samples == 6
    assert sum(shard.samples for shard in card.splits["train"].shards) == 6


def test_a_shard_with_nothing_readable_leaves_no_gap_in_the_numbers(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    for name in ("0.jpg", "1.jpg"):
        (tmp_path / "pets/train/a" / name).write_bytes(b"")

    card = pack(source, tmp_path / "out", SMALL).card

    assert [shard.name for shard in card.splits["train"].shards] == ["0.tar", "1.tar"]
    assert (tmp_path / "out/train/nshards.txt").read_text() == "2\n"
    assert sorted(p.name for p in (tmp_path / "out/train").glob("*.tar")) == ["0.tar", "1.tar"]


def test_a_split_with_nothing_readable_is_refused(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    for path in (tmp_path / "pets/test").rglob("*.jpg"):
        path.write_bytes(b"")

    with pytest.raises(PackError, match="no image of the test split is left"):
        pack(source, tmp_path / "out", SMALL)

    assert not (tmp_path / "out").exists()


def leaking_source(tmp_path: Path) -> str:
    """Train holds one test image under another class, and one image twice."""
    source = folder_source(tmp_path)
    pets = tmp_path / "pets"
    (pets / "train/b/leak.jpg").write_bytes((pets / "test/a/0.jpg").read_bytes())
    (pets / "train/a/twin.jpg").write_bytes((pets / "train/a/0.jpg").read_bytes())
    return source


def test_identical_images_across_and_within_splits_are_found(tmp_path: Path) -> None:
    card = pack(leaking_source(tmp_path), tmp_path / "out", SMALL).card

    assert [image.names for image in card.leaks] == [("test/a/0.jpg", "train/b/leak.jpg")]
    assert [image.splits for image in card.leaks] == [("test", "train")]
    assert card.leaks[0].is_contradiction
    assert [image.names for image in card.duplicates if not image.is_leak] == [
        ("train/a/0.jpg", "train/a/twin.jpg")
    ]
    assert card.splits["train"].samples == 8


def test_leaks_are_dropped_from_train_only_and_twins_stay(tmp_path: Path) -> None:
    source = leaking_source(tmp_path)

    card = pack(source, tmp_path / "out", replace(SMALL, drop_leaks=True)).card

    assert card.leaks[0].dropped == ("train/b/leak.jpg",)
    assert {name: split.samples for name, split in card.splits.items()} == {"train": 7, "test": 6}


def test_no_image_is_left_in_two_splits_after_dropping(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    pets = tmp_path / "pets"
    for seed, split in enumerate(("val", "train")):
        write_image(pets / split / "a" / "own.jpg", seed=100 + seed)
        (pets / split / "a" / "leak.jpg").write_bytes((pets / "test/a/0.jpg").read_bytes())

    pack(source, tmp_path / "out", replace(SMALL, drop_leaks=True))

    digests = [
        {
            hashlib.sha256(content).hexdigest()
            for tar in (tmp_path / "out" / split).glob("*.tar")
            for name, content in read_members(tar)
            if name.endswith(".jpg")
        }
        for split in ("train", "val", "test")
    ]
    assert not digests[0] & digests[1]
    assert not digests[0] & digests[2]
    assert not digests[1] & digests[2]


def test_a_resumed_run_drops_the_same_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = leaking_source(tmp_path)
    options = replace(SMALL, drop_leaks=True)
    whole = pack(source, tmp_path / "whole", options).card
    monkeypatch.setattr(pack_module, "write_tree", raising(PowerCut()))
    with pytest.raises(PowerCut):
        pack(source, tmp_path / "out", options)
    monkeypatch.undo()
    records = tmp_path / "tmp-out.pack" / "records"
    assert json.loads((records / "train-0.json").read_text())["split"] == "train"
    (records / "train-0.json").unlink()

    assert pack(source, tmp_path / "out", options).card == whole
