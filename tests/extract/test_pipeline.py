"""Batches in flight: several at once, collected in order, each from the pixels it was given."""

import hashlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from msgspec import UNSET
from pixel_oracles import CLIP
from tar_factories import labelled, tar_bytes

from linprobe_extract.encoders.device import Flight
from linprobe_extract.run.batches import EncodedBatch, Unit, UnitEnd
from linprobe_extract.run.keys import SplitKeys
from linprobe_extract.run.pipeline import Pipeline
from linprobe_extract.shards.tar import fingerprint_shard
from linprobe_extract.shards.types import Labelling, Shard


class SlowDevice:
    """Reads its pixels when it is waited for, as late as a device may."""

    def __init__(self, *, flight_s: float = math.inf) -> None:
        self.n_flying = self.n_most = self.n_images = 0
        self.flight_s = flight_s

    def room(self, n: int) -> torch.Tensor:
        self.n_images = n
        return torch.empty((n, 3, CLIP.image_size, CLIP.image_size), dtype=torch.uint8)

    def launch(self, pixels: torch.Tensor) -> Flight:
        self.n_flying += 1
        self.n_most = max(self.n_most, self.n_flying)

        def collect() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
            self.n_flying -= 1
            return {"embedding": pixels.float().mean((2, 3)).numpy()}

        lands_at = time.monotonic() + self.flight_s
        return Flight(lambda: time.monotonic() >= lands_at, collect)


def units_of(folder: Path, sizes: list[int]) -> list[Unit]:
    units = []
    for i, n in enumerate(sizes):
        path = folder / f"{i}.tar"
        path.write_bytes(
            tar_bytes(labelled({f"{i}-{k}": k % 2 for k in range(n)}, first_seed=9 * i))
        )
        shard = Shard(str(path))
        units.append(Unit(shard, shard, fingerprint_shard(shard), SplitKeys(UNSET)))
    return units


def run(device: SlowDevice, units: Iterator[Unit] | list[Unit]) -> Iterator[EncodedBatch | UnitEnd]:

    return Pipeline(device.launch, CLIP, Labelling("cls", None), 2, 1, device.room).run(units)


def test_several_batches_fly_at_once_across_shards_and_land_in_order(tmp_path: Path) -> None:
    units = units_of(tmp_path, [5, 1, 4])
    device, sure = SlowDevice(), SlowDevice(flight_s=0)

    items, expected = list(run(device, units)), list(run(sure, units))

    assert device.n_most == 3
    assert device.n_images == 5 * 2
    assert [type(item) for item in items] == [type(item) for item in expected]
    for item, other in zip(items, expected, strict=True):
        assert item.unit == other.unit
        if isinstance(item, EncodedBatch) and isinstance(other, EncodedBatch):
            assert item.block.keys == other.block.keys
            features = item.block.features["embedding"], other.block.features["embedding"]
            np.testing.assert_array_equal(*features)
    ends = [item for item in items if isinstance(item, UnitEnd)]
    assert [(end.unit, end.planned) for end in ends] == list(zip(units, (5, 1, 4), strict=True))


def test_what_has_landed_is_given_while_the_next_shard_is_long_in_coming(tmp_path: Path) -> None:
    given: list[EncodedBatch | UnitEnd] = []
    units = units_of(tmp_path, [3, 1])

    def slow() -> Iterator[Unit]:
        yield units[0]
        while not any(isinstance(item, UnitEnd) for item in given):
            time.sleep(0.01)  # a download
        yield units[1]

    given.extend(run(SlowDevice(flight_s=0.05), slow()))

    assert [isinstance(item, UnitEnd) for item in given] == [False, False, True, False, True]


def test_every_row_has_the_sha256_of_its_image_as_it_lies_in_the_tar(tmp_path: Path) -> None:
    files = [*labelled({f"{k}": k % 2 for k in range(5)})]
    path = tmp_path / "0.tar"
    path.write_bytes(
        tar_bytes([*files[:4], ("bad.jpg", b"no image"), ("bad.cls", b"0"), *files[4:]])
    )
    shard = Shard(str(path))
    unit = Unit(shard, shard, fingerprint_shard(shard), SplitKeys(UNSET))

    batches = [b for b in run(SlowDevice(), [unit]) if isinstance(b, EncodedBatch)]

    digests: dict[str, bytes] = {}
    for batch in batches:
        assert batch.block.image_sha256 is not None
        rows = (row.tobytes() for row in batch.block.image_sha256)
        digests |= dict(zip(batch.block.keys, rows, strict=True))
    images = {Path(name).stem: data for name, data in files if not name.endswith(".cls")}
    assert digests == {key: hashlib.sha256(data).digest() for key, data in images.items()}
