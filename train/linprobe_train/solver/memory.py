"""What a fit needs in memory, known before it starts: the sum of what every module says it takes.

Bounds, not estimates: what is kept, and whether rows are copied at all, follows from them.
"""

from dataclasses import dataclass, replace

from linprobe.errors import OptionError
from linprobe.machine import memory_limit
from linprobe.terminal import human_bytes
from linprobe_train.solver.lbfgs import descent_bytes
from linprobe_train.solver.losses import PILOT_BYTES, SPAN_ARRAYS, SPAN_VALUES
from linprobe_train.solver.passes import pass_bytes
from linprobe_train.solver.path import BASIS, KEPT_LOGITS, LENT
from linprobe_train.solver.preconditioner import build_bytes, metric_bytes
from linprobe_train.solver.problem import READ_BYTES, Sizes, rows_bytes, setup_bytes
from linprobe_train.solver.surface import pairs_bytes

SLACK_BYTES, SLACK_BYTES_OF_THREAD = 4 * 2**20, 4 * 2**20
"""What the allocator does not give back at once, and the buffers of BLAS."""

SOLUTION_BYTES = 16
"""Of an entry of V: itself, and its gradient."""

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
    threads: int = 1
    """As many as were asked for, or as there is room for: what is kept, of which bits are a matter,
    is chosen as for one."""


def points_bytes(sizes: Sizes) -> int:
    """Of solutions with their gradients: those of a start, and those lent.

    Others that were asked for take :data:`SOLUTION_BYTES` an entry: whoever asks counts them.
    """
    return SOLUTION_BYTES * (KEPT_LOGITS + LENT) * sizes.place


def logits_bytes(sizes: Sizes, kept: int) -> int:
    """Of logits of all rows: of solutions and those lent; of a line its slope and its residual."""
    return (kept + LENT + 2) * sizes.value * sizes.n * sizes.m if kept else 0


def start_bytes(sizes: Sizes) -> int:
    """Of :func:`least_of_span`: blocks of logits, and of pilot rows where they are asked."""
    span = SPAN_ARRAYS * sizes.value * min(SPAN_VALUES, (BASIS + LENT) * sizes.logits)
    pilot = min(PILOT_BYTES, 4 * (BASIS + LENT) * sizes.m * sizes.pilot // sizes.d)
    places = (4 * sizes.threads + 16) * sizes.place
    return sizes.threads * (span + READ_BYTES * sizes.block) + places + pilot


def plan_memory(
    sizes: Sizes,
    limit_bytes: int,
    *,
    trainers: int = 1,
    beside_bytes: int = 0,
    streamed: bool = False,
) -> MemoryPlan:
    """Choose what each of some trainers keeps: rows and logits, rows, or, ``streamed``, neither.

    ``beside_bytes`` are others'. ``OptionError``: too little to stream.
    """
    working = beside_bytes + working_bytes(replace(sizes, threads=1))
    plans = [(True, kept) for kept in range(KEPT_LOGITS, BASIS, -1)] + [(True, 0)]
    for resident, logits in [*([] if streamed else plans), (False, 0)]:
        total = working + trainers * kept_bytes(sizes, resident=resident, logits=logits)
        if total <= limit_bytes:
            threads, more = threads_within(limit_bytes - total, sizes)
            return MemoryPlan(resident, logits, total + more, limit_bytes, threads)
    raise too_little(sizes, total, limit_bytes)


def threads_within(room: int, *fits: Sizes) -> tuple[int, int]:
    """As many threads as were asked for or as have room, and what those beside the first take."""
    for threads in range(fits[0].threads, 1, -1):
        each = [working_bytes(replace(sizes, threads=threads)) for sizes in fits]
        alone = [working_bytes(replace(sizes, threads=1)) for sizes in fits]
        more = max(many - one for many, one in zip(each, alone, strict=True))
        if more <= room:
            return threads, more
    return 1, 0


def too_little(sizes: Sizes, least: int, limit: int) -> OptionError:
    """Error for a limit below the least bytes that suffice."""
    needs = f"a probe of {sizes.m} x {sizes.d} weights needs {human_bytes(least)} of memory"
    hint = f"--memory {human_bytes(1.1 * least).replace(' ', '')}"
    return OptionError(f"{needs}; allowed are {human_bytes(limit)}", hint=hint)


def kept_bytes(sizes: Sizes, *, resident: bool, logits: int) -> int:
    """Of a trainer between two fits."""
    kept = points_bytes(sizes) + pairs_bytes(sizes) + metric_bytes(sizes)
    # In float64 rows are streamed beside the copy, with pilot rows in the place of the logits.
    kept += max(logits_bytes(sizes, logits), 4 * sizes.pilot if resident else 0)
    return kept + rows_bytes(sizes, resident=resident)


def working_bytes(sizes: Sizes) -> int:
    """What a fit takes beside that while it runs; set-up, when nothing else is kept, included."""
    passing = max(pass_bytes(sizes), build_bytes(sizes), start_bytes(sizes))
    setting_up = (
        setup_bytes(sizes) + pass_bytes(sizes) - kept_bytes(sizes, resident=False, logits=0)
    )
    slack = SLACK_BYTES + SLACK_BYTES_OF_THREAD * sizes.threads
    return slack + max(descent_bytes(sizes) + passing, setting_up)


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
