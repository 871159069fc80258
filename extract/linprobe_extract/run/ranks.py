"""Which process encodes which shard, and when it stops.

Alone: all of them, in order. Under torchrun: whoever is free takes the next one from a counter in
the c10d store, so that fast ranks do more; there are no collectives and nothing to hang on. Under
SLURM without torchrun: every n-th. A shard that a dead rank leaves is finished by the next run,
and a shard encoded twice is committed once.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from linprobe.errors import ExtractError
from linprobe.terminal import note

T = TypeVar("T")


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
    torchrun: bool
    """Started by torchrun, so that there is a c10d store to claim from."""


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
        return Ranks(0, 1, 0, 1, torchrun=False)
    hint = "start the processes with torchrun or srun, or unset these variables"
    for name in names:
        if not environment.get(name, "0").isdigit():
            fault = f"environment variable {name}={environment[name]!r} is not a number"
            raise ExtractError(fault, hint=hint)
    rank, world_size, local_rank, *local_size = (int(environment.get(n, "0")) for n in names)
    if rank >= world_size:
        raise ExtractError(f"{names[0]}={rank} is not below {names[1]}={world_size}", hint=hint)
    torchrun = names[0] == "RANK" and {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys()
    return Ranks(rank, world_size, local_rank, max([1, *local_size]), torchrun=torchrun)


@dataclass(frozen=True)
class Turns:
    """Shared counters of one run: who takes what, and who is last."""

    ranks: Ranks
    add: Callable[[str, int], int] | None
    """Atomically add to a named counter and give the new value; None without a shared store."""

    def claim(self, items: Sequence[T], round_name: str) -> Iterator[T]:
        """Yield the items that fall to this process; each item falls to one."""
        if self.add is None:
            yield from items[self.ranks.rank :: self.ranks.world_size]
            return
        while (index := self.add(f"{round_name}/next", 1) - 1) < len(items):
            yield items[index]

    def is_last(self, round_name: str) -> bool:
        """Tell whether all others have finished; without a shared store everyone may be last."""
        # Sealing twice is harmless.
        return self.add is None or self.add(f"{round_name}/done", 1) == self.ranks.world_size


class Claims(Iterable[T]):
    """What falls to this process, to be gone through again after a failure.

    A claim cannot be given back: each iteration begins with what was claimed before, whatever
    became of it, and then claims further.

    Parameters
    ----------
    claim : as :meth:`Turns.claim` gives it.
    """

    def __init__(self, claim: Iterator[T]) -> None:
        self._claim = claim
        self._claimed: list[T] = []

    def __iter__(self) -> Iterator[T]:
        yield from tuple(self._claimed)
        for item in self._claim:
            self._claimed.append(item)
            yield item


def open_turns(ranks: Ranks) -> Turns:
    """Connect to the counters of this run."""
    if not ranks.torchrun or ranks.world_size == 1:
        return Turns(ranks, None)
    # Imported here: planning and every error about arguments come without torch.
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(iter(rendezvous("env://")))
    # A restarted group of workers claims afresh: what the last one finished is committed.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Turns(ranks, PrefixStore(f"linprobe/{attempt}", store).add)


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
