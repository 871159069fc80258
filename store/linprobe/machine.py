"""What this machine really has, and how a run divides it."""

import ctypes
import os
from pathlib import Path
from typing import Literal

from linprobe.errors import OptionError

Device = Literal["auto", "cuda", "cpu"]
"""Where an encoder runs; ``auto`` is CUDA where there is such a device."""
_CGROUP_MEMORY = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_THRESHOLD = -3


def available_cores() -> int:
    """CPU cores that this process may use: its affinity and its cgroup quota, at least 1.

    Source: joblib.cpu_count, which reads sched_getaffinity(2) and both versions of cgroups.
    """
    from joblib import cpu_count  # a fifth of a second, and most commands never ask

    return int(cpu_count())


def thread_count(threads: int | None) -> int:
    """Number of threads: all cores that this process may use where none is given.

    Raises
    ------
    OptionError : it is below 1.
    """
    if threads is not None and threads < 1:
        raise OptionError(f"--threads {threads}; expected at least 1", hint="--threads 1")
    return threads or available_cores()


def memory_limit() -> int:
    """Bytes of memory that this process may use: the machine's, or its cgroup's where less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _CGROUP_MEMORY:
        text = file.read_text().strip() if file.is_file() else "max"
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


def decode_threads(n_cores: int, n_local_ranks: int, *, on_cpu: bool) -> int:
    """Threads that decode: one on a CPU, where the encoder needs the cores; else all but one.

    Parameters
    ----------
    n_cores : cores this process may use.
    n_local_ranks : processes of this run on the machine, which share them.
    on_cpu : the encoder runs on the CPU.
    """
    return 1 if on_cpu else max(1, n_cores // max(1, n_local_ranks) - 1)


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed for the next forward pass; True where that worked.

    By default every large activation is mapped, faulted in page by page, and unmapped again: on
    a CPU half of the time of a convolutional tower. The process keeps its peak instead.
    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(mallopt(option, 1 << 30) == 1 for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
