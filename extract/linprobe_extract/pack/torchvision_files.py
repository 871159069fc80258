"""Readers for the classes of torchvision that need more than their ``loader`` or ``data``."""

import csv
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from linprobe.errors import PackError
from linprobe_extract.pack.listing import SourceSample, file_sample, name_under
from linprobe_extract.pack.png import pixel_samples

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""Of the VOC 2007 development kit, in its order."""
FER_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Labels 0 to 6 of the challenge's description."""
CLEVR_FEWEST = 3
"""Objects in the emptiest scene (Johnson et al. 2017, section 3); class 0."""
CLEVR_COUNTS = range(CLEVR_FEWEST, 11)
SUN_PARTITIONS = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"
SUN_FILES: Mapping[str, str] = {"train": "Training_01.txt", "test": "Testing_01.txt"}
PCAM_FILE = "pcam/camelyonpatch_level_2_split_{split}_{part}.h5"

Reader = Callable[[Any, Path, str, bool], list[SourceSample]]
"""Dataset object, root, split, whether downloads are allowed."""


def read_gtsrb(dataset: Any, root: Path, split: str, download: bool) -> list[SourceSample]:  # noqa: ANN401 # a Reader
    """Traffic signs: the class keeps its (path, label) pairs to itself."""
    pairs = dataset._samples  # noqa: SLF001 # no public way to the paths
    return [_file(Path(path), root, label) for path, label in pairs]


def read_pets(dataset: Any, root: Path, split: str, download: bool) -> list[SourceSample]:  # noqa: ANN401 # a Reader
    """Pets: the class keeps its paths and labels to itself."""
    pairs = zip(dataset._images, dataset._labels, strict=True)  # noqa: SLF001 # no public way
    return [_file(Path(path), root, label) for path, label in pairs]


def read_caltech(dataset: Any, root: Path, split: str, download: bool) -> list[SourceSample]:  # noqa: ANN401 # a Reader
    """Caltech-101 with its background, which torchvision leaves out and the paper counts."""
    folder = Path(dataset.root) / "101_ObjectCategories"
    classes = caltech_classes(dataset)
    return [
        _file(path, root, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).glob("*.jpg"))
    ]


def caltech_classes(dataset: Any) -> tuple[str, ...]:  # noqa: ANN401 # see pack_torchvision
    """All 102 categories, sorted by folder name."""
    folder = Path(dataset.root) / "101_ObjectCategories"
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))


def read_voc(dataset: Any, root: Path, split: str, download: bool) -> list[SourceSample]:  # noqa: ANN401 # a Reader
    """VOC: a class is present where any object of it is, difficult or not."""
    samples = []
    for image, annotation in zip(dataset.images, dataset.annotations, strict=True):
        objects = (
            ElementTree.parse(annotation).getroot().iterfind("object/name")
        )  # the user's own data set
        present = {VOC_CLASSES.index((name.text or "").strip()) for name in objects}
        path = Path(image)
        samples.append(file_sample(path, name_under(path, root), tuple(sorted(present))))
    return samples


def read_fer(dataset: Any, root: Path, split: str, download: bool) -> list[SourceSample]:  # noqa: ANN401 # a Reader
    """FER2013: torchvision's test split is PublicTest and PrivateTest together."""
    table = root / "fer2013" / "fer2013.csv"
    if not table.exists():
        raise PackError(
            f"{table} is not there",
            hint="of the challenge's files only fer2013.csv holds the labels of all splits",
        )
    with table.open(newline="") as file:
        usages = [row["Usage"] for row in csv.DictReader(file)]
    wanted = [usage for usage in usages if (usage == "Training") == (split == "train")]
    meant = {"PublicTest": "val", "PrivateTest": "test", "Training": "train"}
    chosen = [index for index, usage in enumerate(wanted) if meant[usage] == split]
    images, labels = zip(*(dataset[index] for index in chosen), strict=True) if chosen else ((), ())
    return pixel_samples([np.asarray(image) for image in images], labels, split + "/{:06d}")


def read_pcam(dataset: Any, root: Path, split: str, download: bool) -> list[SourceSample]:  # noqa: ANN401 # a Reader
    """PatchCamelyon: the arrays straight from their HDF5 files, opened once."""
    import h5py

    stem = "valid" if split == "val" else split
    images = h5py.File(root / PCAM_FILE.format(split=stem, part="x"))["x"]
    with h5py.File(root / PCAM_FILE.format(split=stem, part="y")) as labels_file:
        labels = labels_file["y"][:].reshape(-1)
    return pixel_samples(images, labels, split + "/{:06d}")


def read_clevr(dataset: Any, root: Path, split: str, download: bool) -> list[SourceSample]:  # noqa: ANN401 # a Reader
    """CLEVR: the label is the number of objects."""
    pairs = (dataset[index] for index in range(len(dataset)))
    return [_file(path, root, int(count) - CLEVR_FEWEST) for path, count in pairs]


def read_sun(dataset: Any, root: Path, split: str, download: bool) -> list[SourceSample]:  # noqa: ANN401 # a Reader
    """SUN397: torchvision lists all images; the project's partition 1 says which are whose."""
    pairs = (dataset[index] for index in range(len(dataset)))
    labels = {f"/{path.relative_to(root / 'SUN397').as_posix()}": label for path, label in pairs}
    table = _sun_partition(root, SUN_FILES[split], download=download)
    names = table.read_text(encoding="utf-8").split()
    lost = [name for name in names if name not in labels]
    if lost:
        raise PackError(
            f"{table} names {len(lost)} images that are not under {root / 'SUN397'}: {lost[0]}",
            hint="get the images again; they belong at ROOT/SUN397/a/abbey/sun_....jpg",
        )
    return [_file(root / "SUN397" / name[1:], root, labels[name]) for name in names]


def imagenet_classes(dataset: Any) -> tuple[str, ...]:  # noqa: ANN401 # see pack_torchvision
    """All synonyms of each class; where two classes have the same, with the WordNet id."""
    names = [", ".join(synonyms) for synonyms in dataset.classes]
    times = Counter(names)
    return tuple(
        f"{name} ({wnid})" if times[name] > 1 else name
        for name, wnid in zip(names, dataset.wnids, strict=True)
    )


SPECIAL_READERS: Mapping[str, Reader] = {
    "Caltech101": read_caltech,
    "CLEVRClassification": read_clevr,
    "FER2013": read_fer,
    "GTSRB": read_gtsrb,
    "OxfordIIITPet": read_pets,
    "PCAM": read_pcam,
    "SUN397": read_sun,
    "VOCDetection": read_voc,
}
SPECIAL_CLASSES: Mapping[str, Callable[[Any], tuple[str, ...]]] = {
    "Caltech101": caltech_classes,
    "CLEVRClassification": lambda _: tuple(str(count) for count in CLEVR_COUNTS),
    "FER2013": lambda _: FER_CLASSES,
    "ImageNet": imagenet_classes,
    "PCAM": lambda _: ("no tumor", "tumor"),
    "VOCDetection": lambda _: VOC_CLASSES,
}


def _sun_partition(root: Path, name: str, *, download: bool) -> Path:
    """Where the list of a partition is; downloaded where allowed."""
    for folder in (root, root / "SUN397", root / "Partitions"):
        if (folder / name).exists():
            return folder / name
    if not download:
        raise PackError(f"{root / name} is not there", hint=f"unpack {SUN_PARTITIONS} into {root}")
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        download_and_extract_archive(SUN_PARTITIONS, str(root / "Partitions"))
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise PackError(
            f"{SUN_PARTITIONS} cannot be downloaded: {error}",
            hint=f"get it by hand and unpack it into {root / 'Partitions'}",
        ) from error
    return root / "Partitions" / name


def _file(path: Path, root: Path, label: int) -> SourceSample:
    """A sample that is a file with one label."""
    return file_sample(path, name_under(path, root), (int(label),))
