"""What the machine has, as a process may use it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from linprobe import machine
from linprobe.errors import OptionError
from linprobe.machine import available_cores, memory_limit, thread_count


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_are_those_that_the_process_may_use() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from linprobe.machine import available_cores, thread_count\n"
        "print(available_cores(), thread_count(None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["1", "1"]
    assert available_cores() >= 1


def test_threads_are_counted_as_scikit_learn_counts_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 8)

    assert [thread_count(n) for n in (None, -1, -2, -7, -20, 3, 99)] == [8, 8, 7, 2, 1, 3, 99]
    with pytest.raises(OptionError, match="0 threads; expected 1 or more, or -1 for all cores"):
        thread_count(0)


def test_limits_of_the_cgroups_around_the_process_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, inner = tmp_path / "own", tmp_path / "groups/user/job"
    own.write_text("4:memory:/elsewhere\n0::/user/job\n")
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    (inner / "memory.max").write_text("1000000\n")
    (inner.parent / "memory.max").write_text("max\n")
    monkeypatch.setattr(machine, "_OWN_CGROUP", own)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)

    assert (available_cores(), memory_limit()) == (2, 1_000_000)


def test_memory_is_no_more_than_the_machine_has() -> None:
    assert 0 < memory_limit() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
