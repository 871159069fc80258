"""The sections of ``bench_gpu.py``: each measures something of the CUDA path and shows it."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_preprocess import make_jpegs
from encoder_factories import make_model, random_pixels
from msgspec import UNSET
from tar_factories import tar_bytes

from linprobe import Encoder, FeatureStore, extract_features
from linprobe.machine import available_cores
from linprobe_extract.device_memory import DeviceMemoryError, free_memory
from linprobe_extract.encoders.device import Flight, Launch, encode_images, launcher, pixel_room
from linprobe_extract.encoders.family import Precision, PreprocessPath
from linprobe_extract.pixels.preprocess import preprocess_all
from linprobe_extract.run.batches import EncodedBatch, Unit
from linprobe_extract.run.keys import SplitKeys
from linprobe_extract.run.pipeline import Pipeline
from linprobe_extract.shards.samples import read_samples
from linprobe_extract.shards.tar import fingerprint_shard, read_members
from linprobe_extract.shards.types import Labelling, Shard

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
LABELS = Labelling("cls", None)


@dataclass
class Bench:
    """What the sections share."""

    folder: Path
    is_smoke: bool
    out: Path | None
    """File that gets the lines too."""
    source_roots: list[str]
    """For the import paths of other processes."""
    encoders: dict[tuple[str, str, str], Encoder] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    """Images per second that later sections are compared with."""
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = torch.device("cpu" if self.is_smoke else "cuda:0")
        self.kind = self.device.type
        self.threads = max(1, available_cores() - 1)
        self.batches = (4,) if self.is_smoke else (64, 256, 1024)
        self.batch = self.batches[len(self.batches) // 2]
        if self.is_smoke:
            model = make_model(self.folder, "vit")
            self.model, self.weights = str(model.config), model.weights
        else:
            import open_clip

            self.model, self.weights = "ViT-B-16", self.folder / "weights.pt"
            torch.manual_seed(0)
            torch.save(open_clip.create_model(self.model).state_dict(), self.weights)
        self.jpegs = make_jpegs(500, 375, 92)
        self.data = self._write_shards(1, 6) if self.is_smoke else self._write_shards(16, 1000)

    def _write_shards(self, n_shards: int, n_images: int) -> Path:
        data = self.folder / "data"
        for split, count in (("train", n_shards), ("test", 1)):
            (data / split).mkdir(parents=True)
            for i in range(count):
                members = []
                for k in range(n_images if split == "train" else 3):
                    members.append((f"{split}{i}-{k}.jpg", self.jpegs[k % len(self.jpegs)]))
                    members.append((f"{split}{i}-{k}.cls", str(k % 10).encode()))
                (data / split / f"{i}.tar").write_bytes(tar_bytes(members))
        return data

    def encoder(
        self, precision: Precision, kind: str = "", path: PreprocessPath = "fast"
    ) -> Encoder:
        """The one model, loaded once for each device, precision and preprocessing."""
        key = kind or self.kind, precision, path
        if key not in self.encoders:
            device: Any = key[0]
            self.encoders[key] = Encoder(
                self.model,
                weights=self.weights,
                device=device,
                precision=precision,
                preprocess=path,
            )
        return self.encoders[key]

    def show(self, name: str, **facts: object) -> None:
        """Print a result, and keep it."""
        line = json.dumps({"check": name, **facts}, default=str)
        print(line, flush=True)
        if self.out is not None:
            with self.out.open("a") as file:
                file.write(line + "\n")

    def rate(self, call: Callable[[], object], n_images: int, seconds: float = 1.5) -> float:
        """Images per second of a call, by the wall, after two to warm up."""
        for _ in range(2):
            call()
        self.wait()
        limit, n, start = 0.02 if self.is_smoke else seconds, 0, time.perf_counter()
        while n == 0 or time.perf_counter() - start < limit:
            call()
            n += 1
            if n % 4 == 0:
                self.wait()
        self.wait()
        return round(n * n_images / (time.perf_counter() - start), 1)

    def wait(self) -> None:
        """Wait for the device."""
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def pixels(self, n: int) -> torch.Tensor:
        """Random pixels on the device."""
        return random_pixels(n, self.encoder("fp32").image_size).to(self.device)


def drift(ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, object]:
    """How far features (n, d) are from others."""
    a, b = ours.double().cpu(), theirs.double().cpu()
    return {
        "relative": float((a - b).norm() / b.norm()),
        "least_cosine": float(torch.cosine_similarity(a, b).min()),
        "bit_equal": bool((a == b).all()),
    }


def environment(bench: Bench) -> None:
    """What it runs on."""
    gpu: dict[str, object] = {"gpu": None}
    if bench.kind == "cuda":
        device = torch.cuda.get_device_properties(0)
        gpu = {"gpu": device.name, "capability": torch.cuda.get_device_capability(0)}
        gpu["gib"] = round(device.total_memory / 2**30, 1)
    names = ("torchvision", "open_clip_torch", "simplejpeg", "pillow")
    versions = {name: version(name) for name in names}
    bench.show("environment", torch=torch.__version__, cores=available_cores(), **gpu, **versions)


def correctness(bench: Bench) -> None:
    """Every precision against fp32 on the CPU; again; in batches of other sizes."""
    images = torch.stack([torch.roll(bench.pixels(1)[0].cpu(), 7 * i, 2) for i in range(8)])
    want = bench.encoder("fp32", "cpu").encode_pixels(images)
    for precision in PRECISIONS:
        encoder, pixels = bench.encoder(precision), images.to(bench.device)
        got = encoder.encode_pixels(pixels)
        for tap, features in want.items():
            bench.show(
                "against fp32 on the CPU", precision=precision, tap=tap, **drift(got[tap], features)
            )
        again = encoder.encode_pixels(pixels)["embedding"]
        bench.show("repeated", precision=precision, **drift(again, got["embedding"]))
        for size in (1, 3):
            parts = [encoder.encode_pixels(part)["embedding"] for part in torch.split(pixels, size)]
            facts = drift(torch.cat(parts), got["embedding"])
            bench.show("other batch size", precision=precision, size=size, **facts)


def order(bench: Bench) -> None:
    """Batches in flight with buffers that are overwritten at once: each must have its features."""
    encoder, size = bench.encoder("bf16"), bench.batch
    launch, base = launcher(encoder), bench.pixels(size).cpu()
    shifted = [torch.roll(base, 13 * i, 3) for i in range(6)]
    want = [encode_images(encoder, pixels)["embedding"] for pixels in shifted]
    buffers = torch.split(pixel_room(encoder, 4 * size), size)
    flying: list[tuple[int, Flight]] = []
    n, wrong = 12 if bench.is_smoke else 120, 0
    for i in range(n + 3):
        if len(flying) == 3 or i >= n:
            which, flight = flying.pop(0)
            wrong += not np.array_equal(flight.collect()["embedding"], want[which])
        if i < n:
            buffers[i % 4].copy_(shifted[i % 6])
            flying.append((i % 6, launch(buffers[i % 4])))
    bench.show("order", batches=n, wrong=wrong)


def _launch_and_wait(launch: Launch, pixels: torch.Tensor) -> object:
    return launch(pixels).collect()


def encoder_alone(bench: Bench) -> None:
    """Images per second of the encoder: pixels on the device; from page-locked memory; graphs."""
    for precision in PRECISIONS:
        encoder = bench.encoder(precision)
        for size in bench.batches:
            pixels = bench.pixels(size)
            rate = bench.rate(partial(encoder.encode_pixels, pixels), size)
            bench.rates[precision] = max(rate, bench.rates.get(precision, 0.0))
            room, launch = pixel_room(encoder, size).copy_(pixels), launcher(encoder)
            copied = bench.rate(partial(_launch_and_wait, launch, room), size)
            facts = {"precision": precision, "batch": size, "copied_and_waited": copied}
            bench.show("encoder alone", images_s=rate, **facts)
    if bench.kind == "cuda":
        encoder, pixels = bench.encoder("bf16"), bench.pixels(bench.batch)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            encoder.encode_pixels(pixels)
        rate = bench.rate(graph.replay, len(pixels))
        bench.show("CUDA graph", precision="bf16", batch=len(pixels), images_s=rate)


def short_memory(bench: Bench) -> None:
    """What is asked for and does not fit: page-locked memory, a batch, the canary, cuBLAS."""
    encoder = bench.encoder("fp32")
    try:
        pixel_room(encoder, 10**9)
        bench.show("page-locked memory", failed_as=None)
    except DeviceMemoryError as error:
        bench.show("page-locked memory", failed_as=error.message)
    if bench.kind != "cuda":
        return
    free_memory()
    used, total = torch.cuda.memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    for name, room, size in (("batch", 2 << 30, 4096), ("canary", 24 << 20, 256)):
        torch.cuda.set_per_process_memory_fraction((used + room) / total)
        try:
            store = bench.folder / f"short {name}"
            run = extract_features(
                encoder, shards=[f"test={bench.data}/train/0.tar"], store=store, batch_size=size
            ).run
            assert run is not None
            bench.show("short memory", of=name, asked=size, ended=run.batch_size, rows=run.n_images)
        except DeviceMemoryError as error:
            bench.show("short memory", of=name, asked=size, refused=error.message)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            free_memory()
    script = str(Path(__file__).with_name("bench_gpu.py"))
    for mib in (360, 400):
        child = [sys.executable, script, "--full-but", str(mib), "--weights", str(bench.weights)]
        done = subprocess.run(child, capture_output=True, text=True, timeout=100, check=False)
        says = (done.stdout + done.stderr)[-400:]
        bench.show("cuBLAS without room", mib_left=mib, rc=done.returncode, says=says)


def full_device(weights: Path, mib_left: int) -> None:
    """In a process of its own: a GPU that the weights fill before cuBLAS has made its handle."""
    torch.cuda.set_device(0)
    free, _ = torch.cuda.mem_get_info()
    ballast = torch.empty(free - (mib_left << 20), dtype=torch.uint8, device="cuda")
    try:
        encoder = Encoder("ViT-B-16", weights=weights, device="cuda", precision="fp32")
        encode_images(encoder, random_pixels(8, 224))
        print(f"fitted beside {len(ballast)} bytes")
    except DeviceMemoryError as error:
        print(f"DeviceMemoryError: {error.message}")


def host_path(bench: Bench) -> None:
    """Reading and decoding without an encoder: one reader alone, then decode threads."""
    shards = sorted((bench.data / "train").glob("*.tar"))
    units = []
    for path in shards:
        shard = Shard(str(path))
        units.append(Unit(shard, shard, fingerprint_shard(shard), SplitKeys(UNSET)))
    start, n = time.perf_counter(), 0
    for unit in units[:4]:
        n += sum(1 for _ in read_samples("x", read_members(unit.source, unit.fingerprint), LABELS))
    bench.show("reader alone", samples_s=round(n / (time.perf_counter() - start)))
    encoder = bench.encoder("fp32")

    def nothing(pixels: torch.Tensor) -> Flight:
        rows = np.ones((len(pixels), 1), np.float16)
        return Flight(lambda: True, lambda: {"embedding": rows})

    for threads in sorted({1, bench.threads // 4 or 1, bench.threads // 2 or 1, bench.threads}):
        pipeline = Pipeline(
            nothing, encoder.preprocess, LABELS, bench.batch, threads,
            lambda n: pixel_room(encoder, n),
        )  # fmt: skip
        some = units[: max(1, len(units) * threads // bench.threads)]
        start, used = time.perf_counter(), time.process_time()
        items = pipeline.run(some)
        n = sum(len(item.block.keys) for item in items if isinstance(item, EncodedBatch))
        wall, cpu = time.perf_counter() - start, time.process_time() - used
        bench.rates["host"] = max(n / wall, bench.rates.get("host", 0.0))
        facts = {"threads": threads, "cores_busy": round(cpu / wall, 1)}
        bench.show("host path", images_s=round(n / wall), cpu_ms=round(1e3 * cpu / n, 3), **facts)


def end_to_end(bench: Bench) -> None:
    """Whole runs, and the share of what the encoder and the host path give alone."""
    for precision in PRECISIONS:
        for size in bench.batches[-2:]:
            store = bench.folder / f"{precision}-{size}"
            report = extract_features(
                bench.encoder(precision), bench.data, store, batch_size=size, threads=bench.threads
            )
            run = report.run
            assert run is not None
            rate, (limit, _) = run.n_images / run.seconds, run.timings.limit
            alone = min(bench.rates.get(precision, 0.0), bench.rates.get("host", 0.0))
            bench.show(
                "end to end",
                precision=precision,
                batch=size,
                images_s=round(rate, 1),
                of_the_least_alone=round(rate / alone, 3) if alone else None,
                limit=limit,
                decode_wait_s=round(run.timings.decode_wait_s, 3),
                device_s=round(run.timings.device_s, 3),
                failed=len(run.failed),
            )


def processes(bench: Bench) -> None:
    """One, two and four processes on one GPU: rates, and the same bytes."""
    roots = [*bench.source_roots, os.environ.get("PYTHONPATH", "")]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, roots))}
    for n in (1,) if bench.is_smoke else (1, 2, 4):
        store = bench.folder / f"processes {n}"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(n), "-m", "linprobe", "extract", "--json"]
        command += ["--model", bench.model, "--weights", str(bench.weights), "--precision", "bf16"]
        command += ["--device", bench.kind, "--data", str(bench.data), "--store", str(store)]
        start = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ, timeout=120, check=False
        )
        wall = round(time.perf_counter() - start, 1)
        if done.returncode:
            bench.failed.append(f"processes {n}")
            bench.show(
                "processes", n=n, rc=done.returncode, says=(done.stdout + done.stderr)[-600:]
            )
            continue
        rows = FeatureStore(store).split("train").array("embedding")
        digest = hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()[:12]
        seconds = json.loads(done.stdout)["run"]["seconds"]  # of the one that sealed
        facts = {"images_s": round(len(rows) / seconds, 1), "with_start_s": wall}
        bench.show("processes", n=n, rows=len(rows), digest=digest, **facts)


def jpegs_on_the_gpu(bench: Bench) -> None:
    """``--preprocess nvjpeg`` (in a smoke run by the CPU): drift, rate, the whole run."""
    if bench.is_smoke:
        spec = bench.encoder("fp32").preprocess
    else:
        spec = bench.encoder("bf16", path="nvjpeg").preprocess

    def pixels_of(path: PreprocessPath, n: int) -> torch.Tensor:
        device = bench.device if path == "nvjpeg" else torch.device("cpu")
        images = [bench.jpegs[i % len(bench.jpegs)] for i in range(n)]
        out = torch.zeros(n, 3, spec.image_size, spec.image_size, dtype=torch.uint8, device=device)
        preprocess_all(replace(spec, path=path), images, list(out))
        return out.cpu()

    n = len(bench.jpegs)
    ours, exact = pixels_of("nvjpeg", n), pixels_of("exact", n)
    gray = (ours.int() - exact.int()).abs().float()
    alone = torch.cat([pixels_of("nvjpeg", 1), ours[1:]])
    facts = {"max_gray": int(gray.max()), "mean_gray": round(float(gray.mean()), 4)}
    bench.show("nvJPEG against exact", alone_equal=bool((alone == ours).all()), **facts)
    for size in (4,) if bench.is_smoke else (8, 64, 256):
        rate = bench.rate(partial(pixels_of, "nvjpeg", size), size)
        bench.show("nvJPEG, one thread", images_a_call=size, images_s=rate)
    if bench.kind == "cuda":
        encoder = bench.encoder("bf16", path="nvjpeg")
        for threads in (1, 2, 4, bench.threads):
            store = bench.folder / f"nvjpeg-{threads}"
            report = extract_features(encoder, bench.data, store, batch_size=256, threads=threads)
            assert report.run is not None
            rate = report.run.n_images / report.run.seconds
            bench.show("nvJPEG end to end", threads=threads, images_s=round(rate, 1))


SECTIONS: dict[Callable[[Bench], None], float] = {
    environment: 0,
    correctness: 20,
    order: 10,
    short_memory: 60,
    encoder_alone: 40,
    host_path: 40,
    end_to_end: 60,
    jpegs_on_the_gpu: 40,
    processes: 90,
}
"""What is run, in this order, with the seconds that it may need."""
