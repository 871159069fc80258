"""Packing is deterministic, atomic, resumable, and loses nothing unsaid."""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from linprobe_extract import pack as pack_module
from linprobe_extract.dataset_card import load_card
from linprobe_extract.pack import pack
from linprobe_extract.pack_listing import PackError
from linprobe_extract.pack_plan import PackOptions
from linprobe_extract.pack_tar import write_shard
from pack_factories import (
    image_bytes,
    read_members,
    tree_bytes,
    write_image,
    write_image_folder,
)

SMALL = PackOptions(shard_samples=2, jobs=2)


def folder_source(root: Path) -> str:
    """An image folder of 6 train and 6 test images, as a source."""
    return f"imagefolder:{write_image_folder(root / 'pets')}"


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


def test_a_finished_dataset_that_cannot_change_is_not_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack("digits", tmp_path / "out", PackOptions())

    def refuse(*_: object) -> None:
        raise AssertionError("listed")

    monkeypatch.setattr(pack_module, "list_source", refuse)

    assert not pack("digits", tmp_path / "out", PackOptions()).is_new


class _PowerCut(BaseException):
    """Stops a run where it stands."""


def test_an_interrupted_run_shows_nothing_and_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_source(tmp_path)
    pack(source, tmp_path / "whole", SMALL)
    written: list[str] = []

    def cut(path: Path, *arguments: object, **options: object) -> object:
        if len(written) == 4:
            path.with_name(f".{path.name}.partial").write_bytes(b"half")
            raise _PowerCut
        written.append(path.name)
        return write_shard(path, *arguments, **options)  # type: ignore[arg-type] # passed through

    monkeypatch.setattr(pack_module, "write_shard", cut)
    with pytest.raises(_PowerCut):
        pack(source, tmp_path / "out", replace(SMALL, jobs=1))
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()

    report = pack(source, tmp_path / "out", SMALL)

    assert (report.n_packed, report.n_kept) == (2, 4)
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pets", "whole"]


def test_a_kill_leaves_nothing_that_a_second_run_cannot_finish(tmp_path: Path) -> None:
    """SIGKILL between two shards of a real process: no clean-up code runs at all."""
    source = folder_source(tmp_path)
    pack(source, tmp_path / "whole", SMALL)
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from linprobe_extract.pack import pack\n"
        "from linprobe_extract.pack_plan import PackOptions\n"
        "def watch(done, total):\n"
        "    if done == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "pack(sys.argv[1], Path(sys.argv[2]), PackOptions(shard_samples=2, jobs=1), watch)\n"
    )
    command = [sys.executable, "-c", script, source, str(tmp_path / "out")]

    killed = subprocess.run(command, check=False)  # our own script
    report = pack(source, tmp_path / "out", SMALL)

    assert killed.returncode == -9
    assert report.n_kept == 2
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")


def test_the_unfinished_packing_of_another_source_is_refused_until_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_source(tmp_path)
    monkeypatch.setattr(pack_module, "write_tree", _raise(_PowerCut()))
    with pytest.raises(_PowerCut):
        pack(source, tmp_path / "out", SMALL)
    monkeypatch.undo()
    other = replace(SMALL, seed=1)

    with pytest.raises(PackError, match="unfinished packing of another source"):
        pack(source, tmp_path / "out", other)

    assert pack(source, tmp_path / "out", replace(other, overwrite=True)).n_packed == 6


def test_progress_counts_every_sample_once_those_of_an_earlier_run_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_source(tmp_path)
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(pack_module, "write_tree", _raise(_PowerCut()))
    with pytest.raises(_PowerCut):
        pack(source, tmp_path / "out", SMALL, lambda done, total: seen.append((done, total)))
    monkeypatch.undo()
    (tmp_path / ".out.partial/tars/train-1.tar").unlink()
    again: list[tuple[int, int]] = []

    pack(source, tmp_path / "out", SMALL, lambda done, total: again.append((done, total)))

    assert sorted(set(seen) - {(0, 12)}) == [(done, 12) for done in range(1, 13)]
    assert again[-1] == (12, 12)
    assert (10, 12) in again


def test_a_tar_that_is_not_as_recorded_is_packed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_source(tmp_path)
    pack(source, tmp_path / "whole", SMALL)
    monkeypatch.setattr(pack_module, "write_tree", _raise(_PowerCut()))
    with pytest.raises(_PowerCut):
        pack(source, tmp_path / "out", SMALL)
    monkeypatch.undo()
    tars = tmp_path / ".out.partial" / "tars"
    (tars / "train-0.tar").write_bytes(b"cut")
    (tars / "train-1.tar").unlink()

    assert pack(source, tmp_path / "out", SMALL).n_packed == 2
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "whole")


def test_two_packers_of_one_folder_do_not_mix(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    errors: list[PackError] = []
    tried = threading.Event()

    def second(done: int, _: int) -> None:
        if done == 1 and not tried.is_set():
            tried.set()
            with pytest.raises(PackError, match="another process is packing") as caught:
                pack(source, tmp_path / "out", SMALL)
            errors.append(caught.value)

    pack(source, tmp_path / "out", replace(SMALL, jobs=1), second)

    assert len(errors) == 1


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


def test_a_source_that_changed_is_told_and_packed_again_on_request(tmp_path: Path) -> None:
    source = folder_source(tmp_path)
    pack(source, tmp_path / "out", SMALL)
    write_image(tmp_path / "pets/train/a/0.jpg", seed=99)

    with pytest.raises(PackError, match="or its source has changed"):
        pack(source, tmp_path / "out", SMALL)

    assert pack(source, tmp_path / "out", replace(SMALL, overwrite=True)).is_new


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

    with pytest.raises(PackError, match="cannot write beside"):
        pack("digits", tmp_path / "file" / "out", PackOptions())


def test_a_full_disk_is_told_and_nothing_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "write_shard", _raise(OSError(28, os.strerror(28))))

    with pytest.raises(PackError, match="No space left"):
        pack("digits", tmp_path / "out", PackOptions())

    assert not (tmp_path / "out").exists()


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
    monkeypatch.setattr(pack_module, "write_tree", _raise(_PowerCut()))
    with pytest.raises(_PowerCut):
        pack(source, tmp_path / "out", options)
    monkeypatch.undo()
    records = tmp_path / ".out.partial" / "records"
    assert json.loads((records / "train-0.json").read_text())["split"] == "train"
    (records / "train-0.json").unlink()

    assert pack(source, tmp_path / "out", options).card == whole


def _raise(error: BaseException) -> Callable[..., object]:
    """A function that raises ``error`` whatever it is given."""

    def stand_in(*_: object, **__: object) -> object:
        raise error

    return stand_in
