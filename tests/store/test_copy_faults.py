"""A killed or starved copy, packing, unpacking, import or export is finished by the next run.

Coarse steps here; ``tests/bench/show_full_disk.py`` takes every one.
"""

import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parents[1] / "factories" / "copy_faults.py"


def drive(how: str, step: int, *names: str) -> dict[str, int]:
    """How many faults were tried, by command; fails where one had a wrong outcome."""
    command = [sys.executable, str(DRIVER), how, str(step), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # our own script
    assert done.returncode == 0, done.stderr
    if "no right" in done.stdout:
        pytest.skip("needs the right to mount a tmpfs")
    return {name: int(n) for name, n in (line.split(": ") for line in done.stdout.splitlines())}


def test_what_was_killed_is_finished_by_the_next_run() -> None:
    counts = drive("kill", 41)

    assert set(counts) == {"copy", "copy --pack", "unpack", "import", "export"}
    assert all(counts.values())


def test_a_full_disk_is_told_and_space_lets_the_same_command_finish() -> None:
    counts = drive("disk", 200_000)

    assert set(counts) == {"copy", "copy --pack", "unpack", "import", "export"}
    assert all(counts.values())
