"""What commit e2532d3 took at ImageNet's shape: the constants of imagenet.py, made again.

    git worktree add --detach /tmp/before e2532d3
    python tests/bench/imagenet_before.py /tmp/before pass     # seconds of a pass
    python tests/bench/imagenet_before.py /tmp/before 25000    # a whole search on so many rows
    python tests/bench/imagenet_before.py /tmp/before 100000 2 # the same of C up to 10^2

The modules are those of the tree that is named; rows, streaming and the one thread are those of
imagenet.py. A search on 25,000 rows takes 22 s of CPU; on 50,000 and more C = 1e6 alone was stopped
after minutes.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import time
from importlib import import_module
from pathlib import Path
from statistics import median
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import numpy as np
from clip_data import remixed

N, D, K = 1_281_167, 768, 1000
SAMPLE = 40_960
"""Rows that a pass is timed on."""


def module(name: str) -> ModuleType:
    """A module of the tree."""
    return import_module(f"linprobe_train.{name}")


def time_pass() -> None:
    """Print the CPU seconds of a pass, reckoned for all rows."""
    x, y, _ = remixed(SAMPLE, D)
    rows = module("rows").rows_of_array(x, (y + 139 * (np.arange(SAMPLE) % 8)) % K, K)
    preparation = module("preparation").Preparation(True)
    problem = module("problem").make_problem(rows, preparation, weights=None, resident=False)
    V = np.column_stack([3 * np.random.default_rng(0).standard_normal((K, D)), np.zeros(K)])
    seconds = []
    with module("passes").crew_of(1) as crew:
        for _ in range(5):
            begin = time.process_time()
            module("passes").evaluate(problem, V, crew)
            seconds.append(time.process_time() - begin)
    flops = 4 * SAMPLE * D * K / 1e9
    print(f"a pass {median(seconds) * N / SAMPLE:.1f} s, {flops / median(seconds):.0f} GF/s")


def run_search(n: int, decades: int = 6) -> None:
    """Print every fit of a search of C up to 10^decades, and what it chose."""
    x, y, k = remixed(n + n // 10, 256)
    train, val = (
        module("rows").rows_of_array(x[part], y[part], k) for part in (slice(n), slice(n, None))
    )
    training, search = module("training"), module("search")
    begin = time.process_time()

    def show(point: SimpleNamespace) -> None:
        (fit,), seconds = point.fits, time.process_time() - begin
        line = f"C = {fit.C:.4g}: val {point.score:.4f}, {fit.passes} passes, {seconds:.0f} s"
        print(line, flush=True)

    streamed = patch.object(training, "plan_fit", lambda *_: SimpleNamespace(resident=False))
    with module("passes").crew_of(1) as crew, streamed:
        grid = module("grids").HalvingGrid(first=tuple(range(-48, 8 * decades + 1, 16)))
        how = search.SearchSettings(grid, "top1")
        chosen = search.search(train, val, how, training.FitSettings(), crew, show)
    passes = sum(fit.passes for point in chosen.sweep.points for fit in point.fits)
    score = max(point.score for point in chosen.sweep.points)
    seconds = time.process_time() - begin
    print(f"Before({chosen.fit.C:.4g}, {score:.4f}, {passes}, {chosen.fit.passes}, {seconds:.0f})")


if __name__ == "__main__":
    tree, what = Path(sys.argv[1]), sys.argv[2]
    sys.path[:0] = [str(tree / "train"), str(tree / "store")]
    if what == "pass":
        time_pass()
    else:
        run_search(int(what), *map(int, sys.argv[3:]))
