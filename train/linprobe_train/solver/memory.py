"""What a fit needs in memory, known before it starts: the sum of what every module says it takes.

Bounds, not estimates: what is kept, and whether rows are copied at all, follows from them.
"""

from dataclasses import dataclass

from linprobe.errors import OptionError
from linprobe.machine import memory_limit
from linprobe.terminal import human_bytes
from linprobe_train.solver.lbfgs import descent_bytes
from linprobe_train.solver.passes import pass_bytes
from linprobe_train.solver.path import (
    BASIS,
    KEPT_LOGITS,
    logits_bytes,
    points_bytes,
    start_bytes,
)
from linprobe_train.solver.preconditioner import build_bytes, metric_bytes
from linprobe_train.solver.problem import Sizes, rows_bytes, setup_bytes
from linprobe_train.solver.surface import pairs_bytes

SLACK_BYTES, SLACK_BYTES_OF_THREAD = 4 * 2**20, 4 * 2**20
"""What the allocator does not give back at once, and the buffers of BLAS."""

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class MemoryPlan:
    """Anonymous memory of one fit, in bytes."""

    resident: bool
    """Whether a float32 copy of all rows is kept."""
    logits: int
    """Of how many solutions the logits of all rows are kept; 0 where lengths cost passes."""
    total_bytes: int
    """Most that is taken."""
    limit_bytes: int
    """What may be used."""

    def text(self) -> str:
        """For a person."""
        how = "in memory" if self.resident else "streamed from disk"
        total, limit = human_bytes(self.total_bytes), human_bytes(self.limit_bytes)
        return f"memory: at most {total} of {limit} allowed, rows {how}"


def plan_memory(sizes: Sizes, limit_bytes: int) -> MemoryPlan:
    """Choose what to keep: rows and logits, rows, or neither; OptionError: too little to stream."""
    plans = [(True, kept) for kept in range(KEPT_LOGITS, BASIS, -1)] + [(True, 0), (False, 0)]
    for resident, kept in plans:
        total = bytes_of(sizes, resident=resident, kept_logits=kept)
        if total <= limit_bytes:
            return MemoryPlan(resident, kept, total, limit_bytes)
    needs = f"a probe of {sizes.m} x {sizes.d} weights needs {human_bytes(total)} of memory"
    hint = f"--memory {human_bytes(1.1 * total).replace(' ', '')}"
    raise OptionError(f"{needs}; allowed are {human_bytes(limit_bytes)}", hint=hint)


def bytes_of(sizes: Sizes, *, resident: bool, kept_logits: int) -> int:
    """Most anonymous memory of a fit that keeps this, from the first row read to the probe."""
    slack = SLACK_BYTES + SLACK_BYTES_OF_THREAD * sizes.threads
    kept = points_bytes(sizes) + pairs_bytes(sizes) + metric_bytes(sizes) + descent_bytes(sizes)
    # In float64 rows are streamed beside the copy, with pilot rows in the place of the logits.
    kept += max(logits_bytes(sizes, kept_logits), 4 * sizes.pilot if resident else 0)
    passing = max(pass_bytes(sizes), build_bytes(sizes), start_bytes(sizes))
    fitting = rows_bytes(sizes, resident=resident) + kept + passing
    return slack + max(setup_bytes(sizes) + pass_bytes(sizes), fitting)


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
