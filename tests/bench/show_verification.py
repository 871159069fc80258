"""What verified reading costs: CPU time of verifying features beside that of a default probe.

``python tests/bench/show_verification.py [--rows 50000] [--dim 512] [--classes 100]`` prints it.
CPU time of this process, all its threads, since the wall clock of a shared machine says little; the
files are in the page cache. A prediction verifies once and multiplies once.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from linprobe import FeatureStore, sweep
from linprobe_store.care.importing import import_files
from linprobe_store.format.spec import DatasetNames
from linprobe_train.api import as_rows

Result = TypeVar("Result")
REPEATS = 7


def main() -> None:
    """Make the features, verify them some times, fit a default probe once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="show-verification-") as folder:
        root = fill(Path(folder), args.rows, args.dim, args.classes)

        def verify() -> None:
            split = FeatureStore(root).split("train")
            split.maps("embedding")
            assert len(split.labels) == len(split.keys) == args.rows

        def open_only() -> None:
            FeatureStore(root).split("train")

        opening = statistics.median(cpu_of(open_only)[0] for _ in range(REPEATS))
        verifying = statistics.median(cpu_of(verify)[0] for _ in range(REPEATS)) - opening
        size = f"{args.rows:,} x {args.dim} float16, {args.classes} classes"
        print(f"{size}; CPU seconds of one process, all threads")
        print(f"open the split                {opening:9.4f}")
        print(f"verify features, labels, keys {verifying:9.4f}", flush=True)
        rows = as_rows(FeatureStore(root).split("train"), None, tap="embedding")
        fitting, search = cpu_of(lambda: sweep(FeatureStore(root).split("train")))
        predicting, _ = cpu_of(lambda: search.probe.logits(rows))
    print(f"default probe, sweep and fit  {fitting:9.4f}   verification: {verifying / fitting:.3%}")
    print(f"predict all these rows        {predicting:9.4f}")


def cpu_of(work: Callable[[], Result]) -> tuple[float, Result]:
    """CPU seconds of this process for some work, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def fill(folder: Path, n: int, d: int, k: int) -> Path:
    """A store of gaussian classes that overlap."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, k, n)
    means = rng.standard_normal((k, d), np.float32) * 0.12
    features = (means[labels] + rng.standard_normal((n, d), np.float32)).astype(np.float16)
    np.savez(folder / "x.npz", features=features, labels=labels)
    import_files(
        FeatureStore(folder / "features"),
        [f"train={folder / 'x.npz'}"],
        "gaussians",
        DatasetNames("gaussians"),
    )
    return folder / "features"


if __name__ == "__main__":
    main()
