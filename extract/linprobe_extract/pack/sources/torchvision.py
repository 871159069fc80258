"""The only file of packing that imports torchvision (and with it torch).

A dataset object becomes samples in one of three ways, tried in this order: a reader of its own
(:mod:`linprobe_extract.pack.sources.torchvision_files`), the path that the class hands to its
``loader``, or the rows of its ``data`` array. The first two keep the bytes of the files; an array
is written as PNG.

A known dataset, or any other class of torchvision, as a listing.
"""

import contextlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linprobe.benchmarks import Argument, KnownDataset, SplitArguments, TorchvisionSource
from linprobe.errors import PackError
from linprobe_extract.pack.listing import (
    Listing,
    SourceSample,
    dataset_slug,
    file_sample,
    name_under,
)
from linprobe_extract.pack.plan import PackOptions
from linprobe_extract.pack.shard import encode_png
from linprobe_extract.pack.sources.csv import list_csv
from linprobe_extract.pack.sources.folder import list_image_folder
from linprobe_extract.pack.sources.torchvision_files import SPECIAL_CLASSES, SPECIAL_READERS
from linprobe_extract.pack.splits import choose, describe_rule, split_per_class
from linprobe_extract.shards.card import HeadlineMetric

FILES_HINT = (
    "put the files under {root} as torchvision's {name} expects them (extract/DATASETS.md), or "
    "let it download them"
)


def list_torchvision(
    name: str, arguments: Mapping[str, Argument], root: Path, *, split: str, download: bool
) -> tuple[tuple[str, ...], list[SourceSample]]:
    """Class names and samples of one split of ``torchvision.datasets.<name>``.

    Parameters
    ----------
    arguments : of the constructor, ``root``, ``download`` and ``loader`` aside.
    root : where the files are, or are downloaded to.
    split : what the names of the samples begin with.

    Raises
    ------
    PackError : the files are not there, are damaged or cannot be downloaded, an argument is
        wrong, or no labels come with them.
    """
    dataset = _open(name, arguments, root, download=download)
    reader = SPECIAL_READERS.get(name)
    if reader is not None:
        samples = reader(dataset, root, split, download)
    elif hasattr(dataset, "loader"):
        samples = _samples_of_paths(dataset, root)
    elif hasattr(dataset, "data"):
        samples = _samples_of_arrays(dataset, split)
    else:
        raise PackError(
            f"torchvision's {name} gives neither files nor arrays with one label each",
            hint="export it as folders of images, and pack imagefolder:DIR",
        )
    classes = _class_names(name, dataset, {label for s in samples for label in s.labels})
    return classes, samples


def _open(name: str, arguments: Mapping[str, Argument], root: Path, *, download: bool) -> Any:  # noqa: ANN401 # torchvision has no types
    """Construct the dataset; what torchvision prints goes to stderr."""
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    parameters = inspect.signature(kind).parameters
    extra: dict[str, Any] = {}
    if "download" in parameters:
        extra["download"] = download
    if "loader" in parameters or issubclass(kind, torchvision.datasets.DatasetFolder):
        extra["loader"] = _path_itself
    try:
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            return kind(root, **arguments, **extra)
    except (RuntimeError, ValueError, OSError, TypeError, ImportError, LookupError) as error:
        raise PackError(
            f"torchvision's {name} with {dict(arguments)}: {str(error).strip() or repr(error)}",
            hint=FILES_HINT.format(root=root, name=name),
        ) from error


def _path_itself(path: object) -> Path:
    """A loader that loads nothing: a sample is its path."""
    return Path(str(path))


def _samples_of_paths(dataset: Any, root: Path) -> list[SourceSample]:  # noqa: ANN401 # see above
    """Samples of a class that hands each path to its loader: the files as they are."""
    pairs = (dataset[index] for index in range(len(dataset)))
    return [file_sample(path, name_under(path, root), (int(label),)) for path, label in pairs]


def _samples_of_arrays(dataset: Any, split: str) -> list[SourceSample]:  # noqa: ANN401 # see above
    """Samples of a class that holds (n, h, w), (n, h, w, 3) or (n, 3, h, w) uint8 pixels."""
    pixels: NDArray[np.uint8] = np.asarray(dataset.data)
    if pixels.ndim == 4 and pixels.shape[1] == 3:
        pixels = pixels.transpose(0, 2, 3, 1)
    targets = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    labels: NDArray[np.int64] = np.asarray(targets, dtype=np.int64)
    size = len(encode_png(pixels[0])) if len(pixels) else 0
    return [
        SourceSample(
            name=f"{split}/{index:06d}",
            labels=(int(label),),
            extension="png",
            n_bytes=size,
            stamp=0,
            read=partial(encode_png, pixels[index]),
        )
        for index, label in enumerate(labels)
    ]


def _class_names(name: str, dataset: Any, labels: set[int]) -> tuple[str, ...]:  # noqa: ANN401 # see above
    """Names of the classes; numbers where the class has none."""
    if name in SPECIAL_CLASSES:
        return SPECIAL_CLASSES[name](dataset)
    found = getattr(dataset, "classes", None)
    if found is None:
        return tuple(str(label) for label in range(max(labels, default=0) + 1))
    return tuple(str(one) for one in found)


TRAIN_FLAG: SplitArguments = {"train": {"train": True}, "test": {"train": False}}
OTHER_CLASSES: Mapping[str, SplitArguments] = {
    "FashionMNIST": TRAIN_FLAG,
    "KMNIST": TRAIN_FLAG,
    "USPS": TRAIN_FLAG,
    "SVHN": {"train": {"split": "train"}, "test": {"split": "test"}},
    "Imagenette": {"train": {"split": "train"}, "test": {"split": "val"}},
}
"""Classes of torchvision beyond the table whose splits are known."""
TABLE_NAME = "dataset.csv"


def list_known(row: KnownDataset, arguments: str, out: Path, options: PackOptions) -> Listing:
    """List a dataset of the table.

    Parameters
    ----------
    arguments : ``key=value,...`` passed to the torchvision class, such as ``folds=3``; with any,
        sizes are no longer expected to be those of the table.

    Raises
    ------
    PackError : its files are not there or not as expected, or have other classes.
    """
    if row.torchvision is None:
        listing = _list_by_hand(row, options)
    else:
        root = options.root or out.with_name(f"{out.name}.source")
        listing = _list_class(row.torchvision, parse_arguments(arguments), root, options)
    if options.check_counts and len(listing.classes) != row.n_classes:
        raise PackError(
            f"{row.slug}: expected {row.n_classes} classes, found {len(listing.classes)}",
            hint="get the files again; or pass --any-counts to pack what is there",
        )
    splits, notes = _apply_rule(row, listing.splits, options)
    return replace(
        listing,
        name=row.slug,
        splits=splits,
        is_multi_label=row.is_multi_label,
        headline_metric=HeadlineMetric(row.metric),
        notes=(*notes, *([row.note] if row.note else [])),
        expected=None if arguments else row.sizes,
    )


def list_other_class(name: str, arguments: str, out: Path, options: PackOptions) -> Listing:
    """List a class of torchvision that is not in the table.

    Raises
    ------
    PackError : its splits are not known here, or its files are not there.
    """
    if name not in OTHER_CLASSES:
        raise PackError(
            f"unknown torchvision dataset {name!r}",
            hint=f"linprobe datasets lists the known ones; also {', '.join(OTHER_CLASSES)}",
        )
    root = options.root or out.with_name(f"{out.name}.source")
    source = TorchvisionSource(name, OTHER_CLASSES[name])
    listing = _list_class(source, parse_arguments(arguments), root, options)
    return replace(listing, name=dataset_slug(name), notes=("official split",))


def parse_arguments(text: str) -> dict[str, Argument]:
    """Constructor arguments from ``key=value,...``; whole numbers and true/false are such.

    Raises
    ------
    PackError : a part without ``=``.
    """
    arguments: dict[str, Argument] = {}
    for part in text.split(",") if text else ():
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            raise PackError(
                f"expected key=value, found {part!r}", hint="for example torchvision:STL10:folds=3"
            )
        truth: dict[str, Argument] = {"true": True, "false": False}
        arguments[key] = int(value) if value.isdecimal() else truth.get(value.lower(), value)
    return arguments


def _list_class(
    source: TorchvisionSource,
    arguments: Mapping[str, Argument],
    root: Path,
    options: PackOptions,
) -> Listing:
    """List every split of a torchvision class; the class names are those of train."""
    classes: tuple[str, ...] = ()
    splits: dict[str, list[SourceSample]] = {}
    for split, own in source.splits.items():
        found, samples = list_torchvision(
            source.name,
            {**own, **arguments},
            root,
            split=split,
            download=options.download and source.downloads,
        )
        classes = classes or found
        splits[split] = samples
    return Listing(source.name, classes, splits)


def _list_by_hand(row: KnownDataset, options: PackOptions) -> Listing:
    """List the folder or table that the user made of a dataset that nothing downloads."""
    if options.root is None:
        raise PackError(
            f"{row.slug} cannot be downloaded: get {row.files}",
            hint=f"linprobe pack {row.slug} --root DIR, where DIR holds train/CLASS/IMAGE "
            f"and test/CLASS/IMAGE{' or CLASS/IMAGE' if row.rule else ''}, or {TABLE_NAME} "
            "(path,label,split)",
        )
    table = options.root / TABLE_NAME
    return list_csv(table, options) if table.exists() else _list_folder(row, options.root, options)


def _list_folder(row: KnownDataset, root: Path, options: PackOptions) -> Listing:
    """An image folder; where a rule is to split it, all of its images as one split."""
    listing = list_image_folder(root, options)
    if row.rule is None:
        return listing
    everything = [sample for samples in listing.splits.values() for sample in samples]
    return replace(listing, splits={"all": sorted(everything, key=lambda sample: sample.name)})


def _apply_rule(
    row: KnownDataset, splits: Mapping[str, Sequence[SourceSample]], options: PackOptions
) -> tuple[Mapping[str, Sequence[SourceSample]], list[str]]:
    """Make the splits that the table promises, and say how."""
    if row.rule is not None and "all" in splits:
        note = describe_rule(row.rule, options.seed)
        return split_per_class(splits["all"], row.rule, options.seed), [note]
    if row.is_subset and row.sizes is not None:
        chosen = {
            split: choose(samples, row.sizes[split], options.seed)
            for split, samples in splits.items()
        }
        return chosen, [f"{row.split}, chosen by seed {options.seed}"]
    return splits, [f"split: {row.split}"]
