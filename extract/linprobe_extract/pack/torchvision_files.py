"""Readers for the classes of torchvision that need more than their ``loader`` or ``data``."""

import csv
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from linprobe.errors import PackError
from linprobe.names import first_few
from linprobe_extract.pack.listing import SourceSample, file_sample
from linprobe_extract.pack.png import pixel_samples

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
"""Of the VOC 2007 development kit, in its order."""
FER_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Labels 0 to 6 of the challenge's description."""
FER_SPLITS = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
CLEVR_COUNTS = range(3, 11)
"""Objects in a scene (Johnson et al. 2017, section 3); the fewest are class 0."""
SUN_PARTITIONS = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"
SUN_FILES = {"train": "Training_01.txt", "test": "Testing_01.txt"}


@dataclass(frozen=True)
class SplitFiles:
    """One split (train, val, test or all) of a class of torchvision, and where its files are."""

    dataset: Any
    root: Path
    split: str
    download: bool

    def sample(self, file: str | Path, labels: tuple[int, ...]) -> SourceSample:
        """A file as a sample, the bytes as they are; its name is the path under the root."""
        path = Path(file)
        name = path.relative_to(self.root) if path.is_relative_to(self.root) else path.name
        return file_sample(path, str(name), labels)

    def samples(self, pairs: Iterable[tuple[str | Path, int]]) -> list[SourceSample]:
        """Files as samples with one label each."""
        return [self.sample(path, (int(label),)) for path, label in pairs]

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """What the object gives by position: an image or its path, and the label."""
        return (self.dataset[index] for index in range(len(self.dataset)))


def read_pets(files: SplitFiles) -> list[SourceSample]:
    """Pets: the class keeps its paths and labels to itself."""
    dataset = files.dataset
    return files.samples(zip(dataset._images, dataset._labels, strict=True))  # noqa: SLF001 # no public way


def read_caltech(files: SplitFiles) -> list[SourceSample]:
    """Caltech-101 with its background, which torchvision leaves out and the paper counts."""
    folders = enumerate(caltech_folders(files.dataset))
    return files.samples(
        (path, n) for n, folder in folders for path in sorted(folder.glob("*.jpg"))
    )


def caltech_folders(dataset: Any) -> list[Path]:
    """The folders of all 102 categories, sorted by name."""
    folders = Path(dataset.root, "101_ObjectCategories").iterdir()
    return sorted(folder for folder in folders if folder.is_dir())


def read_voc(files: SplitFiles) -> list[SourceSample]:
    """VOC: a class is present where any object of it is, difficult or not."""
    samples = []
    for image, annotation in zip(files.dataset.images, files.dataset.annotations, strict=True):
        names = ElementTree.parse(annotation).getroot().iterfind("object/name")
        present = {VOC_CLASSES.index((name.text or "").strip()) for name in names}
        samples.append(files.sample(image, tuple(sorted(present))))
    return samples


def read_fer(files: SplitFiles) -> list[SourceSample]:
    """FER2013: torchvision's test split is PublicTest and PrivateTest together."""
    table = files.root / "fer2013" / "fer2013.csv"
    if not table.exists():
        hint = "of the challenge's files only fer2013.csv holds the labels of all splits"
        raise PackError(f"{table} is not there", hint=hint)
    with table.open(newline="") as file:
        splits = [FER_SPLITS[row["Usage"]] for row in csv.DictReader(file)]
    read = [split for split in splits if (split == "train") == (files.split == "train")]
    pairs = [p for p, split in zip(files.pairs(), read, strict=True) if split == files.split]
    images = [np.asarray(image) for image, _ in pairs]
    return pixel_samples(images, [label for _, label in pairs], files.split + "/{:06d}")


def read_pcam(files: SplitFiles) -> list[SourceSample]:
    """PatchCamelyon: the arrays straight from their HDF5 files, opened once."""
    import h5py

    stem = "valid" if files.split == "val" else files.split
    images, labels = (
        h5py.File(files.root / f"pcam/camelyonpatch_level_2_split_{stem}_{part}.h5")[part]
        for part in "xy"
    )
    return pixel_samples(images, labels[:].reshape(-1), files.split + "/{:06d}")


def read_sun(files: SplitFiles) -> list[SourceSample]:
    """SUN397: torchvision lists all images; the project's partition 1 says which are whose."""
    folder = files.root / "SUN397"
    labels = {f"/{path.relative_to(folder).as_posix()}": label for path, label in files.pairs()}
    table = _sun_partition(files, SUN_FILES[files.split])
    names = table.read_text(encoding="utf-8").split()
    lost = [name for name in names if name not in labels]
    if lost:
        raise PackError(
            f"{table} names {len(lost)} images that are not under {folder}: {first_few(lost)}",
            hint="get the images again; they belong at ROOT/SUN397/a/abbey/sun_....jpg",
        )
    return files.samples((folder / name[1:], labels[name]) for name in names)


def _sun_partition(files: SplitFiles, name: str) -> Path:
    """Where the list of a partition is; downloaded where allowed."""
    root = files.root
    for folder in (root, root / "SUN397", root / "Partitions"):
        if (folder / name).exists():
            return folder / name
    if not files.download:
        raise PackError(f"{root / name} is not there", hint=f"unpack {SUN_PARTITIONS} into {root}")
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        download_and_extract_archive(SUN_PARTITIONS, str(root / "Partitions"))
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        hint = f"get it by hand and unpack it into {root / 'Partitions'}"
        raise PackError(f"{SUN_PARTITIONS} cannot be downloaded: {error}", hint=hint) from error
    return root / "Partitions" / name


def imagenet_classes(dataset: Any) -> list[str]:
    """All synonyms of each class; where two classes have the same, with the WordNet id."""
    names = [", ".join(synonyms) for synonyms in dataset.classes]
    times = Counter(names)
    pairs = zip(names, dataset.wnids, strict=True)
    return [f"{name} ({wnid})" if times[name] > 1 else name for name, wnid in pairs]


READERS: Mapping[str, Callable[[SplitFiles], list[SourceSample]]] = {
    "Caltech101": read_caltech,
    "CLEVRClassification": lambda files: files.samples(
        (path, int(count) - CLEVR_COUNTS.start) for path, count in files.pairs()
    ),
    "FER2013": read_fer,
    "GTSRB": lambda files: files.samples(files.dataset._samples),  # noqa: SLF001 # no public way
    "OxfordIIITPet": read_pets,
    "PCAM": read_pcam,
    "SUN397": read_sun,
    "VOCDetection": read_voc,
}
CLASS_NAMES: Mapping[str, Callable[[Any], Iterable[object]]] = {
    "Caltech101": lambda dataset: (folder.name for folder in caltech_folders(dataset)),
    "CLEVRClassification": lambda _: CLEVR_COUNTS,
    "FER2013": lambda _: FER_CLASSES,
    "ImageNet": imagenet_classes,
    "PCAM": lambda _: ("no tumor", "tumor"),
    "VOCDetection": lambda _: VOC_CLASSES,
}
