"""Packing is deterministic, atomic, resumable, and loses nothing unsaid."""

import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pack_factories import (
    folder_source,
    raising,
    read_members,
    tree_bytes,
    write_image,
    write_image_folder,
)
from PIL import Image
from sklearn.datasets import load_digits

from linprobe.errors import PackError
from linprobe_extract.pack import pack as pack_module
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.pack.workspace import Workspace
from linprobe_extract.shards.card import load_card

SMALL = PackOptions(shard_samples=2, jobs=2)


def test_digits_are_the_images_and_labels_of_scikit_learn(tmp_path: Path) -> None:
    pack("digits", tmp_path / "out", PackOptions())
    pixels, labels = load_digits(return_X_y=True)
    found = np.zeros(len(labels), int)

    for split in ("train", "test"):
        for tar in sorted((tmp_path / "out" / split).glob("*.tar")):
            members = read_members(tar)
            for (name, content), (label_name, label) in zip(
                members[::2], members[1::2], strict=True
            ):
                key, extension = name.split(".")
                index = int(key.split("-")[2])
                image = np.asarray(Image.open(io.BytesIO(content)))
                assert (extension, label_name) == ("png", f"{key}.cls")
                assert int(label) == labels[index]
                assert np.array_equal(image, np.rint(pixels[index].reshape(8, 8) * 255 / 16))
                found[index] += 1

    assert (found == 1).all()


def test_digits_are_split_by_class_into_several_shards(tmp_path: Path) -> None:
    card = pack("digits", tmp_path / "out", PackOptions()).card

    assert card.splits["train"].samples + card.splits["test"].samples == 1797
    assert 350 <= card.splits["test"].samples <= 370
    assert [shard.samples for shard in card.splits["train"].shards] == [500, 500, 438]


def test_image_bytes_are_kept_as_they_are_beside_their_label(tmp_path: Path) -> None:
    source = folder_source(tmp_path)

    pack(source, tmp_path / "out", SMALL)

    first = read_members(tmp_path / "out" / "train" / "0.tar")
    assert first == [
        ("train-0000000-a_0.jpg", (tmp_path / "pets/train/a/0.jpg").read_bytes()),
        ("train-0000000-a_0.cls", b"0"),
        ("train-0000001-a_1.jpg", (tmp_path / "pets/train/a/1.jpg").read_bytes()),
        ("train-0000001-a_1.cls", b"0"),
    ]
    assert (tmp_path / "out" / "classnames.txt").read_text() == "a\nb\n"
    assert (tmp_path / "out" / "train" / "nshards.txt").read_text() == "3\n"


def test_the_card_says_what_lies_beside_it(tmp_path: Path) -> None:
    report = pack(folder_source(tmp_path), tmp_path / "out", SMALL)

    assert load_card(tmp_path / "out") == report.card
    for split, content in report.card.splits.items():
        for shard in content.shards:
            tar = (tmp_path / "out" / split / shard.name).read_bytes()
            assert (shard.bytes, shard.sha256) == (len(tar), hashlib.sha256(tar).hexdigest())
    keys = [
        line.split(",")[0] for line in (tmp_path / "out/test/samples.csv").read_text().splitlines()
    ]
    members = [
        name
        for tar in sorted((tmp_path / "out" / "test").glob("*.tar"))
        for name, _ in read_members(tar)
    ]
    assert keys[1:] == [name.split(".")[0] for name in members[::2]]


def test_the_same_source_gives_the_same_bytes_whatever_the_threads(tmp_path: Path) -> None:
    source = folder_source(tmp_path)

    pack(source, tmp_path / "one", replace(SMALL, jobs=1))
    pack(source, tmp_path / "two", replace(SMALL, jobs=4))

    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")


def test_a_second_run_finds_nothing_to_do_and_writes_nothing(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    pack(source, tmp_path / "out", SMALL)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}

    report = pack(source, tmp_path / "out", SMALL)

    assert (report.n_packed, report.n_kept, report.is_new) == (0, 6, False)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_a_source_that_was_moved_is_still_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_source(tmp_path)
    pack(source, tmp_path / "out", SMALL)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pets").rename(tmp_path / "elsewhere" / "pets")
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert not pack("imagefolder:pets", tmp_path / "out", SMALL).is_new


def test_a_finished_dataset_that_cannot_change_is_not_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack("digits", tmp_path / "out", PackOptions())

    def refuse(*_: object) -> None:
        raise AssertionError("listed")

    monkeypatch.setattr(pack_module, "list_source", refuse)

    assert not pack("digits", tmp_path / "out", PackOptions()).is_new


@pytest.mark.parametrize("change", [{"seed": 1}, {"shard_samples": 3}, {"name": "other"}])
def test_another_dataset_is_never_packed_over_a_finished_one(
    tmp_path: Path, change: dict[str, object]
) -> None:
    source = folder_source(tmp_path)
    pack(source, tmp_path / "out", SMALL)
    before = tree_bytes(tmp_path / "out")
    other = replace(SMALL, **change)  # type: ignore[arg-type] # fields of the options

    with pytest.raises(PackError, match="holds another dataset: pets") as caught:
        pack(source, tmp_path / "out", other)

    assert "--overwrite" in caught.value.hint
    assert tree_bytes(tmp_path / "out") == before
    assert pack(source, tmp_path / "out", replace(other, overwrite=True)).is_new


def test_a_source_that_changed_is_packed_again_and_what_changed_is_told(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    pack(source, tmp_path / "out", SMALL)
    write_image(tmp_path / "pets/train/a/0.jpg", seed=99)
    write_image(tmp_path / "pets/train/c/0.jpg", seed=98)
    (tmp_path / "pets/train/a/1.jpg").rename(tmp_path / "pets/train/b/8.jpg")
    lines: list[str] = []

    again = pack(source, tmp_path / "out", SMALL, lambda progress: lines.append(progress.line))

    assert again.is_new
    (line,) = filter(None, lines)
    assert "its source has changed: 2 added; 1 removed; 1 in another class; new classes: c" in line
    (tmp_path / "out/train/samples.csv").unlink()
    write_image(tmp_path / "pets/train/a/0.jpg", seed=97)
    pack(source, tmp_path / "out", SMALL, lambda progress: lines.append(progress.line))
    assert lines[-1] == "" or "cannot be read" in "".join(lines)


def test_another_source_or_other_options_replace_a_dataset_on_request_alone(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    pack(source, tmp_path / "out", SMALL)
    other = f"imagefolder:{write_image_folder(tmp_path / 'others')}"

    for words, options in ((other, SMALL), (source, replace(SMALL, seed=5))):
        with pytest.raises(PackError, match="holds another dataset"):
            pack(words, tmp_path / "out", options)
        assert pack(words, tmp_path / "out", replace(options, overwrite=True)).is_new
        pack(source, tmp_path / "out", replace(SMALL, overwrite=True))


def test_a_folder_with_other_things_is_refused_even_with_overwrite(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")

    for overwrite in (False, True):
        with pytest.raises(PackError, match="not empty"):
            pack(source, tmp_path / "out", replace(SMALL, overwrite=overwrite))

    assert (tmp_path / "out" / "thesis.tex").exists()


def test_a_shard_that_is_gone_is_told(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    pack(source, tmp_path / "out", SMALL)
    (tmp_path / "out/train/1.tar").unlink()

    with pytest.raises(PackError, match=r"1 shards are gone .* train/1\.tar"):
        pack(source, tmp_path / "out", SMALL)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(PackError, match=r"cannot write .*: Not a directory"):
        pack("digits", tmp_path / "file" / "out", PackOptions())


def test_a_rename_that_is_refused_is_told_and_the_work_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_source(tmp_path)
    monkeypatch.setattr(Workspace, "publish", raising(OSError(16, os.strerror(16))))
    with pytest.raises(PackError, match=r"cannot write .*busy"):
        pack(source, tmp_path / "out", SMALL)
    monkeypatch.undo()

    report = pack(source, tmp_path / "out", SMALL)

    assert (report.is_new, report.n_packed, report.n_kept) == (True, 0, 6)
    assert load_card(tmp_path / "out") == report.card


def test_a_full_disk_is_told_and_nothing_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "write_shard", raising(OSError(28, os.strerror(28))))

    with pytest.raises(PackError, match="No space left"):
        pack("digits", tmp_path / "out", PackOptions())

    assert not (tmp_path / "out").exists()
