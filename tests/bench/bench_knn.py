"""k-NN at 50,000 x 512 against scikit-learn's brute force: processor seconds, wall and memory.

Each side runs in its own process, in turn, so that neither sees the other's memory; the table gives
medians and ratios. Usage: bench_knn.py [ROWS] [QUERIES] [REPEATS]
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np

K, DIM, CLASSES = 200, 512, 100


def data(rows: int, queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit rows around class centres, float32, and the labels of the bank."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, DIM), np.float32)
    labels = rng.integers(0, CLASSES, rows + queries)
    x = centres[labels] + 7 * rng.standard_normal((rows + queries, DIM), np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x[:rows], x[rows:], labels.astype(np.int64)


def ours(bank: np.ndarray, test: np.ndarray, labels: np.ndarray) -> list[float]:
    """Accuracy at k = 10, 20, 100, 200 by one search."""
    from linprobe_train.solver.rows import rows_of_array
    from linprobe_train.tasks.knn import knn_scores

    first = rows_of_array(bank, labels[: len(bank)], CLASSES)
    second = rows_of_array(test, labels[len(bank) :], CLASSES)
    results = knn_scores(first, second, (10, 20, 100, 200), threads=2)
    return [scores.score("top1").value for scores in results]


def theirs(bank: np.ndarray, test: np.ndarray, labels: np.ndarray) -> list[float]:
    """The same by scikit-learn: one brute-force search, then the same votes."""
    from sklearn.neighbors import NearestNeighbors

    from linprobe_train.tasks.knn import Neighbours, ranking, votes

    search = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="sqeuclidean").fit(bank)
    distance, rows = search.kneighbors(test)
    block = Neighbours((1 - distance / 2).astype(np.float32), rows.astype(np.int64))
    own = labels[len(bank) :]
    return [
        float((ranking(votes(block, k, labels, CLASSES, 0.07))[:, 0] == own).mean())
        for k in (10, 20, 100, 200)
    ]


def measure(side: str, rows: int, queries: int) -> None:
    """Child process: print one JSON line."""
    bank, test, labels = data(rows, queries)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    accuracy = (ours if side == "linprobe" else theirs)(bank, test, labels)
    print(
        json.dumps(
            {
                "wall": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000,
                "accuracy": accuracy,
            }
        )
    )


def main(rows: int = 50_000, queries: int = 50_000, repeats: int = 1) -> None:
    """Run both sides in turn and print the table."""
    runs_of: dict[str, list[dict[str, float]]] = {"linprobe": [], "scikit-learn": []}
    for _ in range(repeats):
        for side, runs in runs_of.items():
            words = [sys.executable, __file__, "--child", side, str(rows), str(queries)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout))
    print(f"{queries} queries against {rows} x {DIM}, k up to {K}, 2 threads, {repeats} runs")
    print(f"{'':14}{'wall s':>9}{'cpu s':>9}{'MB more':>9}  top-1 at k = 10, 20, 100, 200")
    medians = {}
    for side, runs in runs_of.items():
        medians[side] = {
            name: float(np.median([run[name] for run in runs])) for name in ("wall", "cpu", "MB")
        }
        typical = medians[side]
        print(
            f"{side:14}{typical['wall']:9.1f}{typical['cpu']:9.1f}{typical['MB']:9.0f}  "
            f"{runs[0]['accuracy']}"
        )
    ratios = [
        medians["linprobe"][x] / max(medians["scikit-learn"][x], 1) for x in ("wall", "cpu", "MB")
    ]
    print(f"{'ratio':14}{ratios[0]:9.2f}{ratios[1]:9.2f}{ratios[2]:9.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main(*(int(word) for word in sys.argv[1:]))
