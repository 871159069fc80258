"""What a fit, a search or the whole command takes of anonymous memory, beside what it planned.

python tests/factories/memory_shapes.py '{"what": "fit", "n": 3000, "d": 128, "k": 20}'

makes rows on disk, runs the case in a process where nothing else has grown the heap, and prints
JSON. Peaks are the process' RssAnon, read every 2 ms, from the moment when all is imported and one
small case is done; pages of mapped files do not count.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal
from unittest.mock import patch

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shape:
    """One case."""

    what: Literal["fit", "sweep", "probe"]
    """``fit_probe``, ``sweep``, or the command ``probe``."""
    n: int
    """Rows."""
    d: int
    """Features."""
    k: int
    """Classes."""
    multi_label: bool = False
    """Whether a row has several classes."""
    threads: int = 1
    """Of the crew."""
    C: float | None = 100.0
    """Of a fit, and of a command without a search."""
    protocol: str = "clip-paper"
    """Of a search."""
    folds: int = 0
    """Of a search."""
    memory: int | None = None
    """Limit in bytes."""
    streamed: bool = False
    """Whether rows are read from disk, whatever the memory."""
    max_iter: int = 1000
    """Of a fit."""


@dataclass(frozen=True)
class Grown:
    """What came of it, in bytes."""

    grown: int
    """Most anonymous memory above that before."""
    planned: int
    """What was planned."""
    resident: bool
    """Whether rows were copied."""
    seconds: float
    """CPU seconds."""


def measure(shape: Shape) -> Grown:
    """Run a case in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder) / "warm", _warm(shape))
        _write(Path(folder) / "case", shape)
        case = json.dumps(asdict(shape))
        command = [sys.executable, __file__, case, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}:\n{done.stderr}")
    return Grown(**json.loads(done.stdout.splitlines()[-1]))


def _write(folder: Path, shape: Shape) -> None:
    """CLIP-like rows in float16, in blocks: power-law spectrum, some labels wrong."""
    n, d, k, rng = shape.n, shape.d, shape.k, np.random.default_rng(0)
    spectrum = (np.arange(1, d + 1) ** -0.5).astype(np.float32)
    centres = 0.6 * rng.standard_normal((k, d), np.float32) * spectrum
    classes = rng.integers(0, k, n)
    folder.mkdir()
    rows = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float16, (n, d))
    for start in range(0, n, 8192):
        y = classes[start : start + 8192]
        x = rng.standard_normal((len(y), d), np.float32) * spectrum + centres[y]
        rows[start : start + len(y)] = x / np.linalg.norm(x, axis=1, keepdims=True)
    labels = np.where(rng.random(n) < 0.02, rng.integers(0, k, n), classes)
    if shape.multi_label:
        hot = np.zeros((n, k), np.uint8)
        hot[np.arange(n), labels] = hot[np.arange(n), rng.integers(0, k, n)] = 1
        labels = hot
    np.save(folder / "y.npy", labels)
    if shape.what == "probe":
        from train_factories import SplitData, stored_dataset

        cut = n * 4 // 5
        parts = {"train": slice(0, cut), "test": slice(cut, n)}
        splits = {name: SplitData(rows[part], labels[part]) for name, part in parts.items()}
        stored_dataset(folder / "store", splits, classes=tuple(f"class {j}" for j in range(k)))


def _run(shape: Shape, folder: Path, x: NDArray[np.float16], y: NDArray[np.int64]) -> None:
    from linprobe_train.api import fit_probe, sweep
    from linprobe_train.protocol.protocols import protocol_named
    from linprobe_train.solver.fit import FitSettings
    from linprobe_train.solver.lbfgs import Tolerance

    settings = FitSettings(
        threads=shape.threads, memory_bytes=shape.memory, streamed=shape.streamed
    )
    if shape.what == "fit":
        assert shape.C is not None
        tolerance = Tolerance(max_iter=shape.max_iter)
        fit_probe(x, y, C=shape.C, settings=settings, tolerance=tolerance)
    elif shape.what == "sweep":
        protocol = protocol_named(shape.protocol)
        sweep(x, y, protocol=protocol, folds=shape.folds, settings=settings)
    else:
        from linprobe_train import cli

        memory = None if shape.memory is None else str(shape.memory)
        out = folder / "results"
        cli.probe(folder / "store", out=out, memory=memory, threads=shape.threads, c_value=shape.C)


def _inside(shape: Shape, folder: Path) -> Grown:
    from linprobe_train.protocol import search
    from linprobe_train.protocol.budget import SearchPlan
    from linprobe_train.solver import fit
    from linprobe_train.solver.memory import MemoryPlan

    plans: list[MemoryPlan | SearchPlan] = []
    module, name = (fit, "plan_memory") if shape.what == "fit" else (search, "plan_search")
    plan = getattr(module, name)

    def recorded(*arguments: object, **named: object) -> MemoryPlan | SearchPlan:
        plans.append(plan(*arguments, **named))
        return plans[-1]

    with patch.object(module, name, recorded):
        for each in ("warm", "case"):
            x = np.load(folder / each / "x.npy", mmap_mode="r")
            y = np.load(folder / each / "y.npy")
            run = shape if each == "case" else _warm(shape)
            before, began = anonymous_bytes(), time.process_time()
            peak, done = [before], threading.Event()
            watcher = threading.Thread(target=_watch, args=(peak, done))
            watcher.start()
            try:
                _run(run, folder / each, x, y)
            finally:
                done.set()
                watcher.join()
    last, seconds = plans[-1], time.process_time() - began
    return Grown(peak[0] - before, last.total_bytes, last.resident, seconds)


def _warm(shape: Shape) -> Shape:
    """A case so small that what it frees is no help."""
    return replace(shape, n=90, d=8, k=3, memory=None)


def _watch(peak: list[int], done: threading.Event) -> None:
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous_bytes())


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise SystemExit("this needs Linux's /proc/self/status")


if __name__ == "__main__":
    case = Shape(**json.loads(sys.argv[1]))
    came = _inside(case, Path(sys.argv[2])) if len(sys.argv) > 2 else measure(case)
    sys.stdout.write(json.dumps(asdict(came)) + "\n")
