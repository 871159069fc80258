"""The C that a search chooses, beside that of fits which leave nothing open.

    python tests/bench/show_choices.py [--seeds 10] [--sklearn] [--store STORE ...]

For the CLIP sets (train16 and val) and every dataset of the stores (its train split), the search of
the CLIP paper, appendix A.3, on the official val and on stratified tenths: float64 fits at a
rigorous relative gap of 1e-9, ours, every point at a gap of 1e-6, and, where asked for,
scikit-learn at tol 1e-6. Passes and process CPU seconds are of the sweep without the refit, one
thread.
"""

import argparse
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import time
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from clip_data import data_folder
from sklearn.exceptions import ConvergenceWarning

from linprobe import FeatureStore
from linprobe_train.api import as_rows
from linprobe_train.protocol.cuts import stratified_tenth
from linprobe_train.protocol.protocols import HALVING, best_C
from linprobe_train.protocol.search import run_sweep
from linprobe_train.solver.fit import FitSettings, Trainer, make_trainer
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.rows import Rows, rows_of_array

Choice = tuple[float, int, float]
"""The chosen C, passes (or iterations) of the sweep, and its CPU seconds."""
Fitter = tuple[FitSettings, Tolerance]
"""How every point of a sweep is fitted."""
Splits = tuple[str, Rows, Rows | None]
"""Name, training rows, and val where there is one."""
TIGHT = Tolerance(gap=1e-9, decrement=0, max_iter=5000)


def clip_splits() -> Iterator[Splits]:
    """train16 and val of the CLIP sets."""
    for path in sorted((data_folder() / "clip_features").glob("*.npz")):
        with np.load(path) as z:
            parts = [(z[f"{s}_x"], z[f"{s}_y"].astype(np.int64)) for s in ("train16", "val")]
        k = int(parts[0][1].max()) + 1
        train, val = (rows_of_array(x, y, k) for x, y in parts)
        yield path.stem, train, val


def stored_splits(folder: Path) -> Iterator[Splits]:
    """train, and val where there is one, of all that a store holds."""
    for encoder in FeatureStore(folder).encoders():
        for dataset in encoder.datasets():
            rows = {
                name: as_rows(dataset.split(name), None, tap="embedding")
                for name in ("train", "val")
                if name in dataset.splits
            }
            yield f"{dataset.name}, {encoder.names.model}", rows["train"], rows.get("val")


def our_choice(train: Rows, val: Rows, crew: Crew) -> Choice:
    """The sweep as it is."""
    begin = time.process_time()
    sweep = run_sweep([(make_trainer(train, FitSettings(), crew), val)], HALVING, "top1")
    passes = sum(fit.passes for point in sweep.points for fit in point.fits)
    return sweep.C, passes, time.process_time() - begin


def choice_of(trainer: Trainer, val: Rows, tolerance: Tolerance) -> Choice:
    """The sweep with every point fitted to one tolerance and scored where it ends."""
    begin, passes = time.process_time(), 0
    scores: dict[float, float] = {}
    while wanted := HALVING.next_values(scores):
        for C in wanted:
            passes += trainer.fit(C, tolerance).passes
            right = trainer.probe(C).probabilities(val).argmax(1) == val.labels
            scores[C] = float(right.mean())
    return best_C(scores), passes, time.process_time() - begin


def compare(
    name: str, train: Rows, val: Rows | None, seeds: int, others: dict[str, Fitter]
) -> list[bool]:
    """Print the table of one set; whether each choice of ours is that of the reference."""
    cuts = {} if val is None else {"official": (train, val)}
    rows = train if val is None else train.join(val)
    for seed in range(seeds):
        held = stratified_tenth(rows.labels, seed)
        cuts[f"seed {seed}"] = rows.select(~held), rows.select(held)
    print(f"\n# {name}: n = {rows.n}, d = {rows.dim}, k = {rows.n_classes}")
    print("| val | linprobe | " + " | ".join(others) + " |")
    print("|---|" + "---|" * (1 + len(others)))
    equal = []
    with crew_of(1) as crew:
        for cut, (fit, held_out) in cuts.items():
            results = [our_choice(fit, held_out, crew)]
            for settings, tolerance in others.values():
                trainer = make_trainer(fit, settings, crew)
                results.append(choice_of(trainer, held_out, tolerance))
            equal.append(results[0][0] == results[1][0])
            cells = " | ".join(f"{C:.5g}, {n}, {t:.2f}" for C, n, t in results)
            print(f"| {cut} | {cells} |", flush=True)
    return equal


def main() -> None:
    """Print a table a set, and how many choices are those of the reference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sklearn", action="store_true", help="scikit-learn too: minutes a cut")
    parser.add_argument("--store", type=Path, action="append", default=[])
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    others = {
        "float64 1e-9": (FitSettings(arithmetic="float64"), TIGHT),
        "every point 1e-6": (FitSettings(), Tolerance()),
    }
    if options.sklearn:
        others["sklearn f64 tol 1e-6"] = FitSettings(solver="sklearn"), Tolerance()
    stored = (splits for folder in options.store for splits in stored_splits(folder))
    equal: list[bool] = []
    for name, train, val in chain(clip_splits(), stored):
        equal += compare(name, train, val, options.seeds, others)
    print(f"\n{sum(equal)} of {len(equal)} choices are those of float64 fits at 1e-9")


if __name__ == "__main__":
    main()
