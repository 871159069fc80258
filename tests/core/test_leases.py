"""Who does what, in a folder that several processes see."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from linprobe.errors import StoreError
from linprobe.leases import LEASES_FOLDER, Holder, Leases, Pace, Sighting, is_stale, seen_again
from linprobe.records import canonical_json, plain

HOLDER = Holder("gpu-2", "another kernel", 7, has_lock=True, beat=3)
IMPATIENT = Pace(patience_s=0.0)


def sighting(holder: Holder, since: float, number: int = 0) -> Sighting:
    return Sighting(number, canonical_json(plain(holder)), since, is_free=False)


@pytest.mark.parametrize(
    ("after", "since"),
    [
        (sighting(HOLDER, 130.0), 100.0),
        (sighting(replace(HOLDER, beat=4), 130.0), 130.0),
        (sighting(HOLDER, 130.0, number=1), 130.0),
        (Sighting(0, b"", 130.0, is_free=False), 130.0),
    ],
)
def test_a_lease_is_silent_since_its_content_was_first_seen(after: Sighting, since: float) -> None:
    before = sighting(HOLDER, 100.0)

    assert seen_again(None, after).since == 130.0
    assert seen_again(before, after) == replace(after, since=since)


@pytest.mark.parametrize(
    ("seen", "now", "expected"),
    [
        (sighting(HOLDER, 100.0), 219.9, False),
        (sighting(HOLDER, 100.0), 220.0, True),
        (Sighting(0, b"no lease", 100.0, is_free=False), 219.9, False),
        (Sighting(0, b"no lease", 100.0, is_free=False), 220.0, True),
        (replace(sighting(HOLDER, 100.0), is_free=True), 100.0, True),
    ],
)
def test_who_is_silent_for_too_long_is_gone_and_whose_lock_is_free_is_gone_at_once(
    seen: Sighting, now: float, expected: bool
) -> None:
    assert is_stale(seen, now, patience_s=120.0) is expected


def test_a_lease_is_one_holders_until_it_is_given_back(tmp_path: Path) -> None:
    with Leases(tmp_path) as mine, Leases(tmp_path) as other:
        assert mine.take("a")
        assert not mine.take("a")
        assert not other.take("a")
        other.look()
        assert not other.take("a")
        assert other.take("b")
        assert list(mine.look()) == ["b"]

        mine.release("a")
        other.look()
        assert other.take("a")

    assert list(tmp_path.iterdir()) == []


def test_of_those_who_see_a_silent_holder_one_follows_and_the_first_gives_nothing_of_it_back(
    tmp_path: Path,
) -> None:
    with Leases(tmp_path) as silent, Leases(tmp_path, IMPATIENT) as a, Leases(tmp_path) as b:
        assert silent.take("x")
        a.look(), b.look()
        assert not b.take("x")  # it is more patient
        b.pace = IMPATIENT
        assert (a.take("x"), b.take("x")) == (True, False)

        silent.release("x")

        assert list(b.look()) == ["x"]
        assert b.seen["x"].number == 1


def test_who_was_taken_for_gone_long_ago_does_not_follow_twice(tmp_path: Path) -> None:
    """The third one holds number 2, and number 1 is free again when the late one makes it."""
    with Leases(tmp_path) as first, Leases(tmp_path, IMPATIENT) as second:
        first.take("x")
        with Leases(tmp_path, IMPATIENT) as late, Leases(tmp_path, IMPATIENT) as third:
            late.look(), second.look()
            assert second.take("x")
            third.look()
            assert third.take("x")

            assert not late.take("x")
            assert late.look()["x"].number == 2


def test_clocks_of_machines_are_not_compared(tmp_path: Path) -> None:
    with Leases(tmp_path) as mine, Leases(tmp_path) as other:
        mine.take("a")
        (file,) = (tmp_path / LEASES_FOLDER).iterdir()
        for stamp in (0, 4e9):
            os.utime(file, (stamp, stamp))
            other.look()
            assert not other.is_stale("a")


def test_a_lease_tells_who_holds_it_that_it_lives_and_that_its_work_failed(tmp_path: Path) -> None:
    with Leases(tmp_path, Pace(beat_s=0.01)) as mine, Leases(tmp_path) as other:
        mine.take("a")
        first = other.look()["a"]
        while other.look()["a"].content == first.content:
            assert first.since == other.seen["a"].since
        assert other.seen["a"].since > first.since
        mine.fail("a")
        holder = other.look()["a"].holder

    assert holder is not None
    assert (holder.pid, holder.has_failed) == (os.getpid(), True)


@pytest.mark.parametrize(
    ("function", "number"),
    [("open", errno.EROFS), ("open", errno.EACCES), ("pwrite", errno.ENOSPC)],
)
def test_a_folder_that_takes_no_lease_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with Leases(tmp_path) as leases:
        monkeypatch.setattr(f"linprobe.leases.os.{function}", refuse)
        with pytest.raises(StoreError, match=os.strerror(number)) as caught:
            leases.take("a")
        monkeypatch.undo()

        assert caught.value.hint
        assert leases.take("a")


def test_leases_are_not_made_through_a_link_or_in_a_folder_that_was_removed(
    tmp_path: Path,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / LEASES_FOLDER).symlink_to(tmp_path / "elsewhere")

    with Leases(tmp_path) as leases, pytest.raises(StoreError, match="is a link"):
        leases.take("a")
    with Leases(tmp_path / "gone") as leases, pytest.raises(StoreError, match="No such file"):
        leases.take("a")
    assert not (tmp_path / "gone").exists()


def test_the_lease_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from linprobe.leases import Leases\n"
        "with Leases(Path(sys.argv[1])) as leases: leases.take('a'); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Leases(tmp_path) as other:
            process.send_signal(signal.SIGSTOP)
            other.look()
            assert not other.take("a")
            process.kill()
            process.wait()
            other.look()
            assert other.take("a")
