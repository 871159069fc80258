"""Rows beyond memory, and threads: synthetic features in a file, streamed.

python tests/bench/bench_scale.py memory       # memory that is taken beside what was planned
python tests/bench/bench_scale.py imagenet     # ImageNet's shape, reckoned: 4 minutes of CPU
python tests/bench/bench_scale.py threads      # one thread against two, wall time
python tests/bench/bench_scale.py synthetic    # 50,000 x 512 x 100 against scikit-learn
"""

import argparse
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from imagenet import imagenet
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.memory import kept_bytes, plan_memory, working_bytes
from linprobe_train.solver.passes import crew_of, evaluate
from linprobe_train.solver.path import PathSolver
from linprobe_train.solver.preparation import Preparation
from linprobe_train.solver.problem import Sizes, make_problem
from linprobe_train.solver.rows import rows_of_array

FOUR_GB = 4 * 10**9
A3_PASSES = 150
"""Passes of the A.3 search with refit on real CLIP features: 150 to 180 in bench_solver.py."""


def write_features(folder: Path, n: int, d: int, k: int) -> tuple[Path, NDArray[np.int64]]:
    """CLIP-like unit rows in float16, written in blocks: power-law spectrum, 2 % label noise."""
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, d + 1) ** -0.5
    centres = (0.6 * rng.standard_normal((k, d)) * spectrum).astype(np.float32)
    shift = (0.8 * rng.standard_normal(d) / np.sqrt(d)).astype(np.float32)
    labels = rng.integers(0, k, n)
    path = folder / f"{n}x{d}x{k}.f16"
    with path.open("wb") as file:
        for start in range(0, n, 16384):
            y = labels[start : start + 16384]
            rows = rng.standard_normal((len(y), d), np.float32) * spectrum.astype(np.float32)
            rows += centres[y]
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            rows += shift
            file.write((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16))
    noisy = rng.random(n) < 0.02
    labels[noisy] = rng.integers(0, k, int(noisy.sum()))
    return path, labels


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process now; pages of mapped files do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise SystemExit("this benchmark needs Linux's /proc/self/status")


@contextmanager
def watched_peak() -> Iterator[list[int]]:
    """Sample anonymous memory every 10 ms; the list holds the highest at the end."""
    peak, done = [anonymous_bytes()], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def stream(n: int, d: int, k: int, iterations: int, threads: int) -> None:
    """Fit at C = 10 for a few iterations from a file; print memory, passes and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path, labels = write_features(Path(folder), n, d, k)
        mapped = np.memmap(path, np.float16, "r", shape=(n, d))
        before = anonymous_bytes()
        # One byte less than a resident copy takes: the plan is one of streaming.
        sizes = Sizes(n, d, k, threads)
        whole = working_bytes(sizes) + kept_bytes(sizes, resident=True, logits=0)
        plan = plan_memory(sizes, min(FOUR_GB, whole - 1))
        with crew_of(threads) as crew, watched_peak() as peak:
            wall = time.perf_counter()
            problem = make_problem(
                rows_of_array(mapped, labels, k), Preparation(True), weights=None, resident=False
            )
            solver = PathSolver(problem, crew)
            ready = time.perf_counter()
            report = solver.fit(10.0, Tolerance(max_iter=iterations))
            seconds = (time.perf_counter() - ready) / report.passes
        grown = (peak[0] - before) / 1e6
        print(
            f"| {n:,} x {d} x {k} | {grown:.0f} | {plan.total_bytes / 1e6:.0f} "
            f"| {ready - wall:.1f} | {report.passes} | {seconds:.2f} "
            f"| {report.objective:.4f} | {A3_PASSES * seconds / 3600:.2f} |",
            flush=True,
        )


def header() -> None:
    """Print the head of the table of :func:`stream`."""
    print(
        "| rows x dim x classes | peak anonymous MB, grown | planned MB | s to set up | passes "
        "| s a pass | F | hours for the A.3 search |\n|---|---|---|---|---|---|---|---|"
    )


def in_fresh_process(*arguments: int) -> None:
    """Run :func:`stream` where nothing else has grown the heap."""
    command = [sys.executable, __file__, "stream", *map(str, arguments)]
    subprocess.run(command, check=True)


MEMORY: tuple[dict[str, object], ...] = (
    # The review's: features of three sets, resident and larger, beside those at hand.
    {"what": "fit", "n": 50_000, "d": 512, "k": 100},
    {"what": "fit", "n": 20_000, "d": 1024, "k": 100},
    {"what": "fit", "n": 5405, "d": 512, "k": 101},
    {"what": "fit", "n": 4482, "d": 512, "k": 100},
    {"what": "fit", "n": 5000, "d": 512, "k": 100, "C": 1000.0},
    {"what": "fit", "n": 3163, "d": 512, "k": 37},
    {"what": "fit", "n": 4497, "d": 512, "k": 102},
    # Their kin.
    {"what": "fit", "n": 50_000, "d": 512, "k": 100, "memory": 300_000_000},
    {"what": "fit", "n": 50_000, "d": 512, "k": 100, "threads": 2, "max_iter": 8},
    {"what": "fit", "n": 50_000, "d": 512, "k": 100, "memory": 190_000_000, "max_iter": 8},
    {"what": "fit", "n": 500_000, "d": 512, "k": 100, "memory": 300_000_000, "max_iter": 3},
    {"what": "fit", "n": 50_000, "d": 512, "k": 2},
    {"what": "fit", "n": 5000, "d": 512, "k": 20, "multi_label": True},
    {"what": "fit", "n": 1000, "d": 2048, "k": 20},
    {"what": "fit", "n": 60_000, "d": 768, "k": 1000, "memory": 10**9, "max_iter": 2, "threads": 2},
    {"what": "sweep", "n": 4497, "d": 512, "k": 102},
    {"what": "sweep", "n": 3163, "d": 512, "k": 37, "folds": 5},
    {"what": "sweep", "n": 3163, "d": 512, "k": 37, "protocol": "default"},
    {"what": "sweep", "n": 20_000, "d": 512, "k": 37, "memory": 120_000_000},
    {"what": "probe", "n": 4497, "d": 512, "k": 102, "C": None},
    {"what": "probe", "n": 4497, "d": 512, "k": 102, "C": None, "memory": 300_000_000},
)
"""Cases of ``tests/factories/memory_shapes.py``."""


def memory() -> None:
    """Print what fits, searches and the command take beside what they planned."""
    script = Path(__file__).parents[1] / "factories" / "memory_shapes.py"
    print("| case | rows x dim x classes | MB grown | MB planned | MB allowed | rows | CPU s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for case in MEMORY:
        command = [sys.executable, str(script), json.dumps(case)]
        came = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        size = f"{case['n']} x {case['d']} x {case['k']}"
        more = [f"{k} {v}" for k, v in case.items() if k in ("threads", "folds", "protocol")]
        allowed = "" if "memory" not in case else f"{int(str(case['memory'])) / 1e6:.0f}"
        print(
            f"| {' '.join([str(case['what']), *more])} | {size} | {came['grown'] / 1e6:.0f} "
            f"| {came['planned'] / 1e6:.0f} | {allowed} "
            f"| {'in memory' if came['resident'] else 'streamed'} | {came['seconds']:.1f} |",
            flush=True,
        )


def threads(repeats: int) -> None:
    """Time passes over resident rows with one thread and with two."""
    with tempfile.TemporaryDirectory() as folder:
        n, d, k = 50_000, 512, 100
        path, labels = write_features(Path(folder), n, d, k)
        rows = rows_of_array(np.memmap(path, np.float16, "r", shape=(n, d)), labels, k)
        problem = make_problem(rows, Preparation(True), weights=None, resident=True)
    V = 0.1 * np.random.default_rng(0).standard_normal((k, d + 1))
    wall: dict[int, list[float]] = {1: [], 2: []}
    cores: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for count in wall:
            with crew_of(count) as crew:
                evaluate(problem, V, crew)
                begin, used = time.perf_counter(), time.process_time()
                for _ in range(3):
                    evaluate(problem, V, crew)
                wall[count].append((time.perf_counter() - begin) / 3)
                cores[count].append((time.process_time() - used) / wall[count][-1] / 3)
    alone, both = median(wall[1]), median(wall[2])
    print(f"a pass over {n} x {d} x {k}: {alone:.3f} s with 1 thread, {both:.3f} s with 2, wall:")
    print(
        f"{alone / both:.2f} times as fast; it was given {median(cores[1]):.2f} and "
        f"{median(cores[2]):.2f} cores (below 1.9 of 2, others had them)"
    )


def synthetic() -> None:
    """Time the path C = 1, 10, 100 on 50,000 x 512 x 100 against scikit-learn; CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        n, d, k = 50_000, 512, 100
        path, labels = write_features(Path(folder), n, d, k)
        features = np.fromfile(path, np.float16).reshape(n, d)
    rows, Cs = rows_of_array(features, labels, k), (1.0, 10.0, 100.0)
    print("| solver | CPU s | passes | F at C = 1, 10, 100 |\n|---|---|---|---|")
    with crew_of(1) as crew:
        begin = time.process_time()
        problem = make_problem(rows, Preparation(True), weights=None, resident=True)
        solver = PathSolver(problem, crew)
        reports = [solver.fit(C, Tolerance()) for C in Cs]
        seconds = time.process_time() - begin
        values = " ".join(f"{report.objective:.9g}" for report in reports)
        print(f"| linprobe | {seconds:.1f} | {solver.passes} | {values} |", flush=True)
        X = Preparation(True).apply(features).astype(np.float64)
        for tol in (1e-4, 1e-6):
            begin, passes, fits = time.process_time(), 0, []
            for C in Cs:
                model = LogisticRegression(C=C, tol=tol, max_iter=10_000).fit(X, labels)
                passes += int(model.n_iter_[0])
                V = problem.into(model.coef_, model.intercept_)
                fits.append((V, C, float((model.coef_**2).sum())))
            seconds = time.process_time() - begin
            values = " ".join(
                f"{evaluate(problem, V, crew, 'float64').loss + ridge / (2 * C * n):.9g}"
                for V, C, ridge in fits
            )
            print(
                f"| scikit-learn f64 tol {tol:g} | {seconds:.1f} | {passes} | {values} |",
                flush=True,
            )


def main() -> None:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ["memory", "synthetic", "threads", "imagenet", "stream"]
    parser.add_argument("what", nargs="?", choices=names, help="none: all but stream")
    parser.add_argument("sizes", nargs="*", type=int, help="of stream")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.what in (None, "memory"):
        memory()
    if options.what in (None, "synthetic"):
        synthetic()
    if options.what in (None, "threads"):
        threads(options.repeats)
    if options.what in (None, "imagenet"):
        imagenet(options.repeats)
    if options.what == "stream":
        stream(*options.sizes)


if __name__ == "__main__":
    main()
