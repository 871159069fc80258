"""What is known of standard datasets: the rows of ``benchmarks.toml``.

To add one, add a ``[[dataset]]`` there; or, without a fork, name files of the same form in the
environment variable ``LINPROBE_BENCHMARKS`` (separated as those of ``PATH`` are).
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

from linprobe.errors import LinprobeError
from linprobe.records import encode, parse, read_bytes

Argument: TypeAlias = str | int | bool
SplitArguments: TypeAlias = Mapping[str, Mapping[str, Argument]]

OWN_FILES = "LINPROBE_BENCHMARKS"
"""Environment variable with the paths of files of one's own."""
OPENAI_MODELS = ("RN50", "RN101", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")


@dataclass(frozen=True)
class TorchvisionSource:
    """A class of ``torchvision.datasets`` and how it is called for each split."""

    name: str
    """Name of the class."""
    splits: SplitArguments
    """Arguments of the constructor by split, or by ``all`` where the class has none and ``rule``
    splits it."""
    downloads: bool = True
    """Whether the class can download all that it needs."""


@dataclass(frozen=True)
class PerClassRule:
    """A fixed number of every class goes to train, and to test another or all that is left."""

    train: int
    """Samples of each class for train."""
    test: int | None = None
    """Samples of each class for test; None for all others."""


@dataclass(frozen=True)
class PublishedIn:
    """Where numbers are printed, and of which question they are the answer."""

    source: str
    """Where they are printed, such as ``Radford et al. 2021, Table 10``."""
    tap: str
    """The tap whose features were probed."""
    protocol: str
    """The protocol by which C was chosen."""


@dataclass(frozen=True)
class KnownDataset:
    """A standard dataset: what to pack, what to expect, what to quote."""

    slug: str
    """Name on the command line, such as ``cifar10``."""
    title: str
    """Name in the tables of papers."""
    n_classes: int
    """Number of classes k."""
    metric: str
    """The metric that the field quotes, such as ``top1`` or ``mean_per_class``."""
    aliases: tuple[str, ...] = ()
    """Other names that it goes by; lower case with underscores."""
    is_multi_label: bool = False
    """Whether an image has any number of labels."""
    sizes: Mapping[str, int] | None = None
    """Samples of each split as packed; None where no two copies have the same files."""
    paper_sizes: tuple[int, int] | None = None
    """Train (with val) and test as the paper prints them, misprints included."""
    split: str = "official"
    """Where the split comes from: ``official``, or the rule in words."""
    citation: str = ""
    """Who made it, where it was published."""
    torchvision: TorchvisionSource | None = None
    """The class that reads its files; None where it is packed from a folder or a table."""
    rule: PerClassRule | None = None
    """How one unsplit set is split."""
    is_subset: bool = False
    """Whether ``sizes`` is a seeded choice from each official split."""
    files: str = ""
    """Where to get the files, where nothing downloads them."""
    note: str = ""
    """Misprints, and what differs from the paper."""
    published: Mapping[str, float] = field(default_factory=dict)
    """Published linear-probe results in percent, by model."""
    published_in: PublishedIn | None = None
    """Where those are printed; None for what the file says of all of its datasets."""

    @property
    def provider(self) -> str:
        """``download``, ``torchvision`` (files by hand, read by torchvision), or ``folder``."""
        if self.torchvision is None:
            return "folder"
        return "download" if self.torchvision.downloads else "torchvision"


@dataclass(frozen=True)
class PublishedResult:
    """A number that a paper prints."""

    model: str
    """The model as the table of known datasets names it, such as ``ViT-B/16``."""
    dataset: str
    """Slug of the dataset, such as ``cifar10``."""
    metric: str
    """The metric it is in, such as ``top1``."""
    percent: float
    """The number, in percent, as printed."""
    source: str
    """Where it is printed."""

    def beside(self, value: float) -> str:
        """The paper's number and the difference to ``value`` (the same metric, in [0, 1])."""
        difference = 100 * value - self.percent
        return f"{self.source}: {self.percent:.1f} (ours {difference:+.1f})"


@dataclass(frozen=True)
class _File:
    """A file of known datasets."""

    dataset: tuple[KnownDataset, ...]
    """Its datasets, in order."""
    published_in: PublishedIn | None = None
    """Where the numbers of those are printed that do not say so themselves."""


def known_datasets() -> tuple[KnownDataset, ...]:
    """All known datasets: the 27 of the CLIP paper in the order of its Table 9, then one's own.

    Raises
    ------
    LinprobeError : a file of one's own cannot be read, or names a dataset that is known already.
    """
    return _datasets_of(os.environ.get(OWN_FILES, ""))


def find_known(name: str) -> KnownDataset | None:
    """The dataset of this slug, alias or torchvision class; None where there is none.

    Upper case, hyphens and slashes do not matter.
    """
    plain = plain_name(name)
    for row in known_datasets():
        names = map(plain_name, (row.slug, *row.aliases))
        if plain in names or (row.torchvision and row.torchvision.name == name):
            return row
    return None


def plain_name(name: str) -> str:
    """Lower case with underscores: the form in which names of datasets are compared."""
    return name.lower().replace("-", "_").replace("/", "_")


def published(
    model: str, dataset: str, tap: str, protocol: str, metric: str
) -> PublishedResult | None:
    """The paper's number for this question; None where no paper asked it.

    Parameters
    ----------
    model : a model name as on the command line: ``ViT-B/16``, or open_clip's ``ViT-B-16:openai``.
    dataset : a name of a known dataset.
    tap, protocol, metric : of one's own result; they must be the paper's.
    """
    row = find_known(dataset)
    if row is None or row.published_in is None:
        return None
    name = model if model in row.published else openai_name(model) or ""
    asked = (row.published_in.tap, row.published_in.protocol, row.metric)
    if name not in row.published or asked != (tap, protocol, metric):
        return None
    return PublishedResult(name, row.slug, row.metric, row.published[name], row.published_in.source)


def openai_name(model: str) -> str | None:
    """OpenAI's name for an encoder with OpenAI's weights; None for any other."""
    if model in OPENAI_MODELS:
        return model
    architecture, _, tag = model.partition(":")
    if tag != "openai":
        return None
    names = {name.replace("/", "-").replace("@336px", "-336"): name for name in OPENAI_MODELS}
    return names.get(architecture.removesuffix("-quickgelu"))


@cache
def _datasets_of(own_files: str) -> tuple[KnownDataset, ...]:
    """The datasets of our own file and of these."""
    paths = [
        Path(__file__).with_suffix(".toml"),
        *map(Path, filter(None, own_files.split(os.pathsep))),
    ]
    rows = [row for path in paths for row in _read(path)]
    _refuse_repeats(rows)
    return tuple(rows)


def _read(path: Path) -> Iterable[KnownDataset]:
    """The datasets of one file."""
    hint = f"correct it after linprobe/benchmarks.toml, or leave it out of {OWN_FILES}"
    data = read_bytes(path, error=LinprobeError, hint=hint)
    try:
        content = encode(tomllib.loads(data.decode()))
    except (ValueError, TypeError) as error:
        raise LinprobeError(f"{path}: {error}", hint=hint) from error
    file = parse(_File, content, str(path), error=LinprobeError, hint=hint)
    return (
        replace(row, published_in=row.published_in or file.published_in) for row in file.dataset
    )


def _refuse_repeats(rows: Iterable[KnownDataset]) -> None:
    """Refuse a second dataset of a name."""
    names: set[str] = set()
    for row in rows:
        for name in map(plain_name, (row.slug, *row.aliases)):
            if name in names:
                raise LinprobeError(
                    f"two known datasets are called {name}",
                    hint=f"choose another slug or alias in the files of {OWN_FILES}",
                )
            names.add(name)
