"""What a dataset is read as: splits, shards, the files in them, samples and their labels."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from msgspec import UNSET

from linprobe.errors import ExtractError
from linprobe.records import digest_json
from linprobe_store.format.spec import KeyPrefix, ShardFingerprint

Label = int | tuple[int, ...]
"""A class id, or the ids that hold of a multi-label sample."""
Kind = Literal["file", "url", "command", "pipeline"]
"""What kind of source something is: decided once, from what a person typed."""
Pipeline = Iterable[object]
"""Samples as dicts, as often as they are asked for: a ``wds.WebDataset``, a list."""


@dataclass(frozen=True)
class Shard:
    """A source tar: the unit of work, of resume, of commit and of error."""

    url: str
    """Local path, URL, or ``pipe:`` command."""
    fingerprint: ShardFingerprint | None = None
    """From the dataset's card; None means that the bytes have to be read to know it."""
    n_samples: int | None = None
    """From the dataset's card; None when not known before reading."""
    kind: Kind = "file"
    """What the text of ``url`` is; nothing looks at the text again to tell."""
    pipeline: Pipeline | None = field(default=None, compare=False, repr=False)
    """Where the samples come from, for that kind."""

    @property
    def name(self) -> str:
        """Basename of the tar, without query strings; a byte that is no UTF-8 as its escape."""
        if self.kind == "file":
            return os.fsencode(Path(self.url).name).decode("utf-8", "backslashreplace")
        return re.split(r"[/\s]", self.url.split("?")[0].rstrip("/"))[-1]


@dataclass(frozen=True)
class Member:
    """One file of a sample in a tar."""

    key: str
    """Its path up to the first dot of the basename."""
    extension: str
    """What follows that dot, in lower case: ``jpg``, or ``v2.jpg``."""
    data: bytes | None
    """Its content; None where it is larger than a sample's may be, or no image and no label."""


@dataclass(frozen=True)
class Sample:
    """One image with its label, as bytes."""

    key: str
    """Member path up to the first dot of its basename; unique within a split."""
    image: bytes
    """The image file, undecoded; empty when ``reason`` is set."""
    label: Label
    """Class id or ids; -1 when ``reason`` is set."""
    reason: str | None
    """Why the sample cannot be used (``no_image``, ``no_label``, ``too_large``), or None."""


@dataclass(frozen=True)
class Labelling:
    """How labels are read."""

    source: str
    """``cls``, ``json:<field>``, ``npy``, ``txt`` or ``folder``."""
    classes: tuple[str, ...] | None
    """Class names by label; needed where the data holds names instead of ids."""

    @cached_property
    def ids(self) -> dict[str, int]:
        """Class ids by name; none where the names are not known."""
        return {name: label for label, name in enumerate(self.classes or ())}

    @property
    def identity(self) -> str:
        """What labels are a function of, beside the tar: other class names, other ids."""
        if self.source == "cls" or self.classes is None:
            return self.source
        return f"{self.source}@{digest_json(self.classes)[:16]}"


@dataclass(frozen=True)
class SplitPlan:
    """The shards of one split."""

    name: str
    """``train``, ``val`` or ``test``."""
    shards: tuple[Shard, ...]
    """In row order; at least one."""


@dataclass(frozen=True)
class DatasetPlan:
    """What to extract: a named dataset as ordered shards."""

    name: str
    """Name for people, such as ``cifar10``; not part of any id."""
    splits: tuple[SplitPlan, ...]
    """Sorted by name; at least one."""
    label_source: str
    """``cls``, ``json:<field>``, ``npy``, ``txt`` or ``folder``."""
    classes: tuple[str, ...] | None
    """Class names by label, or None when the data does not name them."""
    metric: str | None = None
    """The metric that the dataset's card declares, such as ``mean_per_class``; None without."""
    key_prefix: KeyPrefix = UNSET
    """What is put before the keys of the samples."""
    upright: Literal[True] | None = None
    """True where the card says that images were turned as their EXIF says."""

    @property
    def labelling(self) -> Labelling:
        """Label source and class names together."""
        return Labelling(self.label_source, self.classes)

    def split(self, name: str) -> SplitPlan:
        """Give one split; ExtractError names those there are."""
        splits = {split.name: split for split in self.splits}
        if name in splits:
            return splits[name]
        known = ", ".join(splits)
        fault = f"dataset '{self.name}' has no split '{name}'; it has {known}"
        raise ExtractError(fault, hint=f"choose with --split among: {known}")
