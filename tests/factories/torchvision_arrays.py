"""Tiny datasets in the on-disk formats that torchvision reads: those that hold pixels.

Each writer gives what must come out: for every split the (labels, image) pairs in any order, the
image as the bytes of its file, or as pixels where the format holds pixels.
"""

import csv
import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torchvision.datasets
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
Expected: TypeAlias = dict[str, list[tuple[tuple[int, ...], bytes | Pixels]]]
Writer: TypeAlias = Callable[[Path, pytest.MonkeyPatch], Expected]


def noise(seed: int, *shape: int) -> Pixels:
    """Random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def md5(path: Path) -> str:
    """What torchvision compares a file with."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_text(path: Path, lines: list[str]) -> None:
    """Write lines, with the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def paired(labels: NDArray[np.uint8], images: Pixels) -> list[tuple[tuple[int, ...], Pixels]]:
    """Labels and images, row by row."""
    return [((int(label),), image) for label, image in zip(labels, images, strict=True)]


def write_cifar10(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """Five pickled batches of planar rows (n, 3072), a test batch, and the names."""
    kind = torchvision.datasets.CIFAR10
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    expected: Expected = {"train": [], "test": []}
    for number, (name, _) in enumerate([*kind.train_list, *kind.test_list]):
        images = noise(number, 2, 32, 32, 3)
        labels = np.array([number, (number + 3) % 10], np.uint8)
        rows = images.transpose(0, 3, 1, 2).reshape(2, -1)
        batch = {"data": rows, "labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
        expected["test" if name == "test_batch" else "train"] += paired(labels, images)
    _write_cifar_names(kind, folder, 10, patch)
    return expected


def write_cifar100(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """One batch for each split, with fine and coarse labels."""
    kind = torchvision.datasets.CIFAR100
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    expected: Expected = {}
    for seed, name in enumerate(("train", "test")):
        images, labels = noise(seed, 3, 32, 32, 3), np.array([99, 0, 7], np.uint8)
        rows = images.transpose(0, 3, 1, 2).reshape(3, -1)
        batch = {"data": rows, "fine_labels": labels.tolist(), "coarse_labels": [1, 1, 1]}
        (folder / name).write_bytes(pickle.dumps(batch))
        expected[name] = [*paired(labels, images)]
    _write_cifar_names(kind, folder, 100, patch)
    return expected


def _write_cifar_names(
    kind: type[torchvision.datasets.CIFAR10],
    folder: Path,
    n_classes: int,
    patch: pytest.MonkeyPatch,
) -> None:
    """The class names, and the checksums that torchvision is to expect."""
    path = folder / kind.meta["filename"]
    path.write_bytes(pickle.dumps({kind.meta["key"]: [f"class {i}" for i in range(n_classes)]}))
    patch.setattr(kind, "meta", kind.meta | {"md5": md5(path)})
    for attribute in ("train_list", "test_list"):
        listed = [[name, md5(folder / name)] for name, _ in getattr(kind, attribute)]
        patch.setattr(kind, attribute, listed)


def write_mnist(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """IDX files: big-endian magic, sizes, bytes."""
    del patch
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    expected: Expected = {}
    for seed, (split, stem) in enumerate((("train", "train"), ("test", "t10k"))):
        images, labels = noise(seed, 4, 28, 28), np.array([3, 1, 9, 0], np.uint8)
        header = struct.pack(">IIII", 0x803, 4, 28, 28)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">II", 0x801, 4)
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
        expected[split] = [*paired(labels, images)]
    return expected


def write_stl10(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """Raw files: images channel by channel, each plane column by column; labels from 1."""
    kind = torchvision.datasets.STL10
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    expected: Expected = {}
    for seed, split in enumerate(("train", "test")):
        images, labels = noise(seed, 3, 96, 96, 3), np.array([0, 9, 4], np.uint8)
        planes = np.ascontiguousarray(images.transpose(0, 3, 2, 1))
        (folder / f"{split}_X.bin").write_bytes(planes.tobytes())
        (folder / f"{split}_y.bin").write_bytes((labels + 1).tobytes())
        expected[split] = [*paired(labels, images)]
    (folder / "unlabeled_X.bin").write_bytes(b"")
    write_text(folder / "class_names.txt", [f"thing {i}" for i in range(10)])
    write_text(folder / "fold_indices.txt", ["0 2", *["1"] * 9])
    for attribute in ("train_list", "test_list"):
        listed = [[name, md5(folder / name)] for name, _ in getattr(kind, attribute)]
        patch.setattr(kind, attribute, listed)
    return expected


def write_fer(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """One table for all splits; pixels as numbers in a cell."""
    kind = torchvision.datasets.FER2013
    path = root / "fer2013" / "fer2013.csv"
    path.parent.mkdir(parents=True)
    meant = {"Training": "train", "PrivateTest": "test", "PublicTest": "val"}
    expected: Expected = {"train": [], "val": [], "test": []}
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("emotion", "pixels", "Usage"))
        for seed in range(9):
            usage = list(meant)[seed % 3]
            image = noise(seed, 48, 48)
            rows.writerow((seed % 7, " ".join(map(str, image.ravel())), usage))
            expected[meant[usage]].append(((seed % 7,), image))
    files = kind._RESOURCES | {"fer": ("fer2013.csv", md5(path))}
    patch.setattr(kind, "_RESOURCES", files)
    return expected


def write_pcam(root: Path, patch: pytest.MonkeyPatch) -> Expected:
    """HDF5 arrays x (n, 96, 96, 3) and y (n, 1, 1, 1)."""
    h5py = pytest.importorskip("h5py", reason="PCAM's files need the package h5py")
    del patch
    base = root / "pcam"
    base.mkdir(parents=True)
    expected: Expected = {}
    for seed, (split, own) in enumerate((("train", "train"), ("val", "valid"), ("test", "test"))):
        images, labels = noise(seed, 3, 96, 96, 3), np.array([1, 0, 1], np.uint8)
        for part, array in (("x", images), ("y", labels.reshape(-1, 1, 1, 1))):
            with h5py.File(base / f"camelyonpatch_level_2_split_{own}_{part}.h5", "w") as file:
                file[part] = array
        expected[split] = [*paired(labels, images)]
    return expected


ARRAY_WRITERS: dict[str, Writer] = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "fer2013": write_fer,
    "mnist": write_mnist,
    "pcam": write_pcam,
    "stl10": write_stl10,
}
"""By slug."""
