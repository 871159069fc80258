"""``torchvision:NAME``: a class of ``torchvision.datasets``; here alone of packing is it imported.

Samples come from a reader of its own (:mod:`linprobe_extract.pack.torchvision_files`), the path
that the class hands to its ``loader``, or the rows of its ``data`` array, written as PNG.
"""

import contextlib
import inspect
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linprobe.benchmarks import Argument, SplitArguments, TorchvisionSource
from linprobe.errors import PackError
from linprobe.terminal import command
from linprobe_extract.pack.listing import Listing, PackOptions, SourceSample, parse_arguments
from linprobe_extract.pack.png import pixel_samples
from linprobe_extract.pack.torchvision_files import CLASS_NAMES, READERS, SplitFiles

NAME = "torchvision"
FORM = "torchvision:NAME[:key=value,...]"
HELP = (
    "a known dataset by torchvision's class name, with arguments for its constructor "
    "(`torchvision:STL10:folds=3`); also FashionMNIST, KMNIST, USPS, SVHN, Imagenette"
)
IS_PATH = False
NEVER_CHANGES = True

OTHER_CLASSES: Mapping[str, SplitArguments] = {
    "FashionMNIST": {"train": {"train": True}, "test": {"train": False}},
    "KMNIST": {"train": {"train": True}, "test": {"train": False}},
    "USPS": {"train": {"train": True}, "test": {"train": False}},
    "SVHN": {"train": {"split": "train"}, "test": {"split": "test"}},
    "Imagenette": {"train": {"split": "train"}, "test": {"split": "val"}},
}
"""Classes of torchvision whose splits are known, beyond those of the known datasets."""


def list_samples(words: str, options: PackOptions) -> Listing:
    """List a class of torchvision that is no known dataset; else PackError."""
    name, _, arguments = words.partition(":")
    if name not in OTHER_CLASSES:
        hint = f"'{command('datasets')}' lists the known ones; also {', '.join(OTHER_CLASSES)}"
        raise PackError(f"unknown torchvision dataset {name!r}", hint=hint)
    source = TorchvisionSource(name, OTHER_CLASSES[name])
    listing = list_class(source, parse_arguments(arguments), options)
    return replace(listing, name=name.lower(), notes=("official split",))


def list_class(
    source: TorchvisionSource, arguments: Mapping[str, Argument], options: PackOptions
) -> Listing:
    """List every split of a torchvision class; the class names are those of train.

    ``arguments`` go to its constructor, beyond those of the split. PackError where files are
    missing or damaged, an argument is wrong, or no labels come with the images.
    """
    root = options.root or Path()
    download = options.download and source.downloads
    classes: tuple[str, ...] = ()
    splits: dict[str, list[SourceSample]] = {}
    try:
        for split, own in source.splits.items():
            dataset = _open(source.name, {**own, **arguments}, root, download=download)
            splits[split] = samples = _samples(source.name, dataset, root, split, download)
            if not classes:
                own_names = CLASS_NAMES.get(source.name, lambda it: getattr(it, "classes", None))
                n = 1 + max((label for sample in samples for label in sample.labels), default=0)
                classes = tuple(map(str, own_names(dataset) or range(n)))
    except PackError:
        raise
    except Exception as error:  # whatever its readers make of missing, damaged or hostile files
        raise PackError(
            f"torchvision's {source.name} with {dict(arguments)}: {str(error).strip() or error!r}",
            hint=f"put the files under {root} as torchvision's {source.name} expects them "
            "(extract/DATASETS.md), or let it download them",
        ) from error
    return Listing(source.name, classes, splits)


def _samples(name: str, dataset: Any, root: Path, split: str, download: bool) -> list[SourceSample]:
    files = SplitFiles(dataset, root, split, download)
    if name in READERS:
        return READERS[name](files)
    if hasattr(dataset, "loader"):
        return files.samples(files.pairs())
    if not hasattr(dataset, "data"):
        raise PackError(
            f"torchvision's {name} gives neither files nor arrays with one label each",
            hint="export it as folders of images, and pack imagefolder:DIR",
        )
    pixels: NDArray[np.uint8] = np.asarray(dataset.data)
    if pixels.ndim == 4 and pixels.shape[1] == 3:  # not (n, h, w) or (n, h, w, 3)
        pixels = pixels.transpose(0, 2, 3, 1)
    targets = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    return pixel_samples(pixels, targets, split + "/{:06d}")


def _open(name: str, arguments: Mapping[str, Argument], root: Path, *, download: bool) -> Any:
    """Construct the dataset; what torchvision prints goes to stderr."""
    import torchvision.datasets

    # Of an archive, nothing leaves the folder that it is unpacked in: PEP 706, Python 3.14's rule.
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    kind = getattr(torchvision.datasets, name)
    parameters = inspect.signature(kind).parameters
    extra: dict[str, Any] = {"download": download} if "download" in parameters else {}
    if "loader" in parameters or issubclass(kind, torchvision.datasets.DatasetFolder):
        extra["loader"] = Path  # loads nothing: a sample is its path
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        return kind(root, **arguments, **extra)
