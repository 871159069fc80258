"""Speed and memory of the feature store, beside zarr-python on the same files.

``python tests/bench/bench_store.py [--rows 1300000] [--dim 768] [--folder DIR]`` prints the tables.
Every pair of rivals runs interleaved in one process, warm, and is compared by CPU time (the wall
clock of a shared machine says little); memory is anonymous memory of a fresh process.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import zarr

from linprobe_store.care.copy import copy_store
from linprobe_store.care.importing import import_files
from linprobe_store.care.verify import verify_store
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
from linprobe_store.handles.encoder import StoredEncoder, open_encoder
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

Result = TypeVar("Result")

REPEATS = 5
BLOCK_ROWS = 8192
PART_ROWS = 10_000


def main() -> None:
    """Build the data, run everything, remove it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_300_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--probe", nargs=2, metavar=("WHAT", "ROOT"), default=None)
    args = parser.parse_args()
    if args.probe:
        print(json.dumps(probe(*args.probe)))
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-store-", dir=args.folder))
    try:
        run_all(folder, args.rows, args.dim)
    finally:
        shutil.rmtree(folder)


def run_all(folder: Path, n: int, d: int) -> None:
    """Print every table."""
    gigabytes = n * d * 2 / 1e9
    print(f"{n:,} rows x {d} float16 = {gigabytes:.2f} GB, zarr {zarr.__version__}\n")
    write_arrays(folder, n, d)
    print(f"{'writing':<34}{'wall s':>8}{'GB/s wall':>11}{'GB/s CPU':>10}")
    sealed = rate("import (.npy, digest + store)", gigabytes, lambda: do_import(folder))
    encoder = rate("write parts of 10,000 rows", gigabytes, lambda: write_parts(folder, n, d))
    split = rate("seal the parts", gigabytes, lambda: seal(encoder, n))
    rate("verify --deep (all of it, 3x)", 3 * gigabytes, lambda: verify(folder / "parts", sealed))
    rate("copy (sha256 on the way)", gigabytes, lambda: copy(folder))
    rate("zarr: write the same array", gigabytes, lambda: zarr_write(folder, d))
    rate("zarr: assign 10,000 rows at a time", gigabytes / 10, lambda: zarr_assign(folder, n, d))
    print_reading(split, gigabytes)
    print_opening(split)
    print_memory(folder, split)


def rate(what: str, gigabytes: float, work: Callable[[], Result]) -> Result:
    """Run once and print the rate."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:<34}{wall:>8.2f}{gigabytes / wall:>11.2f}{gigabytes / cpu:>10.2f}")
    return result


def write_arrays(folder: Path, n: int, d: int) -> None:
    """Features like CLIP's in ``x.npy``, labels in ``y.npy``."""
    rng = np.random.default_rng(0)
    base = (rng.standard_normal((PART_ROWS, d), np.float32) * 0.036).astype(np.float16)
    out = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float16, (n, d))
    for start in range(0, n, PART_ROWS):
        out[start : start + PART_ROWS] = np.roll(base, start // PART_ROWS, axis=0)[: n - start]
    del out
    np.save(folder / "y.npy", rng.integers(0, 1000, n))


def do_import(folder: Path) -> Split:
    """Import the arrays."""
    arrays = f"train={folder / 'x.npy'},{folder / 'y.npy'}"
    store = FeatureStore(folder / "imported")
    return import_files(store, [arrays], "bench", DatasetNames("imagenet-like"))[0]


def spec(d: int) -> EncoderSpec:
    """Spec of the encoder of the parts."""
    taps = (Tap("embedding", d),)
    return EncoderSpec("bench", {}, "gelu", "0" * 64, taps, None, "fp32", "float16")


def shards(n: int) -> tuple[ShardFingerprint, ...]:
    """Fingerprints of the source tars."""
    return tuple(
        ShardFingerprint(f"train-{i:05d}.tar", i, f"{i:064x}") for i in range(-(-n // PART_ROWS))
    )


def write_parts(folder: Path, n: int, d: int) -> StoredEncoder:
    """Write the parts in batches of 512, as extraction does."""
    encoder = FeatureStore(folder / "parts").register_encoder(spec(d), EncoderNames("b", "bench"))
    x = np.load(folder / "x.npy", mmap_mode="r")
    y = np.load(folder / "y.npy")
    for i, shard in enumerate(shards(n)):
        stop = min(n, (i + 1) * PART_ROWS)
        with encoder.part_writer(shard) as writer:
            for start in range(i * PART_ROWS, stop, 512):
                rows = slice(start, min(start + 512, stop))
                keys = tuple(f"{shard.name}/{row:08d}" for row in range(rows.start, rows.stop))
                writer.append(FeatureBlock(keys, {"embedding": x[rows]}, y[rows]))
            writer.commit(skipped=[], batch_size=512, planned=stop - i * PART_ROWS, labelling="cls")
    return encoder


def seal(encoder: StoredEncoder, n: int) -> Split:
    """Seal them."""
    classes = tuple(map(str, range(1000)))
    dataset = DatasetSpec((SplitSpec("train", shards(n)),), "cls", classes)
    return encoder.seal(dataset, "train", names=DatasetNames("imagenet-like"))


def verify(root: Path, other: Split) -> None:
    """Check every byte of both stores."""
    for store in (FeatureStore(root), FeatureStore(other.path.parents[3])):
        problems = [unit.problem for unit in verify_store(store, deep=True) if unit.problem]
        if problems:
            raise SystemExit(str(problems))


def copy(folder: Path) -> None:
    """Copy the imported store."""
    list(copy_store(str(folder / "imported"), str(folder / "copied")))
    shutil.rmtree(folder / "copied")


def zarr_write(folder: Path, d: int) -> None:
    """Whole shards through zarr, from the same array."""
    x = np.load(folder / "x.npy", mmap_mode="r")
    array = create_zarr(folder / "zarr-whole", len(x), d)
    rows = array.shards[0] if array.shards else len(x)
    for start in range(0, len(x), rows):
        array[start : start + rows] = x[start : start + rows]
    shutil.rmtree(folder / "zarr-whole")


def zarr_assign(folder: Path, n: int, d: int) -> None:
    """A tenth of the rows, a tar's worth at a time, which rewrites a shard each time."""
    x = np.load(folder / "x.npy", mmap_mode="r")
    array = create_zarr(folder / "zarr-parts", n // 10, d)
    for start in range(0, n // 10, PART_ROWS):
        stop = min(start + PART_ROWS, n // 10)
        array[start:stop] = x[start:stop]
    shutil.rmtree(folder / "zarr-parts")


def create_zarr(path: Path, n: int, d: int) -> "zarr.Array[zarr.core.metadata.ArrayV3Metadata]":
    """The layout of the store, made by zarr-python."""
    rows = (256 << 20) // (d * 2) // 2048 * 2048
    return zarr.create_array(
        path,
        shape=(n, d),
        dtype="float16",
        chunks=(2048, d),
        shards=(rows, d),
        compressors=None,
        config={"write_empty_chunks": True},
    )


def print_reading(split: Split, gigabytes: float) -> None:
    """Scan in blocks, and gather random rows: the map against zarr, interleaved."""
    group = zarr.open_group(split.path / "data.zarr", mode="r", use_consolidated=False)
    array = group["features_embedding"]
    if not isinstance(array, zarr.Array):
        raise TypeError(array)
    rng = np.random.default_rng(1)
    wanted = np.sort(rng.choice(split.n, min(4096, split.n), replace=False))

    def map_scan() -> None:
        for block in split.blocks("embedding", BLOCK_ROWS):
            block.view(np.uint16).max()

    def zarr_scan() -> None:
        for start in range(0, split.n, BLOCK_ROWS):
            np.asarray(array[start : start + BLOCK_ROWS]).view(np.uint16).max()

    contests = {
        "scan, 8192-row blocks": (map_scan, zarr_scan),
        "4096 random rows": (
            lambda: split.rows(wanted, "embedding"),
            lambda: array.oindex[wanted],
        ),
    }
    title = "reading (warm, median of 5)"
    print(f"\n{title:<34}{'map s':>8}{'zarr s':>8}{'ratio':>7}{'map GB/s':>10}")
    for what, (ours, theirs) in contests.items():
        ours_s, theirs_s = interleave(ours, theirs)
        ratio = theirs_s / ours_s
        speed = f"{gigabytes / ours_s:>10.2f}" if what.startswith("scan") else ""
        print(f"{what:<34}{ours_s:>8.3f}{theirs_s:>8.3f}{ratio:>6.1f}x{speed}")


def interleave(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """Median CPU seconds of both, run in turns after one warm-up each."""
    ours()
    theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS):
        for work, spent in zip((ours, theirs), times, strict=True):
            start = time.process_time()
            work()
            spent.append(time.process_time() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def print_opening(split: Split) -> None:
    """Milliseconds to open and verify, and of the first use of labels and keys."""
    root = split.path.parents[3]
    spent: dict[str, list[float]] = {"open": [], "labels": [], "keys": []}
    for _ in range(11):
        start = time.perf_counter()
        opened = FeatureStore(root).split("train")
        spent["open"].append(time.perf_counter() - start)
        for name in ("labels", "keys"):
            start = time.perf_counter()
            getattr(opened, name)
            spent[name].append(time.perf_counter() - start)
    files = len(opened.maps("embedding"))
    medians = ", ".join(f"{name} {1e3 * statistics.median(t):.1f}" for name, t in spent.items())
    print(f"\nopening, ms (median of 11; {files} shard files): {medians}")


def print_memory(folder: Path, split: Split) -> None:
    """Anonymous memory of a fresh process per task."""
    root = split.path.parents[3]
    print(f"\n{'memory of a fresh process, MiB':<34}{'anon +':>8}{'peak +':>8}{'file':>7}")
    for what, place in (
        ("map: open and scan", root),
        ("zarr: scan in blocks", split.path),
        ("zarr: whole array", split.path),
        ("seal", root),
        ("import", folder),
    ):
        command = [sys.executable, __file__, "--probe", what, str(place)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        grown: Mapping[str, int] = json.loads(result.stdout.splitlines()[-1])
        anon, peak, file = grown["RssAnon"], grown["peak"], grown["RssFile"]
        print(f"{what:<34}{anon:>8}{peak:>8}{file:>7}")


def probe(what: str, place: str) -> Mapping[str, int]:
    """Do one task and tell how memory grew; the anonymous peak is sampled by a thread."""
    work = {
        "map: open and scan": scan_map,
        "zarr: scan in blocks": scan_zarr,
        "zarr: whole array": lambda at: read_zarr(at)[...],
        "seal": reseal,
        "import": reimport,
    }[what]
    before = memory()
    peaks = [before["RssAnon"]]
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.005):
            peaks.append(memory()["RssAnon"])

    sampler = threading.Thread(target=sample)
    sampler.start()
    kept = work(Path(place))
    after = memory()
    stop.set()
    sampler.join()
    del kept
    grown = {name: after[name] - before[name] for name in before}
    return {**grown, "peak": max(peaks) - before["RssAnon"]}


def memory() -> Mapping[str, int]:
    """Resident memory in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) // 1024 for name in ("RssAnon", "RssFile")}


def scan_map(root: Path) -> Split:
    """Open and read every byte through the map."""
    split = FeatureStore(root).split("train")
    for block in split.blocks("embedding", BLOCK_ROWS):
        block.view(np.uint16).max()
    return split


def read_zarr(split_path: Path) -> "zarr.Array[zarr.core.metadata.ArrayV3Metadata]":
    """The same array through zarr."""
    group = zarr.open_group(split_path / "data.zarr", mode="r", use_consolidated=False)
    array = group["features_embedding"]
    if not isinstance(array, zarr.Array):
        raise TypeError(array)
    return array


def scan_zarr(split_path: Path) -> object:
    """Read every byte through zarr."""
    array = read_zarr(split_path)
    for start in range(0, array.shape[0], BLOCK_ROWS):
        np.asarray(array[start : start + BLOCK_ROWS]).view(np.uint16).max()
    return array


def reseal(root: Path) -> Split:
    """Seal the same parts again, with one class more."""
    split = FeatureStore(root).split("train")
    spec = split.dataset_spec
    other = DatasetSpec(spec.splits, spec.label_source, (*spec.classes, "another"))
    sealed = open_encoder(split.path.parents[2]).seal(other, "train", names=DatasetNames("again"))
    shutil.rmtree(sealed.path.parent)
    return sealed


def reimport(folder: Path) -> Split:
    """Import into a fresh store."""
    shutil.rmtree(folder / "imported")
    return do_import(folder)


if __name__ == "__main__":
    main()
