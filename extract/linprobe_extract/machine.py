"""What this machine really has, and how a run divides it."""

import os
from pathlib import Path

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


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
