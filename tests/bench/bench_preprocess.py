"""Images per second and core: the two preprocessing paths against the model's own transform.

Run ``python tests/bench/bench_preprocess.py [ROUNDS]``. One thread; CPU time, so that other work on
the machine counts little; every image goes through every variant in turn, and the table has medians
over the rounds. The images are made here: photographs that ship with scikit-learn, cropped,
mirrored, scaled and grained, saved as JPEG 4:2:0 with the bytes per pixel of ordinary photographs.
"""

import io
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from sklearn.datasets import load_sample_image

from linprobe_extract.pixels.preprocess import preprocess
from linprobe_store.format.spec import PreprocessSpec

SPEC = PreprocessSpec(
    image_size=224,
    mean=open_clip.OPENAI_DATASET_MEAN,
    std=open_clip.OPENAI_DATASET_STD,
    interpolation="bicubic",
    resize_mode="shortest",
    fill_color=0,
    crop_pct=1.0,
    path="fast",
    canary="",
)
N_IMAGES = 12


@dataclass(frozen=True)
class Variant:
    """A way from bytes to pixels."""

    name: str
    """As printed."""
    run: Callable[[bytes], object]
    """Takes an encoded image."""


def make_jpegs(width: int, height: int, quality: int) -> list[bytes]:
    """Photographs of one size."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(N_IMAGES):
        photo = Image.fromarray(load_sample_image("china.jpg" if i % 2 else "flower.jpg"))
        side = int(rng.integers(250, 400))
        left, top = int(rng.integers(0, 640 - side)), int(rng.integers(0, 427 - side * 3 // 4))
        crop = photo.crop((left, top, left + side, top + side * 3 // 4))
        big = np.asarray(crop.resize((width, height), Image.Resampling.LANCZOS), np.float32)
        grained = big + rng.normal(0, 5, big.shape)
        image = Image.fromarray(np.clip(grained, 0, 255).astype(np.uint8))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        made.append(buffer.getvalue())
    return made


def variants() -> tuple[Variant, ...]:
    """The model's own transform first: the others are told as multiples of it."""
    transform = image_transform_v2(PreprocessCfg(size=224), is_train=False)
    slot = torch.empty(3, 224, 224, dtype=torch.uint8)
    exact = replace(SPEC, path="exact")
    return (
        Variant("open_clip image_transform", lambda data: transform(Image.open(io.BytesIO(data)))),
        Variant("linprobe exact", lambda data: preprocess(exact, data, slot)),
        Variant("linprobe fast", lambda data: preprocess(SPEC, data, slot)),
    )


def drift(jpegs: list[bytes]) -> tuple[int, float]:
    """Largest gray-level difference of fast to exact, and the share of pixels that differ."""
    slots = torch.empty(2, 3, 224, 224, dtype=torch.uint8)
    largest, differing = 0, 0
    for data in jpegs:
        preprocess(SPEC, data, slots[0])
        preprocess(replace(SPEC, path="exact"), data, slots[1])
        difference = (slots[0].int() - slots[1].int()).abs()
        largest = max(largest, int(difference.max()))
        differing += int((difference > 0).sum())
    return largest, differing / (len(jpegs) * slots[0].numel())


def measure(jpegs: list[bytes], rounds: int) -> dict[str, float]:
    """CPU milliseconds per image and variant: median over rounds of the mean over images."""
    ways = variants()
    spent: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(rounds + 1):  # the first round warms up and is dropped
        totals = dict.fromkeys(spent, 0.0)
        for data in jpegs:
            for way in ways:
                start = time.thread_time()
                way.run(data)
                totals[way.name] += time.thread_time() - start
        for name, total in totals.items():
            spent[name].append(1000 * total / len(jpegs))
    return {name: statistics.median(times[1:]) for name, times in spent.items()}


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    torch.set_num_threads(1)
    print(f"{'variant':28}{'JPEG':>11}{'kB':>6}{'ms':>8}{'images/s/core':>15}{'times':>7}")
    for width, height, quality in ((500, 375, 92), (2000, 1500, 90)):
        jpegs = make_jpegs(width, height, quality)
        times = measure(jpegs, rounds)
        base = next(iter(times.values()))
        kilobytes = sum(map(len, jpegs)) / len(jpegs) / 1000
        for name, ms in times.items():
            size = f"{width}x{height}"
            print(f"{name:28}{size:>11}{kilobytes:6.0f}{ms:8.2f}{1000 / ms:15.0f}{base / ms:7.2f}")
        largest, share = drift(jpegs)
        print(f"fast differs from exact by at most {largest} gray levels, in {share:.2%} of pixels")


if __name__ == "__main__":
    main()
