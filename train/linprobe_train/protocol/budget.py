"""What a search takes in memory, stage by stage, and what that leaves for its fits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from linprobe.terminal import human_bytes
from linprobe_train.protocol.evidence import look_bytes
from linprobe_train.protocol.protocols import Grid
from linprobe_train.scores.predictions import predict_bytes
from linprobe_train.solver.fit import FitSettings, sizes_of
from linprobe_train.solver.memory import (
    SOLUTION_BYTES,
    MemoryPlan,
    available_bytes,
    kept_bytes,
    plan_memory,
    threads_within,
    too_little,
    working_bytes,
)
from linprobe_train.solver.path import LENT
from linprobe_train.solver.problem import Sizes
from linprobe_train.solver.rows import Rows

JUDGED_BYTES = 24
"""Of a held-out row at every value of C: its label's column, its class, and a flag."""


@dataclass(frozen=True)
class SearchPlan:
    """Anonymous memory of a search, in bytes."""

    cut_bytes: int
    """What the trainer of each cut may use."""
    final_bytes: int
    """What the trainer of all rows may use."""
    resident: bool
    """Whether float32 copies of all rows are kept."""
    total_bytes: int
    """Most that is taken at a time."""
    limit_bytes: int
    """What may be used."""
    threads: int
    """As many as were asked for, or as there is room for."""

    def text(self) -> str:
        """For a person."""
        how = "in memory" if self.resident else "streamed from disk"
        total, limit = human_bytes(self.total_bytes), human_bytes(self.limit_bytes)
        return f"memory: at most {total} of {limit} allowed, rows {how}, threads {self.threads}"


def plan_search(
    cuts: Sequence[tuple[Rows, Rows]],
    everything: Rows,
    grid: Grid,
    settings: FitSettings,
    after_bytes: int = 0,
) -> SearchPlan:
    """Divide the memory: first trainers of all cuts live side by side, then one of all rows.

    ``after_bytes`` is what the caller takes afterwards. ``OptionError``: less than streaming needs.
    """
    limit = settings.memory_bytes or available_bytes()
    wanted = sizes_of(everything, settings)
    last = replace(wanted, threads=1)
    # Labels and numbers of the rows of each cut, and of the draw.
    views = (last.label + 8) * last.n * (len(cuts) + 1) + 24 * last.n
    lent = 8 * LENT * last.place
    least = [after_bytes, views + lent + _least(last)]
    sweep, cut, beside = None, last, 0
    if cuts:
        sizes = [replace(sizes_of(fit, settings), threads=1) for fit, _ in cuts]
        cut = max(sizes, key=lambda of_cut: of_cut.n)
        held_out = sum(held.n for _, held in cuts)
        scored = predict_bytes(held_out, everything.n_classes, multi_label=everything.multi_label)
        beside = views + lent + max(look_bytes(cut), scored)
        beside += grid.count * (JUDGED_BYTES * held_out + SOLUTION_BYTES * len(cuts) * cut.place)
        # Of a part: its draw, labels and numbers of its rows, solutions that it lends.
        part = min(grid.coarse_rows, cut.n)
        if part:
            beside += 48 * cut.n + len(cuts) * ((cut.label + 8) * part + 8 * LENT * cut.place)
        # For a temperature: the logits of all held-out rows, without the trainers.
        logits = 8 * held_out * (cut.m + 2) + 8 * len(cuts) * cut.place
        least += [views + lent + logits + working_bytes(cut), beside + _least(cut, len(cuts))]
    if max(least) > limit:
        raise too_little(last, max(least), limit)
    streamed = settings.reads_at_every_pass
    final = plan_memory(last, limit, beside_bytes=views + lent, streamed=streamed)
    if cuts:
        of_cuts = partial(plan_memory, trainers=len(cuts), beside_bytes=beside)
        sweep = of_cuts(cut, limit, streamed=streamed)
    plans = [final] if sweep is None else [sweep, final]
    total = max(*least, *(plan.total_bytes for plan in plans))
    resident = all(plan.resident for plan in plans)
    threads, more = threads_within(limit - total, wanted, cut)
    each = _one(cut, plans[0]), _one(last, final)
    return SearchPlan(*each, resident, total + more, limit, threads)


def _one(sizes: Sizes, plan: MemoryPlan) -> int:
    """What a single trainer takes by a plan."""
    return working_bytes(sizes) + kept_bytes(sizes, resident=plan.resident, logits=plan.logits)


def _least(sizes: Sizes, trainers: int = 1) -> int:
    """What trainers take where rows are streamed."""
    return working_bytes(sizes) + trainers * kept_bytes(sizes, resident=False, logits=0)
