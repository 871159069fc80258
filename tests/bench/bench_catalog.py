"""``store ls`` of 40 encoders x 20 datasets x 2 splits: CPU seconds, three times; makes them first.

Two minutes the first time, a second then::

    python tests/bench/bench_catalog.py [FOLDER]
"""

import sys
import time
from pathlib import Path

import numpy as np

from linprobe_store.arrays.seal import SealTarget, write_split
from linprobe_store.format.commit import PartRows
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
from linprobe_store.handles.store import FeatureStore
from linprobe_store.reports import list_store, listing_text

N, D = 20, 8
CLASSES = tuple(f"class {i}" for i in range(100))


def make(store: FeatureStore) -> None:
    """Seal splits of twenty rows."""
    rng = np.random.default_rng(0)
    for e in range(40):
        taps = (Tap("embedding", D),)
        spec = EncoderSpec(f"bench{e}", {}, "gelu", f"{e:064x}", taps, None, "fp32", "float16")
        encoder = store.register_encoder(spec, EncoderNames(f"bench {e}", f"bench-{e}"))
        for k in range(20):
            shards = [ShardFingerprint(f"{s}.tar", k, f"{k:064x}") for s in ("test", "train")]
            splits = [SplitSpec(shard.name[:-4], (shard,)) for shard in shards]
            dataset = DatasetSpec(tuple(splits), "cls", CLASSES)
            stored = encoder.register_dataset(dataset, DatasetNames(f"data {k}", "top1"))
            for split in splits:
                block = FeatureBlock(
                    tuple(map(str, range(N))),
                    {"embedding": rng.standard_normal((N, D)).astype(np.float16)},
                    rng.integers(0, len(CLASSES), N),
                    rng.integers(0, 256, (N, 32), np.uint8),
                )
                target = SealTarget(stored.path / split.name, spec, dataset, split.name)
                write_split(target, [block], [PartRows(split.shards[0], 0, N, ())])


def main() -> None:
    """Make the store if need be, and list it."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/linprobe-catalog")
    if not folder.exists():
        make(FeatureStore(folder))
    for _ in range(3):
        start = time.process_time()
        text = listing_text(list_store(FeatureStore(folder).listing()))
        print(f"ls: {time.process_time() - start:.2f} s CPU, {len(text.splitlines()):,} lines")


if __name__ == "__main__":
    main()
