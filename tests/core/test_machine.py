"""What the machine has, as a process may use it."""

import os
import subprocess
import sys

import pytest

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


def test_a_number_of_threads_is_at_least_one() -> None:
    assert thread_count(3) == 3
    with pytest.raises(OptionError, match="--threads 0"):
        thread_count(0)


def test_memory_is_no_more_than_the_machine_has() -> None:
    assert 0 < memory_limit() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
