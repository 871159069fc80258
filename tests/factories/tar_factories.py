"""Small real tars for tests."""

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from linprobe_extract.shards.card import DatasetCard, ShardCard, SplitCard


def image_bytes(seed: int, *, size: tuple[int, int] = (40, 30), kind: str = "JPEG") -> bytes:
    """Encode a smooth random RGB image of (width, height) pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def tar_bytes(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Write members in order, with equal metadata, as one ustar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def labelled(keys: Mapping[str, int], *, first_seed: int = 0) -> list[tuple[str, bytes]]:
    """Members ``<key>.jpg`` and ``<key>.cls`` for each key and label."""
    members = []
    for seed, (key, label) in enumerate(keys.items(), first_seed):
        members.append((f"{key}.jpg", image_bytes(seed)))
        members.append((f"{key}.cls", str(label).encode()))
    return members


def write_dataset(
    folder: Path,
    *,
    splits: Mapping[str, Sequence[int]],
    classes: Sequence[str] = ("cat", "dog"),
) -> Path:
    """Write ``folder/<split>/<i>.tar`` with so many labelled samples each, and classnames.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classnames.txt").write_text("\n".join(classes) + "\n")
    seed = 0
    for split, sizes in splits.items():
        (folder / split).mkdir()
        for index, size in enumerate(sizes):
            keys = {f"{split}{seed + i:05d}": (seed + i) % len(classes) for i in range(size)}
            members = labelled(keys, first_seed=seed)
            (folder / split / f"{index}.tar").write_bytes(tar_bytes(members))
            seed += size
        (folder / split / "nshards.txt").write_text(f"{len(sizes)}\n")
    return folder


def write_packed(folder: Path, *, metric: str) -> Path:
    """Write a small dataset with the card that pack would give it."""
    write_dataset(folder, splits={"train": [4], "test": [2]})
    splits = {}
    for split, n in (("train", 4), ("test", 2)):
        content = (folder / split / "0.tar").read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        splits[split] = SplitCard(n, (ShardCard("0.tar", len(content), digest, n),))
    DatasetCard(
        name=folder.name,
        classes=("cat", "dog"),
        label_source="cls",
        headline_metric=metric,
        source="digits",
        seed=0,
        request="1" * 64,
        plan="2" * 64,
        splits=splits,
    ).save(folder)
    return folder
