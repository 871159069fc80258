"""Names: one way to read each."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from linprobe.errors import LinprobeError, MismatchError, OptionError
from linprobe.names import (
    check_class_names,
    first_few,
    image_formats,
    natural_key,
    parse_wholes,
    read_class_names,
    slugify,
    split_named,
)


def names_in(folder: Path, data: bytes) -> tuple[str, ...]:
    path = folder / "classnames.txt"
    path.write_bytes(data)
    return read_class_names(path, error=MismatchError)


@pytest.mark.parametrize(
    "data", [b"cat\ndog", b"cat\ndog\n", b"cat\r\ndog\r\n", b"\xef\xbb\xbfcat\ndog\n\n"]
)
def test_class_names_are_the_lines_without_marks_and_line_ends(tmp_path: Path, data: bytes) -> None:
    assert names_in(tmp_path, data) == ("cat", "dog")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"cat\n\ndog\n", "class name 2 of .* is blank"),
        (b"", "class name 1 of .* is blank"),
        (b"cat\rdog\r", "class name 1 of .* unprintable"),
        ("cat\ndog\n".encode("utf-16-le"), "class name 1 of .* unprintable"),
        ("e\u0301\n\u00e9\n".encode(), "occurs 2 times"),
        (b"cat\ndog\ncat\n", r"'cat' occurs 2 times in .* \(numbers 1, 3\)"),
        ("cat\nblåhaj\n".encode("latin-1"), "expected UTF-8, found .* at byte 6"),
        (b"cat\n\xef\xbb\xbfdog\n", "class name 2 of .* has an unprintable character"),
        (
            b"\n<!DOCTYPE html>\n<html><title>Sign in</title>",
            "expected one name a line, found a web",
        ),
    ],
)
def test_class_names_that_would_shift_or_confuse_are_refused(
    tmp_path: Path, data: bytes, says: str
) -> None:
    with pytest.raises(MismatchError, match=says) as caught:
        names_in(tmp_path, data)

    assert "classnames.txt" in caught.value.message


def test_no_file_of_class_names_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(LinprobeError, match=r"none\.txt: missing") as caught:
        read_class_names(tmp_path / "none.txt", error=OptionError)

    assert "one class name a line" in caught.value.hint


@given(st.lists(st.integers(0, 10_000)))
def test_natural_order_is_that_of_the_numbers(numbers: list[int]) -> None:
    names = [f"train-{number}.tar" for number in numbers]

    assert sorted(names, key=natural_key) == [f"train-{n}.tar" for n in sorted(numbers)]


def test_a_digit_that_is_no_number_is_a_character() -> None:
    assert sorted(["1²10.tar", "1²2.tar"], key=natural_key) == ["1²2.tar", "1²10.tar"]


def test_more_class_names_than_classes_may_be_are_refused_at_once() -> None:
    with pytest.raises(LinprobeError, match="1,000,001 class names, expected at most 1,000,000"):
        check_class_names(["a"] * 1_000_001, "c.txt", error=LinprobeError)


def test_the_first_few_names_say_how_many_follow() -> None:
    assert first_few("abc", limit=3) == "a, b, c"
    assert first_few("abcdefgh", limit=3) == "a, b, c and 5 more"
    assert first_few([]) == ""


@pytest.mark.parametrize(
    ("name", "split"),
    [("valid", "val"), ("validation", "val"), ("testing", "test"), ("", None)],
)  # fmt: skip
def test_people_call_the_splits_by_several_names(name: str, split: str | None) -> None:
    assert split_named(name) == split


@given(st.text())
def test_a_slug_is_a_file_name(text: str) -> None:
    slug = slugify(text)

    assert 1 <= len(slug) <= 40
    assert all(c.isascii() and (c.isalnum() or c == "-") for c in slug)
    assert slugify(slug) == slug


@pytest.mark.parametrize("text", ["", "0", "1,-2", "1,x", "1.5"])
def test_what_is_no_list_of_wholes_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--k"):
        parse_wholes("--k", text)


def test_wholes_are_sorted_and_each_is_there_once() -> None:
    assert parse_wholes("--k", "4, 1,4") == (1, 4)


def test_jpeg_xl_is_read_where_pillow_has_its_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = "from PIL import Image\nImage.register_open('JXL', Image.Image)\n"
    Image.init()
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    image_formats.cache_clear()
    assert "JXL" not in image_formats()

    (tmp_path / "pillow_jxl.py").write_text(plugin)
    monkeypatch.delitem(sys.modules, "pillow_jxl")
    monkeypatch.syspath_prepend(str(tmp_path))
    image_formats.cache_clear()
    assert "JXL" in image_formats()

    monkeypatch.undo()
    sys.modules.pop("pillow_jxl", None)
    image_formats.cache_clear()
