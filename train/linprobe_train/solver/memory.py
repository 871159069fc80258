"""What a fit needs in memory, estimated before it starts."""

from dataclasses import dataclass

from linprobe.errors import OptionError
from linprobe.machine import memory_limit
from linprobe.terminal import human_bytes
from linprobe_train.solver.path import KEPT_LOGITS, PILOT_BYTES, SPAN_VALUES
from linprobe_train.solver.preconditioner import rank_for
from linprobe_train.solver.problem import PILOT_ROWS
from linprobe_train.solver.rows import BLOCK_ROWS
from linprobe_train.solver.surface import PAIRS

LOGIT_ARRAYS = KEPT_LOGITS + 6
"""Most (n, m) arrays: of kept solutions, of three lent by a search, and of a line."""

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class MemoryPlan:
    """Anonymous memory of one fit, in bytes."""

    resident: bool
    """Whether a float32 copy of all rows is kept."""
    logits: bool
    """Whether the logits of the solutions around, of all rows, are kept too."""
    total_bytes: int
    """Estimated peak."""
    limit_bytes: int
    """What may be used."""

    def text(self) -> str:
        """For a person."""
        how = "in memory" if self.resident else "streamed from disk"
        total, limit = human_bytes(self.total_bytes), human_bytes(self.limit_bytes)
        return f"memory: about {total} of {limit} allowed, rows {how}"


def plan_memory(
    n: int, d: int, m: int, *, threads: int, limit_bytes: int, value_bytes: int = 4
) -> MemoryPlan:
    """Choose what to keep of n rows, d features and m logit columns: rows, logits, both or none.

    ``value_bytes`` is the size of one prepared feature. OptionError : too little to stream.
    """
    sampled = min(n, PILOT_ROWS)
    pilot = (4 * d + 8 * m) * sampled
    span = min(PILOT_BYTES, 4 * 8 * m * sampled)
    pairs = 8 * PAIRS * m * (d + 1)
    metric = 4 * m * d * (rank_for(n, d, m) + 4)
    points = 8 * 8 * m * (d + 1)
    passes = 8 * m * (d + 1) + 4 * BLOCK_ROWS * (3 * d + 3 * m)
    starts = 12 * min(SPAN_VALUES, 11 * m * BLOCK_ROWS)
    blocks = (threads + 1) * max(passes, starts)
    state = pairs + metric + points + blocks + 24 * d * d
    whole, least = value_bytes * n * d + span + 8 * m * sampled + state, span + pilot + state
    if least > limit_bytes:
        needs = f"a probe of {m} x {d} weights needs about {human_bytes(least)} of memory"
        hint = f"--memory {human_bytes(1.1 * least).replace(' ', '')}"
        raise OptionError(f"{needs}; allowed are {human_bytes(limit_bytes)}", hint=hint)
    if whole > limit_bytes:
        return MemoryPlan(False, False, least, limit_bytes)
    fast = whole + LOGIT_ARRAYS * value_bytes * n * m
    if fast > limit_bytes:
        return MemoryPlan(True, False, whole, limit_bytes)
    return MemoryPlan(True, True, fast, limit_bytes)


def available_bytes() -> int:
    """Half of what this process may use; the rest is for the pages of the store."""
    return memory_limit() // 2


def parse_bytes(text: str) -> int:
    """Read a size such as ``4GB``, ``500M`` or ``800000000``; OptionError for anything else."""
    number = text.strip().upper().removesuffix("B")
    unit = number[-1:] if number[-1:] in UNITS else ""
    try:
        size = float(number.removesuffix(unit)) * UNITS[unit]
    except ValueError:
        size = 0
    if not 1 <= size < float("inf"):
        raise OptionError(f"--memory {text!r} is not a size", hint="for example --memory 4GB")
    return int(size)
