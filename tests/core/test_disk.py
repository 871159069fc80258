"""What is written shows whole or not at all, and what is taken away is gone at once."""

from pathlib import Path

import pytest

from linprobe.disk import Staging, atomic_file, remove_unit
from linprobe.errors import StoreError


def test_a_file_shows_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"

    with atomic_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")

    assert path.read_bytes() == b"half and half"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_not_finished_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"earlier")

    def fill_the_disk() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        fill_the_disk()

    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_staging_takes_goes_with_it(tmp_path: Path) -> None:
    unit = tmp_path / "unit"
    unit.mkdir()
    (unit / "file").write_bytes(b"1")

    with Staging(tmp_path) as staging:
        staging.take(unit)
        assert not unit.exists()
        assert (staging.path / "unit" / "file").read_bytes() == b"1"

    assert not list(tmp_path.iterdir())


def test_a_removed_unit_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "unit" / "deep").mkdir(parents=True)

    remove_unit(tmp_path / "unit")

    assert not list(tmp_path.iterdir())
    with pytest.raises(StoreError, match="No such file"):
        remove_unit(tmp_path / "unit")
