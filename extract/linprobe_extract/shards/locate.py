"""The plan of a dataset: its splits, their shards in order, its classes and where labels are.

Knows no image, no model and no torch, so that every error about arguments comes at once.
"""

from dataclasses import dataclass
from pathlib import Path

from linprobe.errors import ExtractError
from linprobe_extract.shards.card import DatasetCard, load_card
from linprobe_extract.shards.layouts import (
    LAYOUT_HINT,
    Shard,
    explicit_splits,
    local_splits,
    remote_splits,
    remote_text,
)
from linprobe_extract.shards.samples import Labelling


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
    """``cls``, ``json:<field>`` or ``folder``."""
    classes: tuple[str, ...] | None
    """Class names by label, or None when the data does not name them."""

    @property
    def labelling(self) -> Labelling:
        """How labels are read."""
        return Labelling(self.label_source, self.classes)

    def split(self, name: str) -> SplitPlan:
        """Give one split.

        Raises
        ------
        ExtractError : the dataset has no such split; names those it has.
        """
        for split in self.splits:
            if split.name == name:
                return split
        have = ", ".join(split.name for split in self.splits)
        raise ExtractError(
            f"dataset '{self.name}' has no split '{name}'; it has {have}",
            hint=f"choose with --split among: {have}",
        )


def plan_dataset(
    data: str | None,
    *,
    shards: tuple[str, ...] = (),
    name: str | None = None,
    label_source: str | None = None,
    classes_file: Path | None = None,
) -> DatasetPlan:
    """Find the shards of a dataset and put them in order.

    Parameters
    ----------
    data : a folder, or the URL of one, that holds ``<split>/*.tar``; None with ``shards``.
    shards : ``SPLIT=PATTERN`` entries; PATTERN may hold braces and globs, or be a URL or ``pipe:``.
    name : what to call the dataset; default is the card's name, else the folder's.
    label_source : overrides what the card says; ``cls`` without a card.
    classes_file : class names, one a line; default is the card's or ``classnames.txt``.

    Raises
    ------
    ExtractError : no such folder, no shards found, or an entry that cannot be understood.
    """
    if shards:
        splits, base, card = explicit_splits(shards), None, None
    elif data is None:
        raise ExtractError("no data to extract", hint="give --data DIR or --shards SPLIT=PATTERN")
    elif "://" in data:
        splits, base, card = remote_splits(data), data.rstrip("/"), None
    else:
        base = data
        card = load_card(_existing_folder(data))
        splits = local_splits(Path(data), card)
    return DatasetPlan(
        name=name or (card.name if card else _default_name(base)),
        splits=tuple(SplitPlan(key, splits[key]) for key in sorted(splits)),
        label_source=label_source or (card.label_source if card else "cls"),
        classes=_classes(base, card, classes_file),
    )


def _existing_folder(data: str) -> Path:
    folder = Path(data)
    if folder.is_dir():
        return folder
    raise ExtractError(
        f"no folder of shards at '{data}'",
        hint="linprobe pack SOURCE --out DIR makes one; " + LAYOUT_HINT,
    )


def _default_name(base: str | None) -> str:
    return "dataset" if base is None else Path(base.split("://")[-1]).resolve().name


def _classes(
    base: str | None, card: DatasetCard | None, classes_file: Path | None
) -> tuple[str, ...] | None:
    if classes_file is not None:
        if not classes_file.is_file():
            raise ExtractError(
                f"no class names at '{classes_file}'", hint="one class name a line, by label"
            )
        text: str | None = _names_text(classes_file)
    elif card is not None:
        return card.classes
    elif base is None:
        return None
    elif "://" in base:
        text = remote_text(f"{base}/classnames.txt")
    else:
        names = Path(base) / "classnames.txt"
        text = _names_text(names) if names.is_file() else None
    return None if text is None else _names(text, str(classes_file or f"{base}/classnames.txt"))


def _names(text: str, place: str) -> tuple[str, ...]:
    """Class names by line; a blank line before the last name would shift all labels after it."""
    names = tuple(line.strip() for line in text.rstrip().split("\n"))
    if "" in names:
        raise ExtractError(
            f"line {names.index('') + 1} of '{place}' is blank, expected a class name",
            hint="the n-th line names the class with the label n - 1",
        )
    return names


def _names_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ExtractError(
            f"cannot read class names from '{path}': {error}", hint="one a line, in UTF-8"
        ) from error
