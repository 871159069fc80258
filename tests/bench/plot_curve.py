"""Val accuracy over C, converged and as scikit-learn's default leaves it: one SVG per set.

    python tests/bench/plot_curve.py OUT_FOLDER

Fits on train16, scores on val, 25 values of C from 1e-6 to 1e6, two a decade.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
from clip_data import data_folder
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression

from linprobe_train.solver.fit import FitSettings, make_trainer
from linprobe_train.solver.lbfgs import Tolerance
from linprobe_train.solver.passes import crew_of
from linprobe_train.solver.preparation import Preparation
from linprobe_train.solver.rows import rows_of_array

CS = tuple(10.0 ** (e / 2) for e in range(-12, 13))
COLOURS = ("#0b6e4f", "#c0392b")


def curves(path: Path) -> dict[str, list[float]]:
    """Val accuracy in per cent at every C, by solver."""
    with np.load(path) as z:
        x, y = z["train16_x"], z["train16_y"].astype(np.int64)
        xv, yv = z["val_x"], z["val_y"].astype(np.int64)
    k = int(y.max()) + 1
    train, val = rows_of_array(x, y, k), rows_of_array(xv, yv, k)
    ours, theirs = [], []
    X, V = (Preparation(True).apply(part).astype(np.float64) for part in (x, xv))
    with crew_of(1) as crew:
        trainer = make_trainer(train, FitSettings(), crew)
        for C in CS:
            trainer.fit(C, Tolerance())
            right = trainer.probe(C).probabilities(val).argmax(1) == yv
            ours.append(100 * float(right.mean()))
            model = LogisticRegression(C=C, max_iter=1000).fit(X, y)
            theirs.append(100 * float(model.score(V, yv)))
    return {"linprobe": ours, "scikit-learn, default tol": theirs}


def draw(title: str, lines: dict[str, list[float]], path: Path) -> None:
    """Draw the curves into an SVG file."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ddd")
    for (name, values), colour in zip(lines.items(), COLOURS, strict=True):
        axes.plot(CS, values, color=colour, label=name)
    axes.set(xscale="log", xlabel="C")
    axes.set_title(title, loc="left", fontsize="medium")
    axes.legend(frameon=False)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.name}):
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def main() -> None:
    """Draw every set and print its numbers."""
    out = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    for path in sorted((data_folder() / "clip_features").glob("*.npz")):
        lines = curves(path)
        title = f"{path.stem}: val accuracy (%) over C, 16 shots, CLIP features"
        draw(title, lines, out / f"val_over_c_{path.stem}.svg")
        print(f"\n# {path.stem}\n| C | {' | '.join(lines)} |\n|---|---|---|")
        for i, C in enumerate(CS):
            print(f"| {C:.3g} | {' | '.join(f'{v[i]:.2f}' for v in lines.values())} |")


if __name__ == "__main__":
    main()
