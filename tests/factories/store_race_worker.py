"""A writer of parts, run as a process of its own so that it can be killed.

``python store_race_worker.py ROOT SEED`` writes all parts of the race that are not there yet, in
an order that depends on the seed, and prints ``ready`` before the first.
"""

import random
import sys
from pathlib import Path

from store_factories import block, encoder_spec, fingerprint, register, slice_block

N_PARTS = 12
PART_ROWS = 3000
SPEC = encoder_spec(96, 64)


def main(root: Path, seed: int) -> None:
    """Write what is missing."""
    encoder = register(root, SPEC)
    order = list(range(N_PARTS))
    random.Random(seed).shuffle(order)
    print("ready", flush=True)  # noqa: T201 - the test waits for it
    for i in order:
        shard = fingerprint(i)
        if encoder.committed_part(shard) is not None:
            continue
        whole = block(encoder.spec, PART_ROWS + i, seed=i, prefix=shard.name)
        with encoder.part_writer(shard) as writer:
            for start in range(0, len(whole.keys), 256):
                writer.append(slice_block(whole, start, start + 256))
            writer.commit(skipped=[], batch_size=256, planned=len(whole.keys), labelling="cls")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
