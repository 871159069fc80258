"""What a fit needs in memory, estimated before it starts."""

from dataclasses import dataclass

from linprobe.errors import OptionError
from linprobe.machine import memory_limit
from linprobe.terminal import human_bytes
from linprobe_train.solver.lbfgs import DEFAULT_PAIRS
from linprobe_train.solver.preconditioner import rank_for
from linprobe_train.solver.problem import PILOT_ROWS
from linprobe_train.solver.rows import BLOCK_ROWS

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class MemoryPlan:
    """Anonymous memory of one fit, in bytes."""

    resident: bool
    """Whether a float32 copy of all rows is kept."""
    rows_bytes: int
    """The copy, or the sample of rows kept when streaming."""
    state_bytes: int
    """Metric, L-BFGS pairs, points and gradients: grows with classes and dimension, not rows."""
    limit_bytes: int
    """What may be used."""

    @property
    def total_bytes(self) -> int:
        """Estimated peak."""
        return self.rows_bytes + self.state_bytes

    def text(self) -> str:
        """For a person."""
        how = "rows in memory" if self.resident else "rows streamed from disk"
        return (
            f"memory: about {human_bytes(self.total_bytes)} of {human_bytes(self.limit_bytes)} "
            f"allowed, {how}"
        )


def plan_memory(
    n: int, d: int, m: int, *, threads: int, limit_bytes: int, value_bytes: int = 4
) -> MemoryPlan:
    """Choose between a resident copy and streaming for n rows, d features and m logit columns.

    ``value_bytes`` is the size of one prepared feature.

    Raises
    ------
    OptionError : not even streaming fits into ``limit_bytes``.
    """
    pilot = 4 * d * min(n, PILOT_ROWS) + 8 * m * min(n, PILOT_ROWS)
    pairs = 8 * DEFAULT_PAIRS * m * (d + 1)
    metric = 4 * m * d * (rank_for(n, d, m) + 4)
    points = 8 * 8 * m * (d + 1)
    blocks = (threads + 1) * (8 * m * (d + 1) + 4 * BLOCK_ROWS * (3 * d + 3 * m))
    state = pairs + metric + points + blocks + 24 * d * d
    copy = value_bytes * n * d + (8 * m * min(n, PILOT_ROWS) if n > PILOT_ROWS else 8 * m * n)
    if copy + state <= limit_bytes:
        return MemoryPlan(True, copy, state, limit_bytes)
    if pilot + state > limit_bytes:
        raise OptionError(
            f"a probe of {m} x {d} weights needs about {human_bytes(pilot + state)} of memory; "
            f"allowed are {human_bytes(limit_bytes)}",
            hint=f"--memory {human_bytes(1.1 * (pilot + state)).replace(' ', '')}",
        )
    return MemoryPlan(False, pilot, state, limit_bytes)


def available_bytes() -> int:
    """Half of what this process may use; the rest is for the pages of the store."""
    return memory_limit() // 2


def parse_bytes(text: str) -> int:
    """Read a size such as ``4GB``, ``500M`` or ``800000000``.

    Raises
    ------
    OptionError : not a positive size.
    """
    number = text.strip().upper().removesuffix("B")
    unit = number[-1:] if number[-1:] in UNITS and number[-1:] else ""
    try:
        size = float(number.removesuffix(unit)) * UNITS[unit]
    except ValueError:
        size = 0
    if not 1 <= size < float("inf"):
        raise OptionError(f"--memory {text!r} is not a size", hint="for example --memory 4GB")
    return int(size)
