"""Extraction beside its peers: the host path, the whole run, writing, and memory.

Run ``python tests/bench/bench_extract.py [ROUNDS]``; or one table alone: ``bench_extract.py host
[ROUNDS]`` (about 5 minutes) or ``bench_extract.py precision [ROUNDS]`` (about 15). Every table is
made in one process, peer and ours in turn, medians over the rounds. CPU time (children included)
for the host path, so that other work on the machine counts little; wall time for the whole run,
which wants a quiet machine.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import open_clip
import torch
from bench_preprocess import make_jpegs
from host_table import BATCH, host_table, write_shard
from precision_table import precision_table

from linprobe import Encoder
from linprobe.machine import available_cores, keep_freed_memory
from linprobe.terminal import ignore
from linprobe_extract.encoders.device import launcher
from linprobe_extract.encoders.register import register
from linprobe_extract.run.encode import Run
from linprobe_extract.run.ranks import Ranks
from linprobe_extract.run.work import Work
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.locate import plan_dataset


def random_encoder(folder: Path, architecture: str) -> Encoder:
    """A real tower with random weights."""
    checkpoint = folder / f"{architecture}.pt"
    torch.manual_seed(0)
    torch.save(open_clip.create_model(architecture).state_dict(), checkpoint)
    return Encoder(architecture, weights=checkpoint, device="cpu")


def extract(encoder: Encoder, data: Path, store: Path) -> tuple[float, float]:
    """One run; its wall seconds, and those outside the encoder (waits, writing, sealing)."""
    plan = plan_dataset(str(data))
    stored = register(encoder, store, batch_size=BATCH)
    cache = FingerprintCache(store)
    work = Work(plan, tuple(split.name for split in plan.splits), stored, cache)
    alone = Ranks(0, 1, 0, 1)
    run = Run(work, encoder, BATCH, 1, 0.0, alone, ignore, threading.Event())
    start = time.perf_counter()
    report = run.extract()
    wall = time.perf_counter() - start
    assert len(report.sealed) == len(plan.splits)
    return wall, wall - report.timings.device_s


def forward_only(encoder: Encoder, n: int) -> float:
    """Wall seconds of the encoder alone over n images in batches."""
    launch = launcher(encoder)
    pixels = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)
    start = time.perf_counter()
    for done in range(0, n, BATCH):
        launch(pixels[: min(BATCH, n - done)]).collect()
    return time.perf_counter() - start


def whole_run(folder: Path, rounds: int, architecture: str, sizes: Mapping[str, int]) -> None:
    """Print the share of the encoder's own rate that a run on this CPU reaches."""
    keep_freed_memory()
    encoder = random_encoder(folder, architecture)
    data = folder / "whole"
    for split, n in sizes.items():
        (data / split).mkdir(parents=True)
        write_shard(data / split / "0.tar", make_jpegs(500, 375, 92), n)
    n = sum(sizes.values())
    forward_only(encoder, BATCH)
    alone, ours, outside = [], [], []
    for i in range(rounds):
        alone.append(forward_only(encoder, n))
        wall, rest = extract(encoder, data, folder / f"store{i}")
        ours.append(wall)
        outside.append(rest)
    mean = statistics.median
    ratio = mean(a / o for a, o in zip(alone, ours, strict=True))
    print(f"\nwhole run, {architecture} on {available_cores()} cores, {n} images of 500x375")
    print(f"encoder alone {n / mean(alone):6.2f} images/s; run {n / mean(ours):6.2f} images/s")
    print(f"share of the encoder's rate {ratio:.1%}; outside the encoder {mean(outside):.2f} s")


def writing(folder: Path) -> None:
    """Print what storing costs: seconds to write and seal against the run's."""
    from linprobe_store.format.spec import DatasetNames, FeatureBlock
    from linprobe_store.handles.store import FeatureStore

    stored = FeatureStore(folder / "store0").encoder()
    dataset = stored.dataset()
    start = time.perf_counter()
    n = 0
    for split in (dataset.split(name) for name in dataset.splits):
        for part in split.commit.parts:
            shard = part.shard
            rows = slice(part.row_start, part.row_start + part.rows)
            block = FeatureBlock(
                tuple(split.keys[rows]),
                {tap.name: split.array(tap.name)[rows] for tap in split.taps},
                split.labels[rows],
            )
            again = FeatureStore(folder / "again").register_encoder(stored.spec, stored.names)
            with again.part_writer(shard) as writer:
                writer.append(block)
                writer.commit(skipped=(), batch_size=BATCH, planned=part.rows, labelling="cls")
            n += part.rows
    for name in dataset.splits:
        again.seal(dataset.spec, name, names=DatasetNames("again"))
    print(f"writing, committing and sealing the same rows: {time.perf_counter() - start:.3f} s")


def memory(folder: Path) -> None:
    """Print the peak memory of runs over few and over many shards."""
    print("\npeak resident memory of `linprobe extract --model demo`, shards of 16 images")
    for n_shards in (2, 24):
        data = folder / f"shards{n_shards}"
        (data / "train").mkdir(parents=True)
        (data / "test").mkdir()
        jpegs = make_jpegs(500, 375, 92)
        for i in range(n_shards):
            write_shard(data / "train" / f"{i}.tar", jpegs, 16)
        write_shard(data / "test" / "x.tar", jpegs, 16)
        command = [sys.executable, "-m", "linprobe", "extract", "--model", "demo"]
        command += ["--data", str(data), "--store", str(folder / f"features{n_shards}")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        print(f"{n_shards:4} shards {usage.ru_maxrss / 1024:8.0f} MiB")


def main() -> None:
    """Print the tables."""
    only = sys.argv[1] if sys.argv[1:2] in (["precision"], ["host"]) else ""
    words = sys.argv[1 + bool(only) :]
    rounds = int(words[0]) if words else 3 if only == "precision" else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only == "precision":
            jpegs = make_jpegs(500, 375, 92)
            precision_table(folder, rounds, lambda path, n: write_shard(path, jpegs, n))
            return
        host_table(folder, rounds)
        if only:
            return
        whole_run(folder, max(1, rounds // 2), "ViT-B-32", {"train": 256, "test": 64})
        writing(folder)
        memory(folder)


if __name__ == "__main__":
    main()
