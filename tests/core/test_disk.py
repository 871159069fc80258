"""What is written shows whole or not at all, and what is taken away is gone at once."""

import os
import resource
import shutil
import signal
import socket
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from linprobe import disk
from linprobe.disk import (
    Staging,
    append_line,
    atomic_file,
    check_space,
    is_abandoned,
    make_folders,
    remove_unit,
    write_atomic,
)
from linprobe.errors import StoreError


def test_a_file_shows_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"

    with atomic_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")

    assert path.read_bytes() == b"half and half"
    assert list(tmp_path.iterdir()) == [path]


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


def test_a_removed_folder_is_never_made_again_by_what_is_written_into_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone: no such folder; it was removed meanwhile"):
        Staging(tmp_path / "gone")
    with pytest.raises(StoreError, match="gone"):
        write_atomic(tmp_path / "gone" / "file", b"1")
    with pytest.raises(StoreError, match="gone"):
        make_folders(tmp_path / "gone" / "sets" / "ds-x", below=tmp_path / "gone")
    with Staging(tmp_path) as staging:
        shutil.rmtree(staging.path)
        with pytest.raises(StoreError) as caught:
            staging.publish(tmp_path / "unit")
    assert "removed meanwhile" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_every_folder_made_is_on_the_disk_with_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(disk, "sync_path", synced.append)

    make_folders(tmp_path / "a" / "b" / "c")
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    make_folders(tmp_path / "a" / "b" / "d", below=tmp_path / "a")
    assert synced[3:] == [tmp_path / "a" / "b"]
    make_folders(tmp_path / "a" / "b")
    make_folders(tmp_path / "a" / "e", durable=False)

    assert len(synced) == 4
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert (tmp_path / "a" / "e").is_dir()


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(StoreError, match="file: Not a directory"):
            make_folders(path)
    with pytest.raises(StoreError, match="File name too long") as caught:
        make_folders(tmp_path / ("x" * 300))
    assert "shorter" in caught.value.hint


def staging_of(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir(exist_ok=True)
    return path


def test_a_staging_folder_tells_its_host_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host ``gpu`` knows that its own writers are gone; of others, the age tells."""
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu")
    own = staging_of(tmp_path, "tmp-gpu-123-0123456789ab")
    others = [
        staging_of(tmp_path, name)
        for name in (
            "tmp-gpu-2-123-0123456789ab",
            "tmp-gpu-x-123-0123456789ab",
            "tmp-gpu-1-0123456789ab.copy",
            "tmp-gpu-1-0123456789ab.pack",
            "tmp-elsewhere-1-abc",
        )
    ]
    day = {"min_age_s": 0.0, "foreign_age_s": 86_400.0}

    assert is_abandoned(own, **day)
    assert not any(is_abandoned(path, **day) for path in others)
    assert all(is_abandoned(path, min_age_s=0, foreign_age_s=0) for path in others)
    with Staging(tmp_path) as living, Staging(tmp_path, resume_as="x.copy") as kept:
        assert living.path.name.startswith("tmp-gpu-")
        for path in (living.path, kept.path):
            assert not is_abandoned(path, min_age_s=0, foreign_age_s=0)
    with pytest.raises(ValueError, match="host"):
        Staging(tmp_path, resume_as="copy-1-0123456789ab")


def test_a_kept_folder_that_is_gone_on_with_is_no_left_over(tmp_path: Path) -> None:
    kept = staging_of(tmp_path, "tmp-x.copy")
    os.utime(kept, (0, 0))
    assert is_abandoned(kept, min_age_s=60, foreign_age_s=60)

    with Staging(tmp_path, resume_as="x.copy"):
        assert not is_abandoned(kept, min_age_s=60, foreign_age_s=60)


def test_files_that_vanish_while_a_folder_is_looked_at_are_passed_over(tmp_path: Path) -> None:
    staging = staging_of(tmp_path, "tmp-elsewhere-1-0123456789ab")
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for i in range(50):
                (staging / f"{i}").mkdir()
                (staging / f"{i}" / "file").touch()
            for i in range(50):
                shutil.rmtree(staging / f"{i}")

    writer = threading.Thread(target=churn)
    writer.start()
    try:
        for _ in range(300):
            assert not is_abandoned(staging, min_age_s=3600, foreign_age_s=3600)
    finally:
        stop.set()
        writer.join()
    assert not is_abandoned(tmp_path / "tmp-published", min_age_s=0, foreign_age_s=0)


def test_a_disk_with_too_little_room_is_refused_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_space(tmp_path / "not" / "there", 1)
    with pytest.raises(StoreError, match=r"there: needs 1,000,000,000.0 MB of the disk, .* free"):
        check_space(tmp_path / "not" / "there", 10**15)

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 0))
    check_space(tmp_path, 10**15)  # a file system that does not tell


def test_a_line_is_appended_whole_and_durably(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def spy(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", spy)
    path = tmp_path / "lines"

    append_line(path, b"1")
    assert synced == [str(path), str(tmp_path)]
    append_line(path, b"2", durable=False)
    assert len(synced) == 2
    with path.open("ab") as file:
        file.write(b"cut")
    append_line(path, b"3")

    assert path.read_bytes() == b"1\n2\ncut\n3\n"


def test_a_line_that_does_not_fit_is_told_and_ended_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        append_line(path, b"12345")
        for _ in range(2):
            with pytest.raises(StoreError):
                append_line(path, b"6789012345")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    append_line(path, b"7")

    assert path.read_bytes() == b"12345\n6789\n7\n"


def test_a_line_is_not_appended_through_a_link_nor_to_a_fifo(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        with pytest.raises(StoreError, match=name):
            append_line(tmp_path / name, b"1")
    assert not (tmp_path / "victim").exists()
