"""Kills and full disks for everything that writes a store or an export, each run in a fork.

``python copy_faults.py kill|disk STEP COMMAND...`` prints how many were tried for every command;
STEP is in events of the file system, or in bytes. A wrong outcome is a traceback and exit code 1.
"""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import zarr  # noqa: F401 - here, so that not every fork imports it anew
from store_factories import encoder_of, encoder_spec, sealed_split

from linprobe.errors import LinprobeError
from linprobe_store.care import copy, remove
from linprobe_store.care.copy import copy_store
from linprobe_store.care.export import export_split
from linprobe_store.care.importing import import_files
from linprobe_store.care.verify import verify_store
from linprobe_store.format.spec import DatasetNames
from linprobe_store.handles.store import FeatureStore

EVENTS = frozenset(
    f"os.{name}" for name in ("mkdir", "rename", "remove", "rmdir", "link", "symlink", "truncate")
)
LEFT = re.compile(r"(^|/)(tmp-|\.[A-Za-z.]+\.[0-9a-f]{12}$)")
Command = Callable[[Path], object]


def make_inputs(folder: Path) -> dict[str, Command]:
    """What is copied, unpacked, imported and exported, by command; each takes its target."""
    split, _ = sealed_split(folder / "source", (3000, 500), encoder_spec(24, 9))
    encoder_of(split).check_canary({"embedding": np.ones((2, 24), "f2")})
    forked(lambda: [*copy_store(f"{folder}/source", f"{folder}/packed", pack=True)])
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((3000, 24)), rng.integers(0, 3, 3000)
    np.savez(folder / "rows.npz", features=rows, labels=labels)

    def copied(source: str, target: Path, *, pack: bool) -> None:
        list(copy_store(f"{folder}/{source}", str(target), pack=pack))

    def imported(target: Path) -> None:
        store, names = FeatureStore(target), DatasetNames("d")
        remove.remove_leftovers(remove.find_leftovers(store, min_age_s=0.0))  # as "store gc" does
        import_files(store, [f"train={folder}/rows.npz"], "e", names)

    def exported(target: Path) -> None:
        for path in target.glob("x.*"):  # of a kill between the two: refused by name
            path.unlink()
        export_split(FeatureStore(folder / "source").split("train"), "embedding", target / "x.npy")

    return {
        "copy": partial(copied, "source", pack=False),
        "copy --pack": partial(copied, "source", pack=True),
        "unpack": partial(copied, "packed", pack=False),
        "import": imported,
        "export": exported,
    }


def forked(action: Callable[[], object], kill_at: float = math.inf) -> int:
    """Run in a child, killed before its so-manieth event; gives its exit code or minus a signal."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    n_events = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal n_events
        is_write = event == "open" and bool(int(str(arguments[2] or 0)) & (os.O_WRONLY | os.O_RDWR))
        if event in EVENTS or is_write:
            n_events += 1
            if n_events == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    code = 1
    try:
        action()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def tree(target: Path) -> dict[str, bytes]:
    """Every file, by its path; fails where a temporary one is left."""
    paths = (path for path in target.rglob("*") if not path.is_dir() and not path.is_symlink())
    names = {path.relative_to(target).as_posix(): path for path in paths}
    left = [name for name in names if LEFT.search(name) and not name.startswith(".FORMAT.")]
    assert not left, left
    kept = {name: path for name, path in names.items() if not name.startswith(".FORMAT.")}
    return {name: path.read_bytes() for name, path in kept.items()}


def finish(command: Command, target: Path, expected: dict[str, bytes]) -> None:
    """What shows is sound; then the same command gives what an undisturbed one gives."""
    # In life a left-over has to be ten seconds old.
    copy.find_leftovers = lambda store, **_: remove.find_leftovers(  # type: ignore[attr-defined]
        store, min_age_s=0.0
    )
    if (target / "FORMAT").exists():
        problems = [unit.problem for unit in verify_store(FeatureStore(target), deep=True)]
        assert not any(problems), problems
    command(target)
    assert tree(target) == expected


def refuse(command: Command, target: Path) -> None:
    """The command is done, or tells in its own words that the disk is full."""
    # Another process takes the space while it works; asked before, it would not even begin.
    shutil.disk_usage = lambda _: _Unknown()  # type: ignore[assignment, return-value]
    try:
        command(target)
    except LinprobeError as error:
        assert "No space left" in error.message, error.message  # noqa: PT017


class _Unknown:
    """Usage of a file system that does not tell."""

    total = 0
    free = 0


def undisturbed(command: Command, target: Path) -> dict[str, bytes]:
    """What a command gives."""
    target.mkdir()
    assert forked(lambda: command(target)) == 0
    expected = tree(target)
    shutil.rmtree(target)
    return expected


def kill(command: Command, work: Path, step: int) -> int:
    """Kill it before every so-manieth event; gives the number of kills."""
    target = work / "target"
    expected = undisturbed(command, target)
    kills = 0
    while True:
        target.mkdir()
        code = forked(lambda: command(target), kill_at=1 + kills * step)
        if code != -signal.SIGKILL:
            assert code == 0
            shutil.rmtree(target)
            return kills
        assert forked(lambda: finish(command, target, expected)) == 0, f"kill {kills * step}"
        shutil.rmtree(target)
        kills += 1


def fill(command: Command, work: Path, step: int) -> int:
    """Leave a disk so many bytes more each time; gives how often it was full."""
    target, ballast = work / "target", work / "ballast"
    expected = undisturbed(command, target)
    fulls, free = 0, 0
    while True:
        status = os.statvfs(work)
        ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - free))
        target.mkdir()
        code = forked(lambda: refuse(command, target))
        assert code == 0, f"{free} bytes free"
        ballast.unlink()
        try:
            is_done = tree(target) == expected
        except AssertionError:  # what is kept to be resumed
            is_done = False
        assert forked(lambda: finish(command, target, expected)) == 0, f"{free} bytes free"
        shutil.rmtree(target)
        if is_done:
            return fulls
        fulls, free = fulls + 1, free + step


def main(how: str, step: int, *names: str) -> None:
    """Run; see above."""
    with tempfile.TemporaryDirectory(prefix="copy-faults-") as folder:
        (work := Path(folder, "work")).mkdir()
        commands = make_inputs(Path(folder))
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(work)]
        if how == "disk" and subprocess.run(mount, capture_output=True, check=False).returncode:
            print("no right to mount a tmpfs")  # noqa: T201
            return
        try:
            for name in names or commands:
                count = (fill if how == "disk" else kill)(commands[name], work, step)
                print(f"{name}: {count}", flush=True)  # noqa: T201
        finally:
            if how == "disk":
                subprocess.run(["umount", str(work)], check=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
