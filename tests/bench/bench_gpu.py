"""The CUDA path: is it right, what if memory is short, and where does the time go.

``make bench-gpu`` installs what it needs and runs it: under 8 minutes on a bare machine with a GPU,
without a network but for the packages. Weights are random, images are made here. Where nothing can
be installed, it runs from the sources, and says which packages are missing and how to bring them.

Every result is a line of JSON, in the file ``bench_gpu.jsonl`` of ``--out`` too; a section that
fails says so, and the next one runs. ``--smoke`` runs all of it at toy size on the CPU.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import tomllib
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = [str(ROOT / name) for name in ("extract", "store", "train")]
SHARED_MEMORY = Path("/dev/shm")


def missing_packages() -> list[str]:
    """Distributions that pyproject.toml asks for and that are not installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["extract"], "ftfy"]
    missing = []
    for requirement in wanted:
        name = requirement.split("[")[0].split(">")[0].split("=")[0]
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    return list(dict.fromkeys(missing))


def how_to_bring(missing: list[str]) -> str:
    """What to do about missing packages where nothing can be installed from an index."""
    return (
        f"missing: {' '.join(missing)}\n"
        "where there is an index, for the Python and the platform of this machine:\n"
        f"  python3 -m pip download --no-deps -d .wheels {' '.join(missing)}\n"
        "here, with the folder .wheels (and what these packages need in turn):\n"
        "  python3 -m pip install --no-index --no-deps --target /tmp/site .wheels/*.whl\n"
        f"  PYTHONPATH=/tmp/site python3 {Path(__file__).relative_to(ROOT)}"
    )


def fast_folder(*, is_smoke: bool) -> Path | None:
    """Where to put 2 GB of shards; None for the usual place of temporary files."""
    if is_smoke or not os.access(SHARED_MEMORY, os.W_OK):
        return None
    return SHARED_MEMORY if shutil.disk_usage(SHARED_MEMORY).free > 8 << 30 else None


def main(arguments: list[str] | None = None) -> int:
    """Run the sections; the exit code says whether any failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="toy size, on the CPU")
    parser.add_argument("--only", default="", help="names of sections, with commas between")
    parser.add_argument("--seconds", type=float, default=420.0, help="budget")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="a folder")
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--full-but", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if missing := missing_packages():
        print(how_to_bring(missing))
        return 2
    sys.path[:0] = [*SOURCE_ROOTS, str(ROOT / "tests/factories"), str(Path(__file__).parent)]
    import torch
    from gpu_sections import SECTIONS, Bench, full_device

    if not options.smoke and not torch.cuda.is_available():
        print("no CUDA device: not run (--smoke runs it at toy size on the CPU)")
        return 0
    if options.full_but:
        full_device(options.weights, options.full_but)
        return 0
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=fast_folder(is_smoke=options.smoke)) as name:
        out = None if options.out is None else Path(options.out) / "bench_gpu.jsonl"
        bench = Bench(Path(name), options.smoke, out, SOURCE_ROOTS)
        for section, needed in SECTIONS.items():
            if options.only and section.__name__ not in options.only.split(","):
                continue
            left = options.seconds - (time.perf_counter() - started)
            if left < needed:
                bench.show(section.__name__, skipped=f"{left:.0f} s left, needs {needed:.0f}")
                continue
            try:
                section(bench)
            except Exception:
                bench.failed.append(section.__name__)
                bench.show(section.__name__, failed=traceback.format_exc().splitlines()[-6:])
        took = round(time.perf_counter() - started, 1)
        bench.show("done", seconds=took, failed=bench.failed)
    return 1 if bench.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
