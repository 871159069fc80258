"""Packing speed against a plain webdataset.TarWriter loop, on the same image folder.

Run: ``python tests/bench/bench_pack.py [N_IMAGES] [ROUNDS]``. Rounds are interleaved; the figures
are medians of CPU time per image (all threads) and of wall time, and ratios to the peer. The peer
copies bytes and labels; ours also hashes, decodes every image to find unreadable ones, finds
duplicates and syncs to disk.
"""

import io
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.pack.shard import image_defect


def write_folder(root: Path, n: int) -> None:
    """``n`` smooth 500x375 JPEGs of about 60 kB in ten classes, a fifth of them test."""
    rng = np.random.default_rng(0)
    for index in range(n):
        coarse = rng.integers(0, 256, (75, 100, 3), dtype=np.uint8)
        photo = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        split = "test" if index % 5 == 0 else "train"
        path = root / split / f"class{index % 10}" / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path, quality=90)


def peer(root: Path, out: Path) -> None:
    """What a short script would do: bytes and labels into tars of 1,000."""
    for split in ("train", "test"):
        (out / split).mkdir(parents=True)
        files = sorted((root / split).rglob("*.jpg"))
        with webdataset.ShardWriter(str(out / split / "%d.tar"), maxcount=1000, verbose=0) as tar:
            for path in files:
                label = path.parent.name[5:]
                key = f"{split}-{path.stem}"
                tar.write({"__key__": key, "jpg": path.read_bytes(), "cls": label.encode()})


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def check_cost(path: Path) -> tuple[float, float]:
    """Milliseconds to check an image as packing does, and by a full decode."""
    content = path.read_bytes()

    def full() -> None:
        with Image.open(io.BytesIO(content)) as image:
            image.load()

    draft = min(measure(lambda: image_defect(content))[0] for _ in range(30))
    return 1e3 * draft, 1e3 * min(measure(full)[0] for _ in range(30))


def main(n: int, rounds: int) -> None:
    """Print the table."""
    base = Path(tempfile.mkdtemp(prefix="bench-pack-"))
    root, source = base / "images", f"imagefolder:{base / 'images'}"
    write_folder(root, n)
    contenders: dict[str, Callable[[Path], object]] = {
        "webdataset.ShardWriter": lambda out: peer(root, out),
        "pack, 1 thread": lambda out: pack(source, out, PackOptions(jobs=1)),
        "pack, 2 threads": lambda out: pack(source, out, PackOptions(jobs=2)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, work in contenders.items():
            out = base / f"out{number}"
            times[name].append(measure(lambda work=work, out=out: work(out)))  # type: ignore[misc] # bound now
            shutil.rmtree(out)
    medians = {
        name: (statistics.median(t[0] for t in taken), statistics.median(t[1] for t in taken))
        for name, taken in times.items()
    }
    peer_cpu, peer_wall = medians["webdataset.ShardWriter"]
    print(f"{n} JPEGs of 500x375, medians of {rounds} interleaved rounds")
    print(f"{'':24} {'CPU ms/image':>12} {'ratio':>6} {'images/s':>9} {'ratio':>6}")
    for name, (cpu, wall) in medians.items():
        print(
            f"{name:24} {1e3 * cpu / n:12.3f} {cpu / peer_cpu:6.2f} {n / wall:9.0f} "
            f"{peer_wall / wall:6.2f}"
        )
    draft, full = check_cost(next(root.rglob("*.jpg")))
    print(f"one check for readability {draft:.2f} ms, by a full decode {full:.2f} ms")
    shutil.rmtree(base)


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 2000,
        int(sys.argv[2]) if len(sys.argv) > 2 else 5,
    )
