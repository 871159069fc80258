"""What is known of a standard dataset: one row of the table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from linprobe_extract.dataset_card import HeadlineMetric
from linprobe_extract.pack_split import PerClassRule

Argument: TypeAlias = str | int | bool
SplitArguments: TypeAlias = Mapping[str, Mapping[str, Argument]]

TRAIN_FLAG: SplitArguments = {"train": {"train": True}, "test": {"train": False}}
TRAIN_TEST: SplitArguments = {"train": {"split": "train"}, "test": {"split": "test"}}
TRAIN_VAL_TEST: SplitArguments = {
    "train": {"split": "train"},
    "val": {"split": "val"},
    "test": {"split": "test"},
}
UNSPLIT: SplitArguments = {"all": {}}
"""For a class without splits; a rule makes them."""


@dataclass(frozen=True)
class TorchvisionSource:
    """A class of ``torchvision.datasets`` and how it is called for each split."""

    name: str
    """Name of the class."""
    splits: SplitArguments
    """Arguments of the constructor by split, or by ``all`` where the class has none."""
    downloads: bool = True
    """Whether the class can download all that it needs."""


@dataclass(frozen=True)
class KnownDataset:
    """A dataset of the table: what to pack, what to expect, what to quote."""

    slug: str
    """Name on the command line, such as ``cifar10``."""
    title: str
    """Name in the paper's tables."""
    n_classes: int
    """Number of classes k."""
    metric: HeadlineMetric
    """The metric of Table 9."""
    sizes: Mapping[str, int] | None
    """Samples of each split as packed; None where no two copies have the same files."""
    paper_sizes: tuple[int, int]
    """Train (with val) and test as Table 9 prints them, misprints included."""
    split: str
    """Where the split comes from: ``official``, or the rule in words."""
    citation: str
    """Who made it, where it was published."""
    torchvision: TorchvisionSource | None = None
    """The class that reads its files; None where torchvision has none that fits."""
    rule: PerClassRule | None = None
    """How one unsplit set is split."""
    is_subset: bool = False
    """Whether ``sizes`` is a seeded choice from each official split."""
    files: str = ""
    """Where to get the files, where nothing downloads them."""
    note: str = ""
    """Misprints, and what differs from the paper."""

    @property
    def provider(self) -> str:
        """``download``, ``torchvision`` (files by hand, read by torchvision), or ``folder``."""
        if self.torchvision is None:
            return "folder"
        return "download" if self.torchvision.downloads else "torchvision"
