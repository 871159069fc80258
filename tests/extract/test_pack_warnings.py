"""What will hurt is told when a folder is packed, in one list, before an extraction is spent."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from image_factories import encode, picture, with_orientation
from pack_factories import image_bytes, labels_of, read_members, write_image
from PIL import Image, ImageOps
from store_command import run_command

from linprobe.errors import ExtractError, PackError
from linprobe.names import image_formats
from linprobe.terminal import pack_hint
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.pixels.upright import turned
from linprobe_extract.shards.card import load_card
from linprobe_extract.shards.locate import plan_dataset

HEIC = b"\0\0\0\x18ftypheic" + bytes(60)


def packed_warnings(root: Path) -> list[str]:
    done = run_command("pack", f"imagefolder:{root}", "--out", root.with_name("out"), "--json")
    assert done.code == 0, done.err
    warnings: list[str] = json.loads(done.out)["warnings"]
    return warnings


def flowers(root: Path, per_class: int = 6) -> Path:
    """``root/photos/CLASS/i.jpg``; all images differ."""
    for c, name in enumerate(("daisy", "iris")):
        for i in range(per_class):
            write_image(root / "photos" / name / f"{i}.jpg", 100 * c + i)
    return root / "photos"


def test_a_clean_folder_is_packed_without_a_word(tmp_path: Path) -> None:
    assert packed_warnings(flowers(tmp_path)) == []


def test_all_that_will_hurt_is_one_list_and_packing_goes_on(tmp_path: Path) -> None:
    root = flowers(tmp_path)
    write_image(root / "stray.jpg", 900)
    write_image(root / "Iris" / "0.jpg", 901)
    write_image(root / "daisy" / "iris" / "0.jpg", 902)
    (root / "empty" / "deeper").mkdir(parents=True)
    (root / "rose").mkdir()
    (root / "rose" / "0.heic").write_bytes(HEIC)
    (root / "iris" / "broken.jpg").write_bytes(b"<html>404</html>")
    (root / "iris" / "notes.txt").write_text("x")
    (root / "iris" / "turned.jpg").write_bytes(with_orientation(picture(40, 30), 6))
    (root / "iris" / "same.jpg").write_bytes((root / "daisy" / "0.jpg").read_bytes())

    told = "\n".join(packed_warnings(root))

    for line in (
        "warning: left out, in no class folder: stray.jpg",
        "warning: no image in the folders of empty",
        "warning: named like another class, and taken for the one above: daisy/iris",
        "warning: classes that differ in capitals alone: Iris, iris",
        "warning: fewer than 5 images of Iris (1), rose (0)",
        "note: 1 images turned as their EXIF says",
        "iris/broken.jpg (not an image of a known format)",
        "rose/0.heic (HEIC, which needs an extra: ",
        "warning: 1 image has more than one label: ",
    ):
        assert line in told
    text = run_command("pack", f"imagefolder:{root}", "--out", root.with_name("out")).out
    assert "left aside what is no image: 1 .txt" in text
    again = packed_warnings(root)  # nothing to do, and told all the same
    assert "\n".join(again) == told


def test_a_copy_in_another_split_is_told_by_the_bytes(tmp_path: Path) -> None:
    root = flowers(tmp_path)
    for i in range(6):  # one of these lies in the other split than its twin
        write_image(root / "daisy" / f"copy{i}.jpg", i)

    assert any("across splits" in line for line in packed_warnings(root))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_photo_is_turned_as_its_exif_says(orientation: int) -> None:
    data = with_orientation(picture(48, 32), orientation)
    upright = turned(data)
    assert upright is not None

    with Image.open(io.BytesIO(data)) as image, Image.open(io.BytesIO(upright)) as ours:
        theirs = np.asarray(ImageOps.exif_transpose(image), dtype=float)
        assert ours.getexif().get(0x0112, 1) == 1
        assert np.abs(np.asarray(ours, dtype=float) - theirs).mean() < 1.5
    assert turned(upright) is None
    assert turned(data) == upright


def test_what_is_upright_damaged_or_no_image_keeps_its_bytes() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    png = encode(picture(20, 10), "PNG", exif=exif)
    rotated = with_orientation(picture(40, 30), 6)
    upright = turned(png)

    assert upright is not None
    with Image.open(io.BytesIO(upright)) as image, Image.open(io.BytesIO(png)) as before:
        assert image.format == "PNG"
        expected = np.asarray(ImageOps.exif_transpose(before))
        np.testing.assert_array_equal(np.asarray(image), expected)
    for data in (image_bytes(1), b"", b"no image", rotated[:400], encode(picture(9, 9), "GIF")):
        assert turned(data) is None


def test_packing_turns_photos_or_keeps_their_bytes_and_the_card_says_which(tmp_path: Path) -> None:
    root = flowers(tmp_path)
    rotated = with_orientation(picture(40, 30), 6)
    (root / "iris" / "turned.jpg").write_bytes(rotated)

    for name, upright, expected in (("a", None, turned(rotated)), ("b", False, rotated)):
        out = tmp_path / name
        pack(f"imagefolder:{root}", out, PackOptions(upright=upright))
        card = load_card(out)
        tars = (out / split / "0.tar" for split in ("train", "test"))
        members = dict(member for tar in tars for member in read_members(tar))

        assert card is not None
        assert (card.upright, card.rotated) == (upright is None, 1)
        assert next(data for key, data in members.items() if key.endswith("turned.jpg")) == expected
        assert plan_dataset(str(out)).upright is (True if upright is None else None)
    with pytest.raises(PackError, match="other options"):
        pack(f"imagefolder:{root}", tmp_path / "b", PackOptions())


def test_heic_is_read_with_the_extra(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    image_formats.cache_clear()
    root = flowers(tmp_path)
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(root / "iris" / "a.heic", "HEIF")

    assert packed_warnings(root) == []
    assert pack(f"imagefolder:{root}", tmp_path / "o2", PackOptions()).card.splits["train"].samples


def test_where_shards_were_expected_a_folder_of_images_gets_the_right_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flowers(tmp_path)
    monkeypatch.chdir(tmp_path)
    right = "linprobe pack imagefolder:photos --out data/photos"

    for words in (
        ("extract", "--model", "demo", "--data", "photos"),
        ("extract", "--model", "demo", "--shards", "train=photos"),
        ("pack", "photos", "--out", "x"),
    ):
        done = run_command(*words)
        assert done.code == 1
        assert right in done.err, words
    monkeypatch.setenv("LINPROBE_MAKE", ".venv/bin/linprobe")
    assert "make data DATA=imagefolder:photos" in pack_hint(Path("photos"))
    monkeypatch.delenv("LINPROBE_MAKE")
    done = run_command("pack", "imagefolder:photos", "--out", "data/photos")
    assert done.code == 0
    with pytest.raises(PackError, match="unknown source") as caught:
        pack("data/photos", Path("y"), PackOptions())
    assert "linprobe extract --model MODEL --data data/photos" in caught.value.hint
    (tmp_path / "data/raw").mkdir()
    (tmp_path / "photos").rename(tmp_path / "data/raw/photos")
    with pytest.raises(ExtractError, match="no shards") as told:
        plan_dataset("data/raw/photos")
    assert "--out data/photos" in told.value.hint
    (tmp_path / "data/raw/photos").rename(tmp_path / "data/images")
    assert "--out data/images-packed" in pack_hint(Path("data/images"))
    assert pack_hint(tmp_path / "data/photos") == pack_hint(tmp_path / "none") == ""


def test_a_try_is_limited_to_a_part_of_every_class_and_its_name_and_id_say_so(
    tmp_path: Path,
) -> None:
    root = flowers(tmp_path, per_class=30)
    source = f"imagefolder:{root}"

    whole = pack(source, tmp_path / "whole", PackOptions()).card
    part = pack(source, tmp_path / "part", PackOptions(limit=20)).card
    again = pack(source, tmp_path / "part", PackOptions(limit=20))
    more = pack(source, tmp_path / "more", PackOptions(limit=1000)).card

    assert (whole.name, part.name, more.name) == ("photos", "photos-limit-20", "photos")
    assert {name: split.samples for name, split in part.splits.items()} == {"train": 16, "test": 4}
    out = tmp_path / "part"
    labels = [label for split in part.splits for label in labels_of(out, split).values()]
    assert labels.count(b"0") == labels.count(b"1") == 10
    assert "for a try: at most 20 of 60 images, chosen by seed 0" in part.notes
    assert not again.is_new
    assert plan_dataset(str(tmp_path / "part")).name == "photos-limit-20"
    assert whole.splits["test"].shards != part.splits["test"].shards


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("pack photos.zip --out x", "unpack it into folders of classes first"),
        ("pack table.csv --out x", "linprobe pack csv:table.csv --out data/table"),
        ("pack imagefolder:photo --out x", "did you mean photos?"),
        ("pack imagefolder:photos/iris --out x", "where photos/iris is one class, pack the folder"),
        ("pack imagefolder:data/photos --out x", "extract --model MODEL --data data/photos"),
        ("extract --model demo --data table.csv", "linprobe pack csv:table.csv --out data/table"),
        ("extract --model demo --data data/phots", "did you mean data/photos?"),
        ("extract --model demo --data nothing", "'linprobe datasets' lists what is known"),
        ("extract --model demo --data cifar11", "did you mean cifar10"),
    ],
)
def test_what_a_newcomer_mistypes_gets_the_command_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, told: str
) -> None:
    flowers(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("photos.zip").write_bytes(b"PK")
    Path("table.csv").write_text("path,label\n")
    pack("imagefolder:photos", Path("data/photos"), PackOptions())

    done = run_command(*words.split())

    assert done.code == 1
    assert told in done.err
