"""What sharing a run costs a shard, and what looking for images that were encoded before costs one.

``python tests/bench/bench_sharing.py``: half a minute, one thread, process CPU time.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from linprobe.leases import Leases
from linprobe_extract.run.claims import Claims
from linprobe_extract.run.taking import StoredRows
from linprobe_extract.run.work import Work
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.types import DatasetPlan, Shard, SplitPlan
from linprobe_store.arrays.unit_maps import map_unit
from linprobe_store.arrays.unit_writer import UnitWriter
from linprobe_store.format.spec import (
    EncoderNames,
    EncoderSpec,
    FeatureBlock,
    ShardFingerprint,
    Tap,
)
from linprobe_store.handles.store import FeatureStore

SPEC = EncoderSpec("bench", {}, "gelu", "0" * 64, (Tap("embedding", 2),), None, "fp32", "float16")


def cpu_s(run: Callable[[], object]) -> float:
    """CPU seconds of a call, of all threads."""
    started = time.process_time()
    run()
    return time.process_time() - started


def share(folder: Path, n_shards: int) -> None:
    """Print what taking and giving back a shard costs one process, beside 63 that hold three."""
    names = (f"{i:05}.tar" for i in range(n_shards))
    shards = tuple(Shard(f"/{name}", ShardFingerprint(name, 10, f"{name:>064}")) for name in names)
    plan = DatasetPlan("bench", (SplitPlan("train", shards),), "cls", ("a", "b"))
    stored = FeatureStore(folder / "store").register_encoder(SPEC, EncoderNames("b", "b"))
    work = Work(plan, ("train",), stored, FingerprintCache(folder / "store"))
    with Leases(stored.path) as others, Leases(stored.path) as mine:
        waiting = Claims(work, others, 0, print).take(lambda: False)
        for _ in range(63 * 3):
            next(waiting)
        own = Claims(work, mine, 0, print)
        shares = own.take(lambda: False)

        def take_all() -> None:
            for shard, _ in zip(shares, range(200), strict=False):
                own.settle(shard, has_failed=False)

        print(f"{cpu_s(take_all) / 200 * 1e3:6.2f} ms of CPU a shard taken, of {n_shards}")


def look_up(folder: Path, n_rows: int) -> None:
    """Print what the index of so many rows costs, and an image that is not among them."""
    rng = np.random.default_rng(0)
    (folder / str(n_rows)).mkdir()
    unit = UnitWriter(folder / str(n_rows), SPEC, "bench", strong=False)
    step = 1 << 16
    for start in range(0, n_rows, step):
        n = min(step, n_rows - start)
        keys = tuple(map(str, range(start, start + n)))
        digests = rng.integers(0, 256, (n, 32), dtype=np.uint8)
        features = {"embedding": np.ones((n, 2), np.float16)}
        unit.append(FeatureBlock(keys, features, np.zeros(n, np.int64), digests))
    arrays = map_unit(folder / str(n_rows), unit.close({}))
    rows: list[StoredRows] = []
    index_s = cpu_s(lambda: rows.append(StoredRows({"unit": arrays}, print)))
    tasks = [[os.urandom(32) for _ in range(8)] for _ in range(4000)]
    find_s = cpu_s(lambda: [rows[0].find(task) for task in tasks])
    print(
        f"{n_rows:>10,} rows: index {index_s:5.2f} s of CPU, {find_s / 32e3 * 1e6:.1f} us an image"
    )


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as name:
        share(Path(name), 14_200)
        for n_rows in (100_000, 1_000_000, 4_000_000):
            look_up(Path(name), n_rows)


if __name__ == "__main__":
    main()
