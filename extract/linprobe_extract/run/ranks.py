"""Which of several processes this one is, and when it stops.

torchrun and srun say which GPU and cores are this process' own; who does what is decided by leases
(:mod:`linprobe_extract.run.claims`), whatever has started the processes.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from linprobe.errors import ExtractError
from linprobe.terminal import note


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those of one run."""

    rank: int
    """0-based, below ``world_size``."""
    world_size: int
    """Processes of the run."""
    local_rank: int
    """0-based among the processes of this machine: its GPU."""
    local_world_size: int
    """Processes of this machine that share the cores each of them may use: 1 under SLURM, whose
    tasks have cores of their own (their affinity)."""


def ranks_from_environment(environment: Mapping[str, str] = os.environ) -> Ranks:
    """Read torchrun's variables, else those of a step of srun, else be alone.

    Sources: the torchrun manual, "Environment Variables"; the srun manual, "OUTPUT ENVIRONMENT
    VARIABLES".

    Raises
    ------
    ExtractError : a variable is not a number, or the rank is not below the world size.
    """
    names: tuple[str, ...]
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    elif "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    else:
        return Ranks(0, 1, 0, 1)
    hint = "start the processes with torchrun or srun, or unset these variables"
    for name in names:
        if not environment.get(name, "0").isdigit():
            fault = f"environment variable {name}={environment[name]!r} is not a number"
            raise ExtractError(fault, hint=hint)
    rank, world_size, local_rank, *local_size = (int(environment.get(n, "0")) for n in names)
    if rank >= world_size:
        raise ExtractError(f"{names[0]}={rank} is not below {names[1]}={world_size}", hint=hint)
    return Ranks(rank, world_size, local_rank, max([1, *local_size]))


class Stop(threading.Event):
    """Set when a run is asked to stop."""

    exit_code = 0
    """128 + the number of the signal that set it, as shells have it, or 0."""


@contextmanager
def stop_on_signals(after: str) -> Iterator[Stop]:
    """Turn the first SIGINT or SIGTERM into a wish to stop; the second one stops at once.

    ``after`` tells a person what is finished first.
    """
    stop = Stop()

    def restore() -> None:
        for number, previous in before.items():
            signal.signal(number, previous)

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.exit_code = 128 + number
        stop.set()
        restore()
        note(f"stopping after {after}; once more stops at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        restore()
