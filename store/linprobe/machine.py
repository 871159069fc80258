"""What this machine really has, and how a run divides it."""

import ctypes
import os
from pathlib import Path
from typing import Literal

Device = Literal["auto", "cuda", "cpu"]
"""Where an encoder runs; ``auto`` is CUDA where there is such a device."""

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_THRESHOLD = -3


def available_cores() -> int:
    """CPU cores that this process may use: its affinity and its cgroup quota, at least 1.

    Sources: sched_getaffinity(2); the kernel's cgroup v2 manual, "cpu.max".
    """
    try:
        n_cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        n_cores = os.cpu_count() or 1
    try:
        quota, period = _CGROUP_CPU_MAX.read_text().split()
    except (OSError, ValueError):
        return n_cores
    if quota == "max":
        return n_cores
    return max(1, min(n_cores, int(quota) // int(period)))


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
