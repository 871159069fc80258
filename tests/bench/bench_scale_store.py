"""The store at the shape of ImageNet-21k: 14.2 million rows of tiny features in 14,200 parts.

One table: CPU seconds and memory of what is left to do, of the seal, of removing the parts and of
what follows, each in a process of its own. The parts are one another's hard links but for their
commits, so that making them takes a minute; keys count anew in every shard::

    python tests/bench/bench_scale_store.py [--parts 14200] [--rows 1000] [--folder /tmp/scale]
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

from linprobe.records import JsonValue, canonical_json, digest_json, plain, read_bytes
from linprobe_store.arrays.part import part_path
from linprobe_store.care.remove import remove_parts
from linprobe_store.care.verify import verify_store
from linprobe_store.format.layout import COMMIT_FILE
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
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.store import FeatureStore

D = 4
SPEC = EncoderSpec("bench", {}, "gelu", "0" * 64, (Tap("embedding", D),), None, "fp32", "float16")
CLASSES = tuple(map(str, range(1000)))


def shards(n: int) -> tuple[ShardFingerprint, ...]:
    """Fingerprints of the source tars."""
    return tuple(ShardFingerprint(f"train-{i:05d}.tar", i, f"{i:064x}") for i in range(n))


def dataset(n_parts: int) -> DatasetSpec:
    """Of one split; keys count anew in every shard."""
    return DatasetSpec((SplitSpec("train", shards(n_parts)),), "cls", CLASSES, "shard")


def opened(folder: Path) -> StoredEncoder:
    """The encoder of the parts."""
    return FeatureStore(folder).register_encoder(SPEC, EncoderNames("bench", "bench"))


def make(folder: Path, n_parts: int, rows: int) -> None:
    """Write a part, and link the others to it; their commits are their own."""
    encoder, (first, *others) = opened(folder), shards(n_parts)
    rng = np.random.default_rng(0)
    block = FeatureBlock(
        tuple(f"n{i // 100:08d}/n{i // 100:08d}_{i:06d}" for i in range(rows)),
        {"embedding": rng.standard_normal((rows, D)).astype(np.float16)},
        rng.integers(0, len(CLASSES), rows),
        rng.integers(0, 256, (rows, 32), np.uint8),
    )
    with encoder.part_writer(first) as writer:
        writer.append(block)
        writer.commit(skipped=[], batch_size=512, planned=rows, labelling="cls")
    source = part_path(encoder.path, first)
    fields = cast("dict[str, JsonValue]", json.loads(read_bytes(source / COMMIT_FILE)))
    fields.pop("digest")
    for shard in others:
        part = part_path(encoder.path, shard)
        shutil.copytree(source, part, copy_function=os.link)
        (part / COMMIT_FILE).unlink()
        own = {**fields, "shard": plain(shard)}
        (part / COMMIT_FILE).write_bytes(canonical_json({**own, "digest": digest_json(own)}))


def state(encoder: StoredEncoder, n_parts: int) -> str:
    """What is left to do."""
    names = encoder.part_names()
    n_left = sum(part_path(encoder.path, shard).name not in names for shard in shards(n_parts))
    return f"{n_left} left"


def seal(encoder: StoredEncoder, n_parts: int) -> str:
    """Seal the split."""
    split = encoder.seal(dataset(n_parts), "train", names=DatasetNames("like-imagenet-21k"))
    return f"{split.n:,} rows"


def remove(encoder: StoredEncoder, n_parts: int) -> str:
    """Verify the split and remove its parts."""
    split = encoder.dataset().split("train")
    return f"{remove_parts(encoder, [split])} of {n_parts} parts"


def reopen(encoder: StoredEncoder, n_parts: int) -> str:
    """Open the split, as a run with nothing to do."""
    del n_parts
    return f"{encoder.dataset().split('train').n:,} rows"


def verify(encoder: StoredEncoder, n_parts: int) -> str:
    """Every byte of the store."""
    del n_parts
    units = list(verify_store(FeatureStore(encoder.path.parent), deep=True))
    return f"{sum(unit.problem is not None for unit in units)} problems"


STEPS: dict[str, Callable[[StoredEncoder, int], str]] = {
    step.__name__: step for step in (state, seal, remove, reopen, verify)
}


def measure(folder: Path, name: str, n_parts: int) -> None:
    """Take a step, and print what it cost this process."""
    encoder = opened(folder)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = STEPS[name](encoder, n_parts)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    anon = next(
        line.split()[1]
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("RssAnon")
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{name:<8} {cpu:8.2f} s CPU {wall:8.2f} s wall   peak {peak / 1024:5.0f} MiB "
        f"(before {base / 1024:.0f}, anonymous after {int(anon) / 1024:.0f})   {outcome}",
        flush=True,
    )


def main() -> None:
    """Make the parts if need be, then take the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=14_200)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/linprobe-scale"))
    parser.add_argument("--steps", nargs="*", default=[*STEPS])
    parser.add_argument("--step", choices=STEPS)
    args = parser.parse_args()
    if args.step:
        measure(args.folder, args.step, args.parts)
        return
    if not args.folder.exists():
        make(args.folder, args.parts, args.rows)
    for name in args.steps:
        words = ["--step", name, "--folder", args.folder, "--parts", args.parts]
        subprocess.run([sys.executable, __file__, *map(str, words)], check=True)


if __name__ == "__main__":
    main()
