"""What the rule of the ``default`` protocol chooses on real features, beside the rule it replaced.

    python tests/bench/show_default.py

The old rule is the search of the CLIP paper by top-1, on val or on a stratified tenth, ties to the
smaller C. Official splits (train16, val, test), then random subsamples of train16 and val of some
classes, without val, at several seeds; tests are all test rows of these classes. The debiased ECE
of :mod:`linprobe_train.scores.calibration` is shown.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from clip_data import data_folder
from numpy.typing import NDArray

from linprobe_train.protocol.protocols import DEFAULT, HALVING
from linprobe_train.protocol.search import Search, search
from linprobe_train.scores.metrics import score_value
from linprobe_train.solver.fit import FitSettings
from linprobe_train.solver.passes import crew_of
from linprobe_train.solver.rows import Rows, rows_of_array

SETS = ("oxford_pets", "oxford_flowers")
SHAPES = ((5, 10), (10, 5), (10, 10), (20, 20), (37, 20))
"""Classes, and rows of each."""
SEEDS = 5
METRICS = ("top1", "nll", "ece")
Split = tuple[NDArray[np.float16], NDArray[np.int64]]


def splits_of(name: str) -> dict[str, Split]:
    """Features and labels of train16, val and test."""
    with np.load(data_folder() / "clip_features" / f"{name}.npz") as z:
        names = ("train16", "val", "test")
        return {s: (z[f"{s}_x"], z[f"{s}_y"].astype(np.int64)) for s in names}


def rules(train: Rows, val: Rows | None) -> Iterator[tuple[Search, float]]:
    """The old rule, then the new one, with the processor seconds of each."""
    with crew_of(1) as crew:
        for protocol in (DEFAULT.changed(grid=HALVING), DEFAULT):
            started, rule = time.process_time(), protocol.rule
            chosen = search(train, val, protocol.grid, FitSettings(), crew, rule=rule)
            yield chosen, time.process_time() - started


def scores(chosen: Search, test: Rows) -> list[float]:
    """Top-1, NLL, ECE, and the last two without the temperature."""
    told = chosen.probe.probabilities(test)
    raw = replace(chosen.probe, temperature=1.0).probabilities(test)
    both = [score_value(name, told, test.labels) for name in METRICS]
    return both + [score_value(name, raw, test.labels) for name in METRICS[1:]]


def line(label: str, rule: str, C: str, T: str, values: NDArray[np.float64], cpu: float) -> str:
    """A line of the table."""
    top1, nll, ece, raw_nll, raw_ece = values
    raw = f"{raw_nll:.3f}, {100 * raw_ece:.1f}"
    numbers = f"{100 * top1:.2f} | {nll:.3f} | {100 * ece:.1f} | {raw}"
    return f"| {label} | {rule} | {C} | {T} | {numbers} | {cpu:.2f} |"


def official() -> None:
    """C on the official val."""
    for name in SETS:
        rows = {s: rows_of_array(x, y, int(y.max()) + 1) for s, (x, y) in splits_of(name).items()}
        for rule, (chosen, cpu) in zip(
            ("old", "new"), rules(rows["train16"], rows["val"]), strict=True
        ):
            T = f"{chosen.probe.temperature:.3f}"
            values = np.array(scores(chosen, rows["test"]))
            print(line(f"{name}, official val", rule, f"{chosen.fit.C:.3g}", T, values, cpu))


def subsample(splits: dict[str, Split], classes: int, each: int, seed: int) -> tuple[Rows, Rows]:
    """Some rows of some classes to train on, and all test rows of these classes."""
    rng = np.random.default_rng([classes, each, seed])
    both = splits["train16"], splits["val"]
    x, y = np.concatenate([x for x, _ in both]), np.concatenate([y for _, y in both])
    kept = np.sort(rng.permutation(int(y.max()) + 1)[:classes])
    numbers = [rng.permutation(np.flatnonzero(y == label))[:each] for label in kept]
    few, (test_x, test_y) = np.sort(np.concatenate(numbers)), splits["test"]
    asked = np.isin(test_y, kept)
    train = rows_of_array(x[few], np.searchsorted(kept, y[few]), classes)
    return train, rows_of_array(test_x[asked], np.searchsorted(kept, test_y[asked]), classes)


def small() -> None:
    """Means over seeds; C and T are medians, with the least and the largest C."""
    for name in SETS:
        splits = splits_of(name)
        for classes, each in SHAPES:
            found: dict[str, list[tuple[Search, list[float], float]]] = {"old": [], "new": []}
            for seed in range(SEEDS):
                train, test = subsample(splits, classes, each, seed)
                for rule, (chosen, cpu) in zip(found, rules(train, None), strict=True):
                    found[rule].append((chosen, scores(chosen, test), cpu))
            for rule, runs in found.items():
                C = np.array([chosen.fit.C for chosen, _, _ in runs])
                T = np.median([chosen.probe.temperature for chosen, _, _ in runs])
                values = np.mean([values for _, values, _ in runs], axis=0)
                spread = f"{np.median(C):.3g} ({C.min():.1g} to {C.max():.1g})"
                cpu = float(np.mean([cpu for _, _, cpu in runs]))
                print(line(f"{name}, {classes} x {each}", rule, spread, f"{T:.3f}", values, cpu))


def main() -> None:
    """Print one table."""
    print("| rows | rule | C | T | top-1 % | NLL | ECE % | NLL, ECE at T = 1 | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    official()
    small()


if __name__ == "__main__":
    main()
