"""What this machine really has, and how a run divides it."""

import ctypes
import math
import os
from pathlib import Path
from typing import Literal

from linprobe.errors import OptionError

Device = Literal["auto", "cuda", "cpu"]
"""Where an encoder runs; ``auto`` is CUDA where there is such a device."""
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUP_V1_MEMORY = _CGROUPS / "memory/memory.limit_in_bytes"
_M_TRIM_THRESHOLD = -1  # malloc.h
_M_MMAP_THRESHOLD = -3


def available_cores() -> int:
    """CPU cores that this process may use: its affinity and its cgroups' quotas, at least 1.

    Source: joblib.cpu_count, which reads sched_getaffinity(2) and the outermost cgroup of both
    versions; cgroups(7) for the cgroups of version 2 inside it, such as those of systemd.
    """
    from joblib import cpu_count  # a fifth of a second, and most commands never ask

    quotas = [limit.split() for limit in _cgroup_limits("cpu.max")]
    limits = [math.ceil(int(quota) / int(period)) for quota, period in quotas]
    return max(1, min([int(cpu_count()), *limits]))


def thread_count(threads: int | None) -> int:
    """Number of threads, by scikit-learn's rule for ``n_jobs``.

    Parameters
    ----------
    threads : how many; None and -1 for all cores that this process may use, -2 for all but one.

    Raises
    ------
    OptionError : it is 0.
    """
    if threads == 0:
        what = "0 threads; expected 1 or more, or -1 for all cores that this process may use"
        raise OptionError(what, hint="leave the number of threads out, or give 1")
    if threads is None or threads < 0:
        return max(1, available_cores() + 1 + (threads or -1))
    return threads


def memory_limit() -> int:
    """Bytes of memory that this process may use: the machine's, or its cgroup's where less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    if _CGROUP_V1_MEMORY.is_file():
        limits.append(int(_CGROUP_V1_MEMORY.read_text()))
    return min(limits + [int(limit) for limit in _cgroup_limits("memory.max")])


def _cgroup_limits(name: str) -> list[str]:
    """What this process' cgroup of version 2 and those around it say in a file, where not max."""
    lines = _OWN_CGROUP.read_text().splitlines() if _OWN_CGROUP.is_file() else []
    inner = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    files = [_CGROUPS / part / name for part in (inner, *map(str, Path(inner).parents))]
    texts = [file.read_text().strip() for file in dict.fromkeys(files) if file.is_file()]
    return [text for text in texts if not text.startswith("max")]


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
