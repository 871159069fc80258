"""What the store says to every fault: run ``python tests/bench/show_store_faults.py``."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

sys.path.insert(0, str(Path(__file__).parents[1] / "factories"))

from store_factories import block, encoder_spec, fingerprint, register, sealed_split, write_part

from linprobe.errors import LinprobeError
from linprobe_store.care.verify import verify_store
from linprobe_store.format.spec import FeatureBlock
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

Fault = Callable[[Path], None]


def flip(path: Path, at: int) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def resize_with_zarr(unit: Path) -> None:
    """What a person might do with another tool."""
    group = zarr.open_group(unit / "data.zarr", mode="r+", use_consolidated=False)
    array = group["features_embedding"]
    if isinstance(array, zarr.Array):
        array.resize((5000, 5))


def recompress_with_zarr(unit: Path) -> None:
    """What a person might do to save space."""
    path = unit / "data.zarr" / "features_embedding"
    rows = np.asarray(zarr.open_array(path, mode="r")[...])
    zarr.create_array(path, data=rows, overwrite=True)


FEATURES = "data.zarr/features_embedding/c/0/0"
ON_SPLIT: dict[str, Fault] = {
    "COMMIT.json deleted": lambda unit: (unit / "COMMIT.json").unlink(),
    "COMMIT.json, one bit": lambda unit: flip(unit / "COMMIT.json", 300),
    "zarr.json, one bit": lambda unit: flip(unit / "data.zarr/labels/zarr.json", 40),
    "features deleted": lambda unit: (unit / FEATURES).unlink(),
    "features cut by a page": lambda unit: cut(unit / FEATURES),
    "features, one bit": lambda unit: flip(unit / FEATURES, 777),
    "shard index, one bit": lambda unit: flip(unit / FEATURES, -20),
    "labels, one bit": lambda unit: flip(unit / "data.zarr/labels/c/0", 9),
    "keys, one bit": lambda unit: flip(unit / "data.zarr/keys_bytes/c/0", 9),
    "image digests, one bit": lambda unit: flip(unit / "data.zarr/image_sha256/c/0/0", 9),
    "resized with zarr": resize_with_zarr,
    "recompressed with zarr": recompress_with_zarr,
    "version 4": lambda unit: replace(unit / "COMMIT.json", '"version":3', '"version":4'),
}


def cut(path: Path) -> None:
    """Cut a file by a page."""
    path.write_bytes(path.read_bytes()[:-4096])


def replace(path: Path, old: str, new: str) -> None:
    """Edit a text file."""
    path.write_text(path.read_text().replace(old, new))


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="show-faults-") as folder:
        root = Path(folder)
        whole, _ = sealed_split(root / "whole", (2500, 1))
        for name, fault in ON_SPLIT.items():
            shutil.copytree(root / "whole", root / "victim", symlinks=True)
            fault(root / "victim" / whole.path.relative_to(root / "whole"))
            tell(name, root / "victim")
            shutil.rmtree(root / "victim")
        for name, value in (("NaN", np.nan), ("infinity", np.inf), ("all-zero row", 0.0)):
            refuse(name, root / "values", value)
        fill_a_disk(root / "disk")


def tell(name: str, root: Path) -> None:
    """What opening and reading say, or else what ``verify --deep`` says."""
    try:
        split: Split = FeatureStore(root).split("train")
        print_row(name, "first use", f"{len(split.labels)} labels, {len(split.keys)} keys read")
        raise_problem(root)
    except LinprobeError as error:
        print_row(name, "reader", error.message.replace(str(root), ""))


def raise_problem(root: Path) -> None:
    """Tell what a deep check finds."""
    for unit in verify_store(FeatureStore(root), deep=True):
        if unit.problem:
            print_row("", "verify --deep", unit.problem.replace(str(root), ""))


def refuse(name: str, root: Path, value: float) -> None:
    """What a writer says to a bad row."""
    encoder = register(root)
    whole: FeatureBlock = block(encoder.spec, 5)
    whole.features["embedding"][3] = value
    try:
        write_part(encoder, fingerprint(0), whole)
    except LinprobeError as error:
        print_row(name, "writer", error.message)


def fill_a_disk(mount: Path) -> None:
    """A file system of 8 MiB, where one may be mounted."""
    mount.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        print_row("full disk", "-", "needs the right to mount a tmpfs")
        return
    try:
        encoder = register(mount / "store", encoder_spec(768))
        for i in range(10):
            write_part(encoder, fingerprint(i), block(encoder.spec, 1000, prefix=str(i)))
    except LinprobeError as error:
        print_row("full disk (tmpfs of 8 MiB)", "writer", error.message.split("tmp-")[-1])
        units = list(verify_store(FeatureStore(mount / "store"), deep=True))
        left = len(list((mount / "store").rglob("tmp-*")))
        sound = sum(unit.kind == "part" and not unit.problem for unit in units)
        print_row("", "verify --deep", f"{sound} parts sound, {left} left-overs")
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def print_row(name: str, who: str, what: str) -> None:
    """One line of the table."""
    short = what.replace("/enc-vit-t-8-test-cfdf17c0f8a0/sets/ds-pets-2e0a900ae814/train", "...")
    print(f"{name:<28}{who:<15}{short[:150]}")


if __name__ == "__main__":
    main()
