"""One fit over Dask workers: bits, overhead of a pass, a store beyond a worker's memory limit.

python tests/bench/bench_workers.py            # all three tables: about 4 minutes on 2 cores
python tests/bench/bench_workers.py bits       # threads 1, 2, 7; workers 1, 2, 3; one killed
python tests/bench/bench_workers.py overhead   # seconds and MB of a pass beside its rows
python tests/bench/bench_workers.py memory     # 1.2 GB of rows, workers that may take 600 MB
"""

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hashlib
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from distributed import Client, LocalCluster

from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    EncoderNames,
    EncoderSpec,
    FeatureBlock,
    ShardFingerprint,
    SplitSpec,
    Tap,
)
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore
from linprobe_train.api import fit_probe, sweep
from linprobe_train.readers.choose import readers
from linprobe_train.readers.crew import ClusterCrew
from linprobe_train.solver.fit import FitSettings
from linprobe_train.solver.lbfgs import Tolerance

STREAMED = FitSettings(streamed=True)


def build(root: Path, n: int, d: int, k: int) -> Split:
    """CLIP-like rows in float16: power-law spectrum, noise around k centres."""
    rng = np.random.default_rng(0)
    spectrum = (np.arange(1, d + 1) ** -0.5).astype(np.float32)
    centres = 0.6 * rng.standard_normal((k, d), np.float32) * spectrum
    spec = EncoderSpec(
        "bench", {}, "gelu", "0" * 64, (Tap("embedding", d),), None, "unknown", "float16"
    )
    encoder = FeatureStore(root).register_encoder(spec, EncoderNames("bench", "bench"))
    shard = ShardFingerprint("train.tar", 1, "a" * 64)
    classes = tuple(f"class {j}" for j in range(k))
    with encoder.part_writer(shard) as writer:
        for start in range(0, n, 16384):
            y = rng.integers(0, k, min(16384, n - start))
            x = rng.standard_normal((len(y), d), np.float32) * spectrum + centres[y]
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            keys = tuple(str(start + i) for i in range(len(y)))
            writer.append(FeatureBlock(keys, {"embedding": x.astype(np.float16)}, y))
        writer.commit(skipped=(), batch_size=1, planned=n, labelling="cls")
    dataset = DatasetSpec((SplitSpec("train", (shard,)),), "cls", classes)
    encoder.seal(dataset, "train", names=DatasetNames("rows", None))
    return FeatureStore(root).split("train")


@contextmanager
def workers(count: int, **limits: object) -> Iterator[Any]:
    """Worker processes of one thread."""
    with LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
        **{"memory_limit": 0, **limits},
    ) as cluster:
        yield cluster


def over(cluster: Any) -> FitSettings:  # noqa: ANN401
    return FitSettings(workers=cluster.scheduler_address, even_if_slower=True)


def row(name: str, split: Split, settings: FitSettings, C: float, steps: int) -> None:
    """One line of the table of bits."""
    began = time.perf_counter()
    probe, report = fit_probe(split, C=C, settings=settings, tolerance=Tolerance(max_iter=steps))
    digest = hashlib.sha256(probe.coef.tobytes() + probe.intercept.tobytes()).hexdigest()[:12]
    seconds = time.perf_counter() - began
    print(f"| {name} | {report.passes} | {digest} | {seconds:.1f} |", flush=True)


@contextmanager
def a_kill(pid: int, at: int) -> Iterator[None]:
    """Kill a worker with -9 while a pass goes on, the ``at``-th read of the rows."""
    wait, reads = ClusterCrew._result, 0

    def killing(self: ClusterCrew, future: Any) -> object:  # noqa: ANN401
        nonlocal reads
        reads += 1
        if reads == at:
            os.kill(pid, signal.SIGKILL)
        return wait(self, future)

    with patch.object(ClusterCrew, "_result", killing):
        yield


def bits(folder: Path) -> None:
    """The same coefficients, whoever reads the rows."""
    split, C = build(folder / "bits", 50_000, 128, 20), 10.0
    print("| 50,000 x 128 x 20, C = 10, read by | passes | sha256 of W, b | s |\n|---|---|---|---|")
    for form, settings in (("in memory", FitSettings()), ("streamed", STREAMED)):
        for threads in (1, 2, 7):
            row(f"threads {threads}, {form}", split, replace(settings, threads=threads), C, 1000)
    for count in (1, 2, 3):
        with workers(count) as cluster:
            row(f"dask {count}", split, over(cluster), C, 1000)
    with workers(3) as cluster, Client(cluster, set_as_default=False) as client:
        pid = next(iter(client.run(os.getpid).values()))
        with a_kill(pid, 25):
            row("dask 3, one killed -9 in a pass", split, over(cluster), C, 1000)
    print("\n| default search, streamed, by | C | T | sha256 of W |\n|---|---|---|---|")
    with workers(2) as cluster:
        here = replace(STREAMED, threads=2)
        for name, settings in (("threads 2", here), ("dask 2", over(cluster))):
            found = sweep(split, settings=settings)
            digest = hashlib.sha256(found.probe.coef.tobytes()).hexdigest()[:12]
            print(f"| {name} | {found.fit.C:.4g} | {found.probe.temperature:.6f} | {digest} |")


def overhead(folder: Path) -> None:
    """What a pass over 64 lanes costs beside its rows."""
    print("\n| m x d | W, MB | gradient, MB | workers | s a pass | MB sent by workers |")
    print("|---|---|---|---|---|---|", flush=True)
    for count in (1, 2, 3):
        with workers(count) as cluster, readers(over(cluster)) as crew:
            assert isinstance(crew, ClusterCrew)
            for m, d in ((100, 512), (1000, 768), (5000, 1024)):
                W, seconds = np.zeros((d, m), np.float32), []
                crew.empty_pass(64, W)
                before = sum(crew.client.run(_sent).values())
                for _ in range(5):
                    began = time.perf_counter()
                    crew.empty_pass(64, W)
                    seconds.append(time.perf_counter() - began)
                moved = (sum(crew.client.run(_sent).values()) - before) / 5e6
                sizes = f"{W.nbytes / 1e6:.1f} | {8 * m * (d + 1) / 1e6:.1f}"
                line = f"| {m} x {d} | {sizes} | {count} | {median(seconds):.3f} | {moved:.1f} |"
                print(line, flush=True)


def _sent(dask_worker: Any) -> int:  # noqa: ANN401
    """Bytes that this worker has sent to others, and to the scheduler."""
    return int(dask_worker.transfer_outgoing_bytes_total)


def memory(folder: Path) -> None:
    """Rows beyond what a worker may take: mapped, verified and read there all the same."""
    split = build(folder / "large", 600_000, 1024, 10)
    size = split.n * 1024 * 2 / 1e6
    print(
        f"\n| {size:.0f} MB of rows, 6 steps, by | passes | sha256 of W, b | s |\n|---|---|---|---|"
    )
    row("threads 2, streamed", split, replace(STREAMED, threads=2), 1.0, 6)
    with workers(2, memory_limit="600MB") as cluster:
        done, most = threading.Event(), [0]
        watcher = threading.Thread(target=_watch, args=(cluster, done, most))
        watcher.start()
        row("dask 2, 600 MB each", split, over(cluster), 1.0, 6)
        done.set()
        watcher.join()
    print(f"\nlargest resident memory of a worker: {most[0] / 1e6:.0f} MB")


def _watch(cluster: Any, done: threading.Event, most: list[int]) -> None:  # noqa: ANN401
    while not done.wait(0.2):
        known = cluster.scheduler_info["workers"].values()
        most[0] = max([most[0], *(worker.get("metrics", {}).get("memory", 0) for worker in known)])


def main() -> None:
    """Make the tables that are named, or all."""
    tables = {"bits": bits, "overhead": overhead, "memory": memory}
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or tables:
            tables[name](Path(folder))


if __name__ == "__main__":
    main()
