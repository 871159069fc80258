"""CPU time to the optimum: our solver against its peers, on real features.

    python tests/bench/bench_solver.py [cold] [warm] [pixels] [--repeats 3] [--threads 1]

Process CPU seconds on as many cores as ``--threads`` says, solvers interleaved, medians of the
repeats. A gap is (F - F*) / F*, F in float64, against a float64 fit with a rigorous gap of 1e-9.
The peers are those of ``pip install linprobe[bench-peers]``; what is not installed is told.
"""

import argparse
import gzip
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from clip_data import ClipSet, clip_sets
from numpy.typing import NDArray
from peers import OURS, SCIKIT_LEARN, TO_THE_GAP, Features, Fit, Solver, walk
from sklearn.linear_model import LogisticRegression

from linprobe_train.estimator import LinearProbe
from linprobe_train.solver.fit import FitSettings, Trainer, make_trainer
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import Crew, crew_of, evaluate
from linprobe_train.solver.rows import rows_of_array

CS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0)
"""Values of C that are each fitted to the end."""

PIXEL_CS = (1e-6, 1e-4, 1e-2)
"""The same of rows of pixels, whose squared norms are up to 50 million."""

GAP = 1e-6
"""Relative gap of the objective that counts as reached, up to rounding to one digit."""

LIMIT = 20.0
"""CPU seconds of a fit after which a peer is left out at larger C."""

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist lies."""


@dataclass(frozen=True)
class Yardstick:
    """Rows and the least F at every C."""

    trainer: Trainer
    """In float64."""
    best: dict[float, float]
    """F* by C."""
    crew: Crew
    """Shares the passes."""

    def gap(self, fit: Fit, C: float) -> float:
        """(F - F*) / F* of coef and intercept on prepared rows."""
        return self._objective(fit.coef, fit.intercept, C) / self.best[C] - 1

    def fill(self, Cs: tuple[float, ...]) -> None:
        """Fit the reference, and say how well."""
        for C in Cs:
            report = self.trainer.fit(C, Tolerance(gap=1e-9, decrement=1e-11, max_iter=5000))
            self.best[C] = self._objective(*self.trainer.solver.solution(C), C)
            print(f"#   C = {C:g}: F* = {self.best[C]:.12g}, rigorous gap {report.bound:.0e}")

    def _objective(
        self, coef: NDArray[np.float64], intercept: NDArray[np.float64], C: float
    ) -> float:
        problem = self.trainer.problem
        ridge = 0.5 * float((coef**2).sum()) / (C * problem.total_weight)
        return evaluate(problem, problem.into(coef, intercept), self.crew, "float64").loss + ridge


def yardstick(data: ClipSet, normalize: bool, Cs: tuple[float, ...], crew: Crew) -> Yardstick:
    """Say what is measured, and fit the references."""
    rows = rows_of_array(data.features, data.labels, data.n_classes)
    print(f"\n# {data.name}: n = {rows.n}, d = {rows.dim}, k = {data.n_classes}")
    settings = FitSettings(normalize=normalize, arithmetic="float64")
    measure = Yardstick(make_trainer(rows, settings, crew), {}, crew)
    measure.fill(Cs)
    return measure


def fit_to_gap(
    solver: Solver, X: Features, data: ClipSet, C: float, measure: Yardstick, cap: int
) -> Fit:
    """The first fit that reaches the gap, else the one that comes nearest."""
    fits = []
    for tolerance in solver.tolerances or (measure.best[C] * (1 + GAP),):
        fits.append(solver.solve(X, data.labels, C, tolerance, cap))
        if measure.gap(fits[-1], C) <= GAP or fits[-1].seconds > LIMIT:
            break
    return min(fits, key=lambda fit: max(measure.gap(fit, C), GAP))


def compare_cold(
    data: ClipSet, solvers: tuple[Solver, ...], measure: Yardstick, repeats: int, cap: int = 10_000
) -> None:
    """Print single fits, each from nothing, of at most ``cap`` iterations."""
    rows = measure.trainer.preparation.apply(data.features)
    table: dict[str, list[str]] = {solver.name: [] for solver in solvers}
    slow = set[str]()
    for C in measure.best:
        fits: dict[str, list[Fit]] = {solver.name: [] for solver in solvers if solver.installed}
        for _ in range(repeats):
            for solver in solvers:
                known = fits.get(solver.name, [])
                wanted = not known or known[0].seconds < LIMIT / 10
                if solver.installed and solver.name not in slow and wanted:
                    X = rows.astype(solver.dtype)
                    known.append(fit_to_gap(solver, X, data, C, measure, cap))
        for name, some in fits.items():
            if not some:
                table[name].append("-")
                continue
            spent, gap = median(fit.seconds for fit in some), measure.gap(some[-1], C)
            reached = "" if gap < 1.5 * GAP else f" ({gap:.0e})"
            table[name].append(f"{spent:.2f}{reached}")
            slow |= {name} if some[0].seconds > LIMIT else set()
            print(f"#   C = {C:g}, {name}: {some[-1].steps} steps, {spent:.2f} s, gap {gap:.0e}")
    print("| cold, CPU s (gap) | " + " | ".join(f"C = {C:g}" for C in measure.best) + " |")
    print("|---" * (1 + len(measure.best)) + "|")
    for name, cells in table.items():
        print(f"| {name} | " + " | ".join(cells or ["not installed"]) + " |", flush=True)


Chain = Callable[[float], Fit]
"""Fits at C, going on from the fit before."""


def our_chain(data: ClipSet, rows: NDArray[np.float32], crew: Crew) -> Chain:
    """Our path over C, its set-up in the first fit."""
    trainers: list[Trainer] = []

    def fit(C: float) -> Fit:
        begin = time.process_time()
        if not trainers:
            given = rows_of_array(rows, data.labels, data.n_classes)
            trainers.append(make_trainer(given, FitSettings(normalize=False), crew))
        report, probe = trainers[0].fit(C, Tolerance()), trainers[0].probe(C)
        return Fit(time.process_time() - begin, report.passes, probe.coef, probe.intercept)

    return fit


def compare_warm(data: ClipSet, measure: Yardstick, repeats: int) -> None:
    """Print walks over C, every fit going on from the one before."""
    wide = measure.trainer.preparation.apply(data.features)
    narrow = wide.astype(np.float32)

    def chains() -> dict[str, Chain]:
        def scikit_learn(tol: float, rows: Features) -> Chain:
            return walk(LogisticRegression(tol=tol, max_iter=10_000), rows, data.labels)

        return {
            "linprobe, path": our_chain(data, narrow, measure.crew),
            "linprobe, LinearProbe f32": walk(LinearProbe(n_jobs=1), narrow, data.labels),
            "linprobe, LinearProbe f64": walk(LinearProbe(n_jobs=1), wide, data.labels),
            "scikit-learn f64 tol 1e-6": scikit_learn(1e-6, wide),
            "scikit-learn f32 tol 1e-6": scikit_learn(1e-6, narrow),
            "scikit-learn f64 default": scikit_learn(1e-4, wide),
            "scikit-learn f32 default": scikit_learn(1e-4, narrow),
        }

    runs: dict[str, list[list[Fit]]] = {name: [] for name in chains()}
    for _ in range(repeats):
        for name, chain in chains().items():
            runs[name].append([chain(C) for C in measure.best])
    spent = {name: median(sum(fit.seconds for fit in run) for run in runs[name]) for name in runs}
    print("| warm, CPU s of all C | CPU s | times ours | steps | gap at each C |")
    print("|---|---|---|---|---|")
    for name, (last, *_) in runs.items():
        gaps = [measure.gap(fit, C) for fit, C in zip(last, measure.best, strict=True)]
        times = spent[name] / spent["linprobe, path"]
        print(
            f"| {name} | {spent[name]:.2f} | {times:.1f} | {sum(fit.steps for fit in last)} "
            f"| {' '.join(f'{gap:.0e}' for gap in gaps)} |",
            flush=True,
        )


def pixels() -> ClipSet:
    """Rows of unscaled pixels: 10,000 of Fashion-MNIST, else scikit-learn's digits."""
    none = np.zeros((0, 0), np.float16)
    if not FASHION.exists():
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        return ClipSet("digits, pixels 0 to 16", X.astype(np.float32), y, none, y[:0], 10)
    files = [FASHION / f"train-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1")]
    images, labels = (np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8) for file in files)
    X, y = images[16:].reshape(-1, 784)[:10_000], labels[8:10_008].astype(np.int64)
    return ClipSet("Fashion-MNIST, pixels 0 to 255", X.astype(np.float32), y, none, y[:0], 10)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "tables",
        nargs="*",
        default=["cold", "warm"],
        metavar="TABLE",
        help="cold, warm or pixels; the first two where none is named",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    # Peers make their threads by the cores that they see when they are first imported.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    with crew_of(options.threads) as crew:
        for data in clip_sets():
            if {"cold", "warm"} & set(options.tables):
                measure = yardstick(data, True, CS, crew)
                if "cold" in options.tables:
                    compare_cold(data, OURS + SCIKIT_LEARN + TO_THE_GAP, measure, options.repeats)
                if "warm" in options.tables:
                    compare_warm(data, measure, options.repeats)
        if "pixels" in options.tables:
            data = pixels()
            measure = yardstick(data, False, PIXEL_CS, crew)
            compare_cold(data, OURS + SCIKIT_LEARN[:1], measure, 1, cap=1000)


if __name__ == "__main__":
    main()
