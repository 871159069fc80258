"""What every source becomes before anything is read: samples, labels, classes and splits."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from linprobe.benchmarks import Argument
from linprobe.errors import LinprobeError, PackError
from linprobe.names import check_class_names
from linprobe.records import read_bytes
from linprobe.tars import MAX_MEMBER_BYTES


@dataclass(frozen=True)
class PackOptions:
    """How to pack; the defaults are those of the command line."""

    name: str | None = None
    """Slug for the dataset; None for the one that the source suggests."""
    shard_samples: int | None = None
    """Most samples in a shard; None for what the source suggests (1,000)."""
    shard_bytes: int = 256 * 2**20
    """Most bytes in a shard; a larger single image still gets one of its own."""
    seed: int = 0
    """Seed of every split rule."""
    test_fraction: float = 0.2
    val_fraction: float = 0.0
    """Shares of each class for test and val, where the source has no splits."""
    drop_leaks: bool = False
    """Leave out of train what test or val also hold, and out of val what test also holds."""
    limit: int | None = None
    """Most images, for a try; None for all."""
    label_separator: str | None = None
    """What separates the labels of one image in a table; None where each has one."""
    root: Path | None = None
    """Where the files of a known dataset are, or are downloaded to; None for ``OUT.source``."""
    download: bool = True
    check_counts: bool = True
    """Whether a known dataset must have the sizes of the table."""
    jobs: int | None = None
    """Threads; None for the number of cores, at most 16."""
    overwrite: bool = False
    csv_guard: bool = True
    """Of :func:`linprobe.names.csv_cell`, in ``samples.csv``."""
    upright: bool | None = None
    """Whether images are turned as their EXIF says; None for those of one's own files alone: of
    known datasets, the numbers of the literature were made without."""


@dataclass(frozen=True, slots=True)
class SourceSample:
    """One labelled image of a source, not yet read."""

    name: str
    """Name within the source, with ``/``, unique in its split: ``train/cat/7.jpg``, ``42``."""
    labels: tuple[int, ...]
    """Class ids: exactly one, or any number where the listing is multi-label."""
    extension: str
    """Of the image in the shard, lower case, without a dot; where empty, the format decides."""
    n_bytes: int
    """Size of the image file in bytes; 0 where it cannot be told."""
    stamp: int
    """Modification time of the file in nanoseconds; 0 for a source that never changes."""
    read: Callable[[], bytes]
    """Gives the bytes of the image file; raises OSError where it cannot be read."""


@dataclass(frozen=True)
class Listing:
    """A labelled image dataset, listed and not yet read."""

    name: str
    """What its slug is made of."""
    classes: tuple[str, ...]
    """Class names by label; k entries."""
    splits: Mapping[str, Sequence[SourceSample]]
    is_multi_label: bool = False
    metric: str | None = None
    """The metric to quote; None for the usual one of its kind of labels."""
    shard_samples: int = 1000
    """Samples in a shard, where the options do not say."""
    notes: tuple[str, ...] = ()
    """How the split was made, what was left aside, and other facts to keep with the numbers."""
    expected: Mapping[str, int] | None = None
    """Samples that each split must have; None where nobody knows."""
    warnings: tuple[str, ...] = ()
    """What will hurt, by name: images that are in no class, empty folders of classes."""

    @property
    def headline_metric(self) -> str:
        """The metric to quote."""
        return self.metric or ("map_11_point" if self.is_multi_label else "top1")


def check_listing(listing: Listing) -> None:
    """Raise PackError where classes, splits or labels are such that no probe could use them."""
    check_classes(listing.classes)
    k = len(listing.classes)
    if not listing.splits.get("train"):
        hint = "put images under train/CLASS/, or give one folder of classes to be split"
        raise PackError(f"{listing.name}: no images for the train split", hint=hint)
    for split, samples in listing.splits.items():
        if not samples:
            hint = f"remove the empty {split} split, or put images into it"
            raise PackError(f"{listing.name}: the {split} split is empty", hint=hint)
        for sample in samples:
            name, labels, n = sample.name, sample.labels, len(sample.labels)
            if any(not 0 <= label < k for label in labels):
                hint = "the source names fewer classes than its labels use"
                raise PackError(f"{name}: expected labels in 0..{k - 1}, found {labels}", hint=hint)
            if n != 1 and not listing.is_multi_label:
                hint = "give every image one label, or pack as multi-label with --label-separator"
                raise PackError(f"{name}: expected one label, found {n}", hint=hint)


def check_classes(classes: Sequence[str]) -> None:
    """Raise PackError where class names are fewer than two, cannot be told apart, or stored."""
    if len(classes) < 2:
        raise PackError(
            f"expected at least 2 classes, found {len(classes)}: {', '.join(classes) or 'none'}",
            hint="one folder (or label) per class; see extract/DATASETS.md for the layouts",
        )
    check_class_names(classes, "the source", error=PackError)


def dataset_slug(text: str) -> str:
    """A file-name form of ``text``: lower-case ASCII letters, digits, ``-`` and ``_``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = "".join(c if c.isalnum() or c in "-_" else "-" for c in plain.lower()).strip("-")
    return slug or "dataset"


def parse_arguments(text: str) -> dict[str, Argument]:
    """Arguments from ``key=value,...``, numbers and true/false as such; else PackError."""
    arguments: dict[str, Argument] = {}
    for part in text.split(",") if text else ():
        key, equals, value = part.partition("=")
        if not equals or not key.isidentifier():
            hint = "for example torchvision:STL10:folds=3"
            raise PackError(f"expected key=value, found {part!r}", hint=hint)
        truth: dict[str, Argument] = {"true": True, "false": False}
        arguments[key] = int(value) if value.isdecimal() else truth.get(value.lower(), value)
    return arguments


def file_sample(path: Path, name: str, labels: tuple[int, ...]) -> SourceSample:
    """A sample whose image is the file ``path``, byte for byte; a lost file is told on reading."""
    try:
        status = path.stat()
        n_bytes, stamp = status.st_size, status.st_mtime_ns
    except (OSError, ValueError):  # the latter of a NUL in its name
        n_bytes, stamp = 0, 0
    # A million samples are held at once: a string each, not a Path, which is five times as large.
    read = partial(read_file, str(path))
    return SourceSample(printable(name), labels, extension_of(name), n_bytes, stamp, read)


def read_file(path: str) -> bytes:
    """Content of an image file; OSError where it is none, cannot be read, or is too large."""
    try:
        return read_bytes(Path(path), limit=MAX_MEMBER_BYTES)
    except LinprobeError as error:  # a FIFO, a device, too large, or what the system says
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise OSError(error.message.removeprefix(f"{path}: ")) from None


def printable(name: str) -> str:
    """A file name as UTF-8 can hold it: a byte that is no UTF-8 is written as its escape."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def extension_of(name: str) -> str:
    """The extension of a file name in lower case, without the dot."""
    return PurePosixPath(name).suffix.lower().removeprefix(".")
