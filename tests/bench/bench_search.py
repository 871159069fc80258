"""CPU time of the whole search of the CLIP paper with its refit: ours against scikit-learn's.

    python tests/bench/bench_search.py

Radford et al. 2021, appendix A.3, on real CLIP features; one thread, process CPU seconds, one run.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
import warnings
from dataclasses import dataclass

import numpy as np
from clip_data import ClipSet, clip_sets
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from linprobe_train.protocol.cuts import stratified_tenth
from linprobe_train.protocol.protocols import HALVING
from linprobe_train.protocol.search import search
from linprobe_train.solver.fit import FitSettings
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.preparation import Preparation
from linprobe_train.solver.rows import Rows, rows_of_array


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


def main() -> None:
    """Run the benchmark."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    with crew_of(1) as crew:
        for data in clip_sets():
            compare_searches(data, crew)


if __name__ == "__main__":
    main()
