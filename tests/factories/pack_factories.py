"""Small sources for the tests of packing: folders of real images, made from a seed."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from linprobe_extract.shards.card import DatasetCard


def image_bytes(seed: int, image_format: str = "JPEG", side: int = 16) -> bytes:
    """An encoded RGB image of noise; another seed is another image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


def write_image(path: Path, seed: int, image_format: str = "JPEG") -> bytes:
    """Write an image of noise, with its folders; gives its bytes."""
    content = image_bytes(seed, image_format)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def write_image_folder(root: Path, per_class: int = 3, classes: str = "ab") -> Path:
    """``root/{train,test}/<class>/<i>.jpg``, all images different."""
    seed = 0
    for split in ("train", "test"):
        for name in classes:
            for index in range(per_class):
                write_image(root / split / name / f"{index}.jpg", seed)
                seed += 1
    return root


def read_members(tar: Path) -> list[tuple[str, bytes]]:
    """Name and content of every member, by the standard library's reader."""
    with tarfile.open(tar) as archive:
        members = archive.getmembers()
        return [(m.name, _content(archive, m)) for m in members]


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file under ``folder`` by its relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def folder_source(root: Path) -> str:
    """An image folder of 6 train and 6 test images, as a source."""
    return f"imagefolder:{write_image_folder(root / 'pets')}"


class PowerCut(BaseException):
    """Stops a run where it stands."""


def raising(error: BaseException) -> Callable[..., object]:
    """A function that raises ``error`` whatever it is given."""

    def stand_in(*_: object, **__: object) -> object:
        raise error

    return stand_in


def sizes(card: DatasetCard) -> dict[str, int]:
    """Samples by split."""
    return {name: split.samples for name, split in card.splits.items()}


def labels_of(out: Path, split: str) -> dict[str, bytes]:
    """Label member by the end of the key."""
    return {
        name.split(".")[0].split("-", 2)[2]: content
        for tar in sorted((out / split).glob("*.tar"))
        for name, content in read_members(tar)
        if name.endswith((".cls", ".json"))
    }


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Content of one member that is a plain file."""
    file = archive.extractfile(member)
    assert file is not None
    return file.read()
