"""A place behaves the same, whether it is a folder of this machine or lies behind a URL."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from linprobe.errors import NotFoundError, StoreError
from linprobe_store.care.place import Place


@pytest.fixture(params=["folder", "file://", "memory://"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place where nothing is yet; a local one is made by whoever writes into it."""
    if request.param == "memory://":
        yield Place(f"memory://{tmp_path.name}/store")
        fsspec.filesystem("memory").store.clear()
    else:
        (tmp_path / "store").mkdir()
        prefix = "" if request.param == "folder" else "file://"
        yield Place(f"{prefix}{tmp_path}/store")


class TestPlace:
    """What a copy relies on."""

    def test_nothing_is_there_at_first(self, place: Place) -> None:
        assert place.folders("") == ()
        assert place.folders("a/b") == ()
        assert place.size("a") is None
        with pytest.raises(NotFoundError, match="store/a: missing"):
            place.read("a")

    def test_what_is_written_is_read_and_its_folder_is_made(self, place: Place) -> None:
        place.write("a/b/c.json", b"12345")

        assert place.size("a/b/c.json") == 5
        assert place.read("a/b/c.json") == b"12345"
        with place.open_read("a/b/c.json") as stream:
            assert stream.read(2) == b"12"

    def test_writing_again_replaces(self, place: Place) -> None:
        place.write("a", b"12345")
        place.write("a", b"67")

        assert (place.size("a"), place.read("a")) == (2, b"67")

    def test_folders_are_listed_by_name_in_order_and_files_are_none(self, place: Place) -> None:
        for name in ("b/x", "a/y", "a/deep/z", "file"):
            place.write(name, b"")

        assert place.folders("") == ("a", "b")
        assert place.folders("a") == ("deep",)
        assert place.folders("file") == ()
        assert place.size("a") is None

    def test_a_folder_made_since_the_last_look_is_listed(self, place: Place) -> None:
        place.write("a/x", b"")
        assert place.folders("") == ("a",)

        place.write("b/x", b"")

        assert place.folders("") == ("a", "b")


def test_a_url_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(StoreError, match="nosuch") as caught:
        Place("nosuch://bucket")
    assert "driver" in caught.value.hint


def test_odd_characters_in_a_local_path_are_only_characters(tmp_path: Path) -> None:
    for name in ("a::b", "memory:x", "~", "star*"):
        (tmp_path / name).mkdir()
        Place(str(tmp_path / name)).write("FORMAT", b"x")

        assert (tmp_path / name / "FORMAT").read_bytes() == b"x"
