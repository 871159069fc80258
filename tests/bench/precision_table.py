"""The table of precisions: images/s of the whole command, features beside fp32's, and accuracy.

``python tests/bench/bench_extract.py precision [ROUNDS]`` makes it: every command is ``linprobe
extract`` in a process of its own on one core, the precisions in turn, medians of the CPU time over
the rounds. fp16, for which most CPUs have no units, is run once, and on fewer images.
"""

import json
import os
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import open_clip
import torch

from linprobe_extract.encoders.precision import device_facts
from linprobe_store.handles.store import FeatureStore

FLOWERS = Path(__file__).parents[3] / "shared" / "data" / "flowers12.tar"
FEW, REAL = 16, 960
"""Images of a command that mostly starts, and of the real set."""
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass
class Spent:
    """CPU seconds of whole commands, by round."""

    few: list[float] = field(default_factory=list)
    """On a handful of images: imports, loading, the built-in images."""
    many: list[float] = field(default_factory=list)


def cpu_seconds(*words: str | Path) -> float:
    """CPU time of a command of linprobe on one core, which must succeed."""
    core = min(os.sched_getaffinity(0))
    process = subprocess.Popen(
        [sys.executable, "-m", "linprobe", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, words
    return usage.ru_utime + usage.ru_stime


def extract(model: Sequence[str | Path], precision: str, data: Path, store: Path) -> float:
    """CPU seconds of one extraction on a CPU, in float32 rows so that only arithmetic rounds."""
    words = ("extract", "--model", *model, "--data", data, "--store", store, "--device", "cpu")
    return cpu_seconds(*words, "--precision", precision, "--storage-dtype", "float32")


def rows_of(store: Path) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """All features of a store, by split and row."""
    dataset = FeatureStore(store).encoder().dataset()
    splits = [dataset.split(name).array("embedding") for name in dataset.splits]
    return np.concatenate([np.asarray(split, np.float64) for split in splits])


def top1(store: Path) -> str:
    """Accuracy of the default probe on the features of a store."""
    words = ["probe", "--store", str(store), "--out", f"{store}.out", "--json"]
    probe = [sys.executable, "-m", "linprobe", *words]
    told = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)
    scores = {score["name"]: score["value"] for score in told["results"][0]["scores"]}
    return f"{scores['top1']:.2%}"


def table(
    name: str, model: Sequence[str | Path], data: Callable[[int], Path], sizes: Sequence[int],
    folder: Path, rounds: int, *, probe: bool = False,
) -> None:  # fmt: skip
    """Print the rows of a model: images/s with and without the start, error, accuracy.

    ``sizes`` are the images of fp32 and bf16, of fp16, and of the commands that mostly start.
    """
    n_many, n_slow, n_few = sizes
    spent = {precision: Spent() for precision in PRECISIONS}
    for i in range(rounds):
        for precision, times in spent.items():
            if precision == "fp16" and i:
                continue
            n = n_slow if precision == "fp16" else n_many
            store = folder / f"{name}-{precision}-{i}"
            times.few.append(extract(model, precision, data(n_few), Path(f"{store}-few")))
            times.many.append(extract(model, precision, data(n), store))
    reference = rows_of(folder / f"{name}-fp32-0")
    for precision, times in spent.items():
        store = folder / f"{name}-{precision}-0"
        x = rows_of(store)
        y = reference[: len(x)]
        cosine = np.einsum("ij,ij->i", x, y) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        rms = np.sqrt(((x - y) ** 2).mean() / (y**2).mean())
        few, many = statistics.median(times.few), statistics.median(times.many)
        alone = (len(x) - n_few) / (many - few)
        print(
            f"{name:16}{precision:6}{len(x):7}{len(x) / many:10.2f}{alone:10.2f}"
            f"{1 - cosine.min():12.1e}{rms:10.1e}{top1(store) if probe else '-':>9}",
            flush=True,
        )


def flowers(folder: Path) -> Path:
    """The real set, packed: flowers where they are, else scikit-learn's digits."""
    out, source = folder / "real", "digits"
    if FLOWERS.exists():
        with tarfile.open(FLOWERS) as tar:
            tar.extractall(folder, filter="data")
        source = f"imagefolder:{folder / 'flowers12'}"
    cpu_seconds("pack", source, "--out", out)
    return out


def precision_table(folder: Path, rounds: int, write: Callable[[Path, int], None]) -> None:
    """Print the table of real towers; ``write`` makes a shard of so many images at a path."""

    def photos(n: int) -> Path:
        path = folder / f"photos-{n}" / "test" / "0.tar"
        if not path.exists():
            path.parent.mkdir(parents=True)
            write(path, n)
        return path.parent.parent

    print(f"one core ({device_facts(torch.device('cpu')).bf16_units or 'no units for bf16'})")
    columns = (("images", 7), ("images/s", 10), ("no start", 10), ("1 - cosine", 12), ("rms", 10))
    print(" " * 22 + "".join(f"{title:>{width}}" for title, width in (*columns, ("top1", 9))))
    for architecture in ("ViT-B-32", "ViT-B-16"):
        checkpoint = folder / f"{architecture}.pt"
        torch.manual_seed(0)
        torch.save(open_clip.create_model(architecture).state_dict(), checkpoint)
        model = (architecture, "--weights", checkpoint)
        table(architecture, model, photos, (128, 48, FEW), folder, rounds)
    real = flowers(folder)
    both = {FEW: photos(FEW)}
    all_of_it = (REAL, REAL, FEW)
    table("demo", ["demo"], lambda n: both.get(n, real), all_of_it, folder, rounds, probe=True)
