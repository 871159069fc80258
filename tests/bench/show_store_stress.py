"""Everybody on one store at once: run ``python tests/bench/show_store_stress.py --seconds 120``."""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "factories"))

from store_stress import remains, stress


def main() -> None:
    """Print the counts."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=120.0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="show-stress-") as folder:
        tally = stress(Path(folder), given.seconds, seed=given.seed)
        left = remains(Path(folder))
    for title, counts in (("done", tally.done), ("refused", tally.refused)):
        for name, count in sorted(counts.items()):
            print(f"{title:<10}{count:>8,}  {name}")
    print(f"tracebacks{len(tally.tracebacks):>8,}")
    print(f"wrong rows{len(tally.wrong):>8,}")
    print(f"left      {len(left):>8,}")
    for line in (*tally.tracebacks[:5], *tally.wrong[:5], *left[:5]):
        print(line)


if __name__ == "__main__":
    main()
