"""CPU time to the optimum: our solver against scikit-learn, on real CLIP features.

    python tests/bench/bench_solver.py [--search] [--cold] [--repeats 3]

One thread each, process CPU seconds, solvers interleaved, medians over the repeats. Every gap is
against a float64 reference: (F - F*) / F*, all objectives evaluated in float64.
"""

import argparse
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
from clip_data import ClipSet, clip_sets
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from linprobe_train.protocol.cuts import stratified_tenth
from linprobe_train.protocol.protocols import HALVING
from linprobe_train.protocol.search import search
from linprobe_train.solver.fit import FitSettings, make_trainer
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import Crew, crew_of, evaluate
from linprobe_train.solver.path import PathSolver
from linprobe_train.solver.preparation import Preparation
from linprobe_train.solver.problem import Problem, make_problem
from linprobe_train.solver.rows import Rows, rows_of_array

CS = (1.0, 10.0, 100.0, 1000.0)
"""Values of C that are each fitted to the end."""

Float64 = NDArray[np.float64]
Weights = tuple[Float64, Float64]


@dataclass(frozen=True)
class Run:
    """One solver over the values of C."""

    seconds: float
    """CPU seconds, data preparation included."""
    passes: int
    """Reads of the data: passes of ours, iterations of scikit-learn's."""
    weights: dict[float, Weights]
    """coef and intercept by C."""


def ours(data: ClipSet, crew: Crew) -> Run:
    """Our path over C."""
    begin = time.process_time()
    rows = rows_of_array(data.features, data.labels, data.n_classes)
    path = PathSolver(make_problem(rows, Preparation(True), weights=None, resident=True), crew)
    weights = {}
    for C in CS:
        path.fit(C, Tolerance())
        weights[C] = path.solution(C)
    return Run(time.process_time() - begin, path.passes, weights)


def scikit_learn(data: ClipSet, tol: float, dtype: type[np.floating]) -> Run:
    """A new ``LogisticRegression`` at every C, as people use it."""
    begin = time.process_time()
    X = Preparation(True).apply(data.features).astype(dtype)
    weights, passes = {}, 0
    for C in CS:
        model = LogisticRegression(C=C, tol=tol, max_iter=10_000).fit(X, data.labels)
        weights[C] = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
        passes += int(model.n_iter_[0])
    return Run(time.process_time() - begin, passes, weights)


def objective(problem: Problem, weights: Weights, C: float, crew: Crew) -> float:
    """F in float64."""
    V = problem.into(*weights)
    ridge = 0.5 * float((weights[0] ** 2).sum()) / (C * problem.total_weight)
    return evaluate(problem, V, crew, "float64").loss + ridge


def reference(problem: Problem, crew: Crew) -> dict[float, float]:
    """F* at every C: our solver at a rigorous 1e-9, its objective in float64."""
    path = PathSolver(problem, crew)
    best = {}
    for C in CS:
        report = path.fit(C, Tolerance(gap=1e-9, decrement=0, max_iter=5000))
        best[C] = objective(problem, path.solution(C), C, crew)
        print(f"#   C = {C:g}: F* = {best[C]:.12g}, rigorous gap {report.bound:.0e}")
    return best


def compare(data: ClipSet, repeats: int, crew: Crew) -> None:
    """Print the table of one set."""
    rows = rows_of_array(data.features, data.labels, data.n_classes)
    problem = make_problem(rows, Preparation(True), weights=None, resident=True)
    print(f"\n# {data.name}: n = {rows.n}, d = {rows.dim}, k = {data.n_classes}")
    best = reference(problem, crew)
    solvers: dict[str, Callable[[], Run]] = {
        "linprobe": lambda: ours(data, crew),
        "sklearn f64 tol 1e-6": lambda: scikit_learn(data, 1e-6, np.float64),
        "sklearn f64 default": lambda: scikit_learn(data, 1e-4, np.float64),
        "sklearn f32 default": lambda: scikit_learn(data, 1e-4, np.float32),
    }
    runs: dict[str, list[Run]] = {name: [] for name in solvers}
    for _ in range(repeats):
        for name, solve in solvers.items():
            runs[name].append(solve())
    base = median(run.seconds for run in runs["linprobe"])
    held = Preparation(True).apply(data.held_out)
    print("| solver | CPU s | times ours | passes | gap at C = 1, 10, 100, 1000 | accuracy % |")
    print("|---|---|---|---|---|---|")
    for name, some in runs.items():
        seconds = median(run.seconds for run in some)
        last = some[-1]
        gaps = [objective(problem, last.weights[C], C, crew) / best[C] - 1 for C in CS]
        right = [
            100 * float(((held @ W.T + b).argmax(1) == data.held_out_labels).mean())
            for W, b in (last.weights[C] for C in CS)
        ]
        print(
            f"| {name} | {seconds:.2f} | {seconds / base:.1f} | {last.passes} "
            f"| {' '.join(f'{gap:.0e}' for gap in gaps)} | {' '.join(f'{r:.2f}' for r in right)} |"
        )


@dataclass(frozen=True)
class Result:
    """A whole search."""

    seconds: float
    """CPU seconds, refit included."""
    C: float
    """Chosen."""
    val: float
    """Accuracy on the rows C was chosen on."""
    held_out: float
    """Accuracy on rows never used."""


def our_search(data: ClipSet, train: Rows, val: Rows, crew: Crew) -> Result:
    """The A.3 search with refit, ours."""
    begin = time.process_time()
    chosen = search(train, val, HALVING, FitSettings(normalize=True), crew)
    seconds = time.process_time() - begin
    rest = rows_of_array(data.held_out, data.held_out_labels, data.n_classes)
    right = chosen.probe.probabilities(rest).argmax(1) == data.held_out_labels
    best = max(point.score for point in chosen.sweep.points) if chosen.sweep else 0.0
    return Result(seconds, chosen.fit.C, best, float(right.mean()))


def scikit_search(data: ClipSet, keep: NDArray[np.bool_], tol: float) -> Result:
    """The A.3 search with refit by scikit-learn, at most 1,000 iterations as in the paper."""
    begin = time.process_time()
    X, y = Preparation(True).apply(data.features).astype(np.float64), data.labels
    scores: dict[float, float] = {}
    while wanted := HALVING.next_values(scores):
        for C in wanted:
            model = LogisticRegression(C=C, tol=tol, max_iter=1000).fit(X[keep], y[keep])
            scores[C] = float(model.score(X[~keep], y[~keep]))
    best = min(scores, key=lambda C: (-scores[C], C))
    model = LogisticRegression(C=best, tol=tol, max_iter=1000).fit(X, y)
    seconds = time.process_time() - begin
    held = Preparation(True).apply(data.held_out)
    return Result(seconds, best, scores[best], float(model.score(held, data.held_out_labels)))


def compare_searches(data: ClipSet, crew: Crew) -> None:
    """Print the table of one set; one run each, as a search by scikit-learn takes minutes."""
    fifth = stratified_tenth(data.labels, 0) | stratified_tenth(data.labels, 1)
    rows = rows_of_array(data.features, data.labels, data.n_classes)
    results = {
        "linprobe": our_search(data, rows.select(~fifth), rows.select(fifth), crew),
        "sklearn f64 default": scikit_search(data, ~fifth, 1e-4),
        "sklearn f64 tol 1e-6": scikit_search(data, ~fifth, 1e-6),
    }
    print(
        f"\n# {data.name}: the A.3 search, 15 values of C, and the refit; val is {fifth.sum()} rows"
    )
    print("| solver | CPU s | times ours | C | val % | held out % |\n|---|---|---|---|---|---|")
    for name, result in results.items():
        ratio = result.seconds / results["linprobe"].seconds
        print(
            f"| {name} | {result.seconds:.2f} | {ratio:.1f} | {result.C:.4g} "
            f"| {100 * result.val:.2f} | {100 * result.held_out:.2f} |"
        )


def compare_cold(data: ClipSet, crew: Crew) -> None:
    """Print the table of single fits, each from nothing, ours and scikit-learn's interleaved."""
    rows = rows_of_array(data.features, data.labels, data.n_classes)
    X = Preparation(True).apply(data.features).astype(np.float64)
    print(
        f"\n# {data.name}: one cold fit at each C\n| C | linprobe CPU s | passes | stop |", end=""
    )
    print(" sklearn f64 tol 1e-6 CPU s | iterations |\n|---|---|---|---|---|---|")
    for C in (0.1, *CS, 10_000.0):
        begin = time.process_time()
        report = make_trainer(rows, FitSettings(), crew).fit(C, Tolerance())
        middle = time.process_time()
        model = LogisticRegression(C=C, tol=1e-6, max_iter=10_000).fit(X, data.labels)
        theirs = time.process_time() - middle
        ours = f"{middle - begin:.2f} | {report.passes} | {report.stop}"
        print(f"| {C:g} | {ours} | {theirs:.2f} | {model.n_iter_[0]} |", flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--search", action="store_true", help="time the whole A.3 search too")
    parser.add_argument("--cold", action="store_true", help="time single fits too")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    with crew_of(1) as crew:
        for data in clip_sets():
            compare(data, options.repeats, crew)
            if options.search:
                compare_searches(data, crew)
            if options.cold:
                compare_cold(data, crew)


if __name__ == "__main__":
    main()
