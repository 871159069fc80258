"""The memory that is planned is never exceeded, and a limit is obeyed."""

import sys

import numpy as np
import pytest
from memory_shapes import Shape, measure
from train_factories import make_rows

from linprobe.errors import OptionError
from linprobe_train.protocol.budget import plan_search
from linprobe_train.protocol.protocols import HALVING
from linprobe_train.solver.fit import FitSettings, plan_fit
from linprobe_train.solver.memory import parse_bytes

MANY = Shape("fit", 20_000, 128, 20, max_iter=8)
"""More rows than are sampled."""
CASES = {
    "resident": MANY,
    "without logits": Shape("fit", 20_000, 128, 20, memory=45 * 10**6, max_iter=8),
    "streamed": Shape("fit", 20_000, 128, 20, streamed=True, threads=2, max_iter=8),
    "wide": Shape("fit", 300, 1200, 5),
    "folds": Shape("sweep", 2000, 128, 12, folds=3),
    "multi-label command": Shape("probe", 2000, 128, 12, multi_label=True, C=None),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("name", CASES)
def test_grown_memory_is_at_most_the_plan_and_the_plan_at_most_the_limit(name: str) -> None:
    shape = CASES[name]
    came = measure(shape)

    assert came.grown <= came.planned
    assert came.planned <= (shape.memory or 10**12)
    assert came.resident == (name != "streamed")


def test_a_limit_too_small_to_stream_names_one_that_suffices() -> None:
    rows = make_rows(2000, 40, 5)
    cuts = [(rows.select(np.arange(2000) % 3 != i), rows) for i in range(3)]
    plans = plan_fit, lambda rows, settings: plan_search(cuts, rows, HALVING, settings)
    for plan in plans:
        with pytest.raises(OptionError) as refused:
            plan(rows, FitSettings(memory_bytes=1000))
        limit = parse_bytes(refused.value.hint.removeprefix("--memory "))
        assert plan(rows, FitSettings(memory_bytes=limit)).total_bytes <= limit
