"""Val accuracy over C, converged and as scikit-learn's default leaves it: one SVG per set.

    python tests/bench/plot_curve.py OUT_FOLDER

Fits on train16, scores on val, 25 values of C from 1e-6 to 1e6, two a decade.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import warnings
from pathlib import Path

import numpy as np
from clip_data import data_folder
from sklearn.linear_model import LogisticRegression

from linprobe_train.protocol.search import SWEEP_TOLERANCE
from linprobe_train.solver.fit import FitSettings, make_trainer
from linprobe_train.solver.passes import crew_of
from linprobe_train.solver.preparation import Preparation
from linprobe_train.solver.rows import rows_of_array

CS = tuple(10.0 ** (e / 2) for e in range(-12, 13))
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 360, 60, 40, 20, 50
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
            trainer.fit(C, SWEEP_TOLERANCE)
            right = trainer.probe(C).probabilities(val).argmax(1) == yv
            ours.append(100 * float(right.mean()))
            model = LogisticRegression(C=C, max_iter=1000).fit(X, y)
            theirs.append(100 * float(model.score(V, yv)))
    return {"linprobe": ours, "scikit-learn, default tol": theirs}


def svg(title: str, lines: dict[str, list[float]]) -> str:
    """Draw the curves."""
    low = 5 * np.floor(min(map(min, lines.values())) / 5)
    high = 5 * np.ceil(max(map(max, lines.values())) / 5)

    def place(C: float, value: float) -> tuple[float, float]:
        across = (np.log10(C) + 6) / 12
        up = (value - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )

    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{title}</text>',
    ]
    for value in np.arange(low, high + 1, 5):
        x, y = place(CS[0], value)
        parts.append(f'<path d="M{x:.1f} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for e in range(-6, 7, 2):
        x, y = place(10.0**e, low)
        parts.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">1e{e}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">C</text>')
    for i, (name, values) in enumerate(lines.items()):
        spots = [place(C, value) for C, value in zip(CS, values, strict=True)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        style = f'fill="none" stroke="{COLOURS[i]}" stroke-width="2"'
        parts.append(f'<polyline points="{points}" {style}/>')
        y = TOP + 16 + 16 * i
        parts.append(f'<text x="{LEFT + 12}" y="{y}" fill="{COLOURS[i]}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Draw every set and print its numbers."""
    out = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    for path in sorted((data_folder() / "clip_features").glob("*.npz")):
        lines = curves(path)
        title = f"{path.stem}: val accuracy (%) over C, 16 shots, CLIP features"
        (out / f"val_over_c_{path.stem}.svg").write_text(svg(title, lines))
        print(f"\n# {path.stem}\n| C | {' | '.join(lines)} |\n|---|---|---|")
        for i, C in enumerate(CS):
            print(f"| {C:.3g} | {' | '.join(f'{v[i]:.2f}' for v in lines.values())} |")


if __name__ == "__main__":
    main()
