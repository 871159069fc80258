"""What is known of standard datasets: the rows of ``benchmarks.toml``.

To add one, add a ``[[dataset]]`` there; or, without a fork, name files of the same form in the
environment variable ``LINPROBE_BENCHMARKS`` (separated as those of ``PATH`` are).
"""

import os
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

from linprobe.errors import LinprobeError
from linprobe.records import encode, parse, read_bytes

Argument: TypeAlias = str | int | bool
SplitArguments: TypeAlias = Mapping[str, Mapping[str, Argument]]

OWN_FILES = "LINPROBE_BENCHMARKS"
OPENAI_MODELS = ("RN50", "RN101", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")


@dataclass(frozen=True)
class TorchvisionSource:
    """A class of ``torchvision.datasets`` and how it is called for each split."""

    name: str
    splits: SplitArguments
    """Arguments of the constructor by split; by ``all`` where the class has none."""
    downloads: bool = True
    """Whether the class can download all that it needs."""


@dataclass(frozen=True)
class PerClassRule:
    """A fixed number of every class goes to train, and to test another, or with None the rest."""

    train: int
    test: int | None = None


@dataclass(frozen=True)
class PublishedIn:
    """Where numbers are printed (``Radford et al. 2021, Table 10``), and of which question."""

    source: str
    tap: str
    protocol: str


@dataclass(frozen=True)
class KnownDataset:
    """A standard dataset: what to pack, what to expect, what to quote."""

    slug: str
    """Name on the command line, such as ``cifar10``."""
    title: str
    n_classes: int
    metric: str
    """The metric that the field quotes, such as ``top1`` or ``mean_per_class``."""
    aliases: tuple[str, ...] = ()
    """Other names that it goes by; lower case with underscores."""
    is_multi_label: bool = False
    sizes: Mapping[str, int] | None = None
    """Samples of each split as packed; None where no two copies have the same files."""
    paper_sizes: tuple[int, int] | None = None
    """Train (with val) and test as the paper prints them, misprints included."""
    split: str = "official"
    """Where the split comes from: ``official``, or the rule in words."""
    citation: str = ""
    torchvision: TorchvisionSource | None = None
    """The class that reads its files; None where it is packed from a folder or a table."""
    rule: PerClassRule | None = None
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
    def plain_names(self) -> tuple[str, ...]:
        """Slug and aliases as :func:`plain_name` writes them."""
        return tuple(map(plain_name, (self.slug, *self.aliases)))

    @property
    def provider(self) -> str:
        """``download``, ``torchvision`` (files by hand, read by torchvision), or ``folder``."""
        if self.torchvision is None:
            return "folder"
        return "download" if self.torchvision.downloads else "torchvision"


@dataclass(frozen=True)
class PublishedResult:
    """A number that a paper prints, in percent, and where."""

    dataset: str
    percent: float
    source: str

    def beside(self, value: float) -> str:
        """The paper's number and the difference to ``value`` (the same metric, in [0, 1])."""
        return f"{self.source}: {self.percent:.1f} (ours {100 * value - self.percent:+.1f})"


@dataclass(frozen=True)
class _File:
    """A file of known datasets, and where numbers are printed unless a dataset says so itself."""

    dataset: tuple[KnownDataset, ...]
    published_in: PublishedIn | None = None


def known_datasets() -> tuple[KnownDataset, ...]:
    """The 27 of the CLIP paper as in its Table 9, then one's own; LinprobeError for a bad file."""
    return _datasets_of(os.environ.get(OWN_FILES, ""))


def find_known(name: str) -> KnownDataset | None:
    """The dataset of this slug, alias or torchvision class, as :func:`plain_name` reads it."""
    plain = plain_name(name)
    for row in known_datasets():
        if plain in row.plain_names or (row.torchvision and row.torchvision.name == name):
            return row
    return None


def plain_name(name: str) -> str:
    """Lower case with underscores: the form in which names of datasets are compared."""
    return name.lower().replace("-", "_").replace("/", "_")


def published(
    model: str, dataset: str, tap: str, protocol: str, metric: str
) -> PublishedResult | None:
    """The paper's number, or None; ``model`` is such as ``ViT-B/16`` or ``ViT-B-16:openai``."""
    row = find_known(dataset)
    if row is None or row.published_in is None:
        return None
    architecture, _, tag = model.partition(":")
    if tag == "openai" and model not in row.published:
        names = {name.replace("/", "-").replace("@336px", "-336"): name for name in OPENAI_MODELS}
        model = names.get(architecture.removesuffix("-quickgelu"), model)
    asked = (row.published_in.tap, row.published_in.protocol, row.metric)
    if model not in row.published or asked != (tap, protocol, metric):
        return None
    return PublishedResult(row.slug, row.published[model], row.published_in.source)


@cache
def _datasets_of(own_files: str) -> tuple[KnownDataset, ...]:
    """The datasets of our own file and of these."""
    own_paths = [Path(path) for path in own_files.split(os.pathsep) if path]
    paths = (Path(__file__).with_suffix(".toml"), *own_paths)
    rows = [row for path in paths for row in _read(path)]
    name, count = Counter(name for row in rows for name in row.plain_names).most_common(1)[0]
    if count > 1:
        hint = f"choose another slug or alias in the files of {OWN_FILES}"
        raise LinprobeError(f"two known datasets are called {name}", hint=hint)
    return tuple(rows)


def _read(path: Path) -> list[KnownDataset]:
    hint = f"correct it after linprobe/benchmarks.toml, or leave it out of {OWN_FILES}"
    data = read_bytes(path, error=LinprobeError, hint=hint)
    try:
        content = encode(tomllib.loads(data.decode()))
    except (ValueError, TypeError, RecursionError) as error:
        raise LinprobeError(f"{path}: {error}", hint=hint) from error
    file = parse(_File, content, str(path), error=LinprobeError, hint=hint)
    where = file.published_in
    return [replace(row, published_in=row.published_in or where) for row in file.dataset]
