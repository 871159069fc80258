"""The host's side of extraction, tar to batch of pixels, beside three peers; and the readers alone.

``python tests/bench/bench_extract.py host [ROUNDS]``. Everything takes its turn within each round.
The limit is what decoding the JPEGs takes with nothing around it, by the decoder that we use.
"""

import io
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from bench_preprocess import SPEC, make_jpegs
from msgspec import UNSET
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.data.dataset import ImageDataset
from timm.data.loader import create_loader
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

sys.path.insert(0, str(Path(__file__).parents[1] / "factories"))
from tar_factories import tar_bytes

from linprobe_extract.encoders.device import Flight
from linprobe_extract.pixels import jpeg
from linprobe_extract.run.batches import EncodedBatch, Unit
from linprobe_extract.run.keys import SplitKeys
from linprobe_extract.run.pipeline import Pipeline
from linprobe_extract.shards.samples import read_samples
from linprobe_extract.shards.tar import fingerprint_shard, read_members
from linprobe_extract.shards.types import Labelling, Shard

BATCH = 32
SIZES = ((500, 375, 92, 384), (2000, 1500, 90, 64), (4000, 3000, 90, 32))
"""Width, height, JPEG quality and number of images."""
READ = ((12, 16_000), (77, 4_000))
"""kB of an image and number of them: what an encoder asks of the reader, with nothing decoded."""
CLS = Labelling("cls", None)


@dataclass(frozen=True)
class Images:
    """The same images in every form that a way takes."""

    jpegs: Sequence[bytes]
    """In memory, each file once."""
    shard: Shard
    """As a tar, with the fingerprint of its card."""
    folder: Path
    """As files in folders of classes."""

    @classmethod
    def make(cls, root: Path, jpegs: Sequence[bytes], n: int, *, with_files: bool) -> "Images":
        """Write n images of which ``jpegs`` are taken in turn."""
        images = [jpegs[i % len(jpegs)] for i in range(n)]
        shard = root / "images.tar"
        root.mkdir()
        write_shard(shard, jpegs, n)
        for i, data in enumerate(images if with_files else ()):
            (root / "files" / str(i % 10)).mkdir(parents=True, exist_ok=True)
            (root / "files" / str(i % 10) / f"{i}.jpg").write_bytes(data)
        fingerprint = fingerprint_shard(Shard(str(shard)))
        return cls(images, Shard(str(shard), fingerprint, n), root / "files")


def write_shard(path: Path, jpegs: Sequence[bytes], n: int) -> None:
    """A tar of n labelled images."""
    members = []
    for i in range(n):
        members += [(f"{path.stem}-{i:05d}.jpg", jpegs[i % len(jpegs)])]
        members += [(f"{path.stem}-{i:05d}.cls", str(i % 10).encode())]
    path.write_bytes(tar_bytes(members))


def no_encoder(pixels: torch.Tensor) -> Flight:
    """Stand where the encoder would: takes pixels, gives one number per image."""
    features = pixels[:, :1, 0, 0].to(torch.float16).numpy() + 1
    return Flight(lambda: True, lambda: {"embedding": features})


def host_room(n: int) -> torch.Tensor:
    """Memory for n images, as runs on a CPU have it."""
    side = SPEC.image_size
    return torch.empty((n, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)


def ours(images: Images) -> int:
    """Tar to uint8 batches, checksum verified, through the pipeline with no encoder behind it."""
    pipeline = Pipeline(no_encoder, SPEC, CLS, BATCH, 1, host_room)
    assert images.shard.fingerprint is not None
    unit = Unit(images.shard, images.shard, images.shard.fingerprint, SplitKeys(UNSET))
    batches = (item for item in pipeline.run([unit]) if isinstance(item, EncodedBatch))
    return sum(len(batch.block.keys) for batch in batches)


def decoding(images: Images) -> int:
    """The JPEG decoder alone."""
    return sum(jpeg.decode(data, 3).shape[2] == 3 for data in images.jpegs)


def _transform() -> Callable[[Image.Image], torch.Tensor]:
    transform: Callable[[Image.Image], torch.Tensor]
    transform = image_transform_v2(PreprocessCfg(size=SPEC.image_size), is_train=False)
    return transform


class _Stream(torch.utils.data.IterableDataset[tuple[torch.Tensor, int]]):
    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.transform = _transform()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        for sample in wds.WebDataset([self.shard.url], shardshuffle=False, empty_check=False):
            yield self.transform(Image.open(io.BytesIO(sample["jpg"]))), int(sample["cls"])


def webdataset(images: Images) -> int:
    """webdataset, the model's transform and a DataLoader with one worker process."""
    loader = DataLoader(_Stream(images.shard), BATCH, num_workers=1)
    return sum(len(labels) for _, labels in loader)


def torchvision(images: Images) -> int:
    """Torchvision's ImageFolder, the model's transform and a DataLoader with one worker."""
    loader = DataLoader(ImageFolder(images.folder, _transform()), BATCH, num_workers=1)
    return sum(len(labels) for _, labels in loader)


def timm(images: Images) -> int:
    """Timm's dataset, transform and loader with one worker."""
    loader = create_loader(
        ImageDataset(str(images.folder)),  # type: ignore[no-untyped-call]
        SPEC.image_size,
        BATCH,
        use_prefetcher=False,
        interpolation=SPEC.interpolation,
        mean=SPEC.mean,
        std=SPEC.std,
        crop_pct=SPEC.crop_pct,
        num_workers=1,
        persistent_workers=False,
    )
    return sum(len(labels) for _, labels in loader)


def our_reader(images: Images) -> int:
    """Samples of a tar, checksum verified, in this thread."""
    shard = images.shard
    return sum(1 for _ in read_samples(shard.url, read_members(shard, shard.fingerprint), CLS))


def webdatasets_reader(images: Images) -> int:
    """Samples of a tar as webdataset gives them, undecoded and unverified."""
    return sum(1 for _ in wds.WebDataset([images.shard.url], shardshuffle=False, empty_check=False))


PATHS: dict[str, Callable[[Images], int]] = {
    "decoding the JPEGs alone": decoding,
    "linprobe, checksum verified": ours,
    "webdataset + model's transform": webdataset,
    "torchvision ImageFolder": torchvision,
    "timm's loader": timm,
}
READERS: dict[str, Callable[[Images], int]] = {
    "linprobe, checksum verified": our_reader,
    "webdataset": webdatasets_reader,
}


def cpu_seconds() -> float:
    """CPU time of this process and of the children it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def in_turn(
    ways: dict[str, Callable[[Images], int]],
    images: Images,
    rounds: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Seconds an image by way: medians over rounds, after one that warms up."""
    n = len(images.jpegs)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = clock()
            assert way(images) == n
            spent[name].append((clock() - start) / n)
    return {name: statistics.median(times[1:]) for name, times in spent.items()}


def host_table(folder: Path, rounds: int) -> None:
    """Print CPU milliseconds an image of each way, and what the readers give alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print(f"{'tar or files to batch, CPU':32}{'JPEG':>11}{'ms':>8}{'/ decoding':>12}{'/ ours':>8}")
    for width, height, quality, n in SIZES:
        jpegs = make_jpegs(width, height, quality)
        images = Images.make(folder / f"{width}", jpegs, n, with_files=True)
        times = in_turn(PATHS, images, rounds, cpu_seconds)
        base, own = (times[name] for name in list(PATHS)[:2])
        for name, seconds in times.items():
            size, ms = f"{width}x{height}", 1000 * seconds
            print(f"{name:32}{size:>11}{ms:8.2f}{seconds / base:12.2f}{seconds / own:8.2f}")
    print(f"\n{'samples/s of a reading thread':32}{'kB':>11}{'wall':>8}{'CPU':>12}")
    for kilobytes, n in READ:
        data = [np.random.default_rng(0).bytes(1000 * kilobytes)]
        images = Images.make(folder / f"{kilobytes}kB", data, n, with_files=False)
        wall = in_turn(READERS, images, rounds, time.perf_counter)
        thread = in_turn(READERS, images, rounds, time.thread_time)
        for name in READERS:
            print(f"{name:32}{kilobytes:11}{1 / wall[name]:8.0f}{1 / thread[name]:12.0f}")
    torch.set_num_threads(threads)
