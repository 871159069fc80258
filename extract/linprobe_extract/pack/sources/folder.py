"""``imagefolder:DIR``: one folder per class, split by subfolders or by a seeded rule.

::

    DIR/train/CLASS/**.jpg  DIR/val/CLASS/**.jpg  DIR/test/CLASS/**.jpg     official splits
    DIR/CLASS/**.jpg  or  DIR/train/CLASS/**.jpg                            split by the rule

An image belongs to the class of the folder right under the split, however deep it lies. With
``train`` and ``val`` alone, ``val`` is taken for the test split, as ImageNet's layout means it.
"""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from linprobe.errors import PackError
from linprobe.names import first_few, split_named
from linprobe_extract.pack.listing import (
    Listing,
    PackOptions,
    SourceSample,
    dataset_slug,
    file_sample,
    is_image_name,
    printable,
)
from linprobe_extract.pack.splits import split_by_options

NAME = "imagefolder"
FORM = "imagefolder:DIR"
HELP = "`DIR/CLASS/IMAGE`, or `DIR/{train,val,test}/CLASS/IMAGE`"
IS_PATH = True
NEVER_CHANGES = False

LAYOUT_HINT = "expected DIR/CLASS/IMAGE or DIR/{train,val,test}/CLASS/IMAGE"
SHOWN_CLASSES = 3
"""Class names that a note of the card shows; another number would change its bytes."""


@dataclass
class _Walk:
    """What a walk through a folder came across."""

    images: list[str] = field(default_factory=list)
    """Image files, relative to the folder, with ``/``."""
    others: Counter[str] = field(default_factory=Counter)
    """Files that are no images, counted by extension."""
    loops: list[str] = field(default_factory=list)
    """Links to a folder that they lie in; not followed."""


def list_samples(words: str, options: PackOptions) -> Listing:
    """List the images under a folder with the class of their folder.

    Raises
    ------
    PackError : no such folder, images outside a class folder, or folders that may be both splits
        and classes.
    """
    root = Path(words).expanduser()
    if not root.is_dir():
        raise PackError(f"{root} is not a folder", hint=LAYOUT_HINT)
    try:
        walk = _Walk()
        _walk_images(root, PurePosixPath(), (), walk)
    except OSError as error:
        raise PackError(
            f"{error.filename} cannot be read: {error.strerror}",
            hint="make every folder readable, or move it out of the source",
        ) from error
    walk.images.sort()
    if not walk.images:
        raise PackError(
            f"{root} holds no images; left aside{_others_text(walk.others) or ' nothing'}",
            hint=LAYOUT_HINT,
        )
    folders = _split_folders(root, walk.images)
    depth = 1 if folders else 0
    class_of = {name: _class_of(root, name, depth) for name in walk.images}
    classes = sorted(set(class_of.values()))
    label_of = {name: label for label, name in enumerate(classes)}
    samples = [
        file_sample(root / name, name, (label_of[class_name],))
        for name, class_name in class_of.items()
    ]
    splits, notes = _split(samples, folders, classes, options)
    return Listing(
        name=dataset_slug(root.resolve().name),
        classes=tuple(printable(name) for name in classes),
        splits=splits,
        notes=(*_left_aside(walk), *notes),
    )


def _walk_images(
    root: Path, folder: PurePosixPath, above: tuple[tuple[int, int], ...], walk: _Walk
) -> None:
    """Add what lies under ``folder``; ``above`` identifies the folders that it lies in.

    Links are followed, loops are not; hidden folders are left aside.
    """
    status = (root / folder).stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        walk.loops.append(str(folder))
        return
    with os.scandir(root / folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if not entry.is_dir():
            if is_image_name(entry.name):
                walk.images.append(str(folder / entry.name))
            else:
                walk.others[_kind(entry.name)] += 1
        elif entry.name.startswith("."):
            walk.others["hidden folders"] += 1
        else:
            _walk_images(root, folder / entry.name, (*above, identity), walk)


def _split_folders(root: Path, images: list[str]) -> Mapping[str, str]:
    """The top folders that are splits, to the split that each holds; none where all are classes.

    Raises
    ------
    PackError : two folders mean one split, there is no train, or some top folders look like
        splits and others do not.
    """
    tops = sorted({PurePosixPath(name).parts[0] for name in images if "/" in name})
    known = [top for top in tops if split_named(top)]
    has_classes = any(
        len(PurePosixPath(name).parts) > 2 and PurePosixPath(name).parts[0] in known
        for name in images
    )
    if not known or not has_classes:
        return {}
    if strange := [top for top in tops if top not in known]:
        raise PackError(
            f"{root}: {first_few(known)} look like splits, and {first_few(strange)} do not",
            hint="move the other folders elsewhere, or rename the splits if they are classes",
        )
    splits = {top: split for top in known if (split := split_named(top))}
    if len(set(splits.values())) < len(splits):
        raise PackError(
            f"{root}: two folders for one split: {first_few(known)}",
            hint="keep one folder each of train, val and test",
        )
    if "train" not in splits.values():
        raise PackError(
            f"{root}: expected a train folder, found {first_few(known)}", hint=LAYOUT_HINT
        )
    if set(splits.values()) == {"train", "val"}:
        splits = {top: "test" if split == "val" else split for top, split in splits.items()}
    return splits


def _class_of(root: Path, name: str, depth: int) -> str:
    """The class folder of an image: that many folders below ``root``."""
    parts = PurePosixPath(name).parts
    if len(parts) < depth + 2:
        raise PackError(
            f"{root / name} has no label: it lies outside every class folder", hint=LAYOUT_HINT
        )
    return parts[depth]


def _split(
    samples: list[SourceSample],
    folders: Mapping[str, str],
    classes: list[str],
    options: PackOptions,
) -> tuple[Mapping[str, list[SourceSample]], list[str]]:
    """Split as the folders say; by the rule where there are none, or train alone."""
    if len(folders) > 1:
        splits = _by_folder(samples, folders)
        return splits, _split_notes(folders, splits, classes)
    splits, rule = split_by_options(samples, options)
    return splits, [rule]


def _by_folder(
    samples: list[SourceSample], folders: Mapping[str, str]
) -> Mapping[str, list[SourceSample]]:
    """Samples by the split of their top folder."""
    splits: dict[str, list[SourceSample]] = {split: [] for split in folders.values()}
    printed = {printable(top): split for top, split in folders.items()}
    for sample in samples:
        splits[printed[PurePosixPath(sample.name).parts[0]]].append(sample)
    return splits


def _split_notes(
    folders: Mapping[str, str], splits: Mapping[str, list[SourceSample]], classes: list[str]
) -> list[str]:
    """What a reader should know of splits given by folders."""
    notes = [f"splits by folders: {', '.join(folders)}"]
    notes += [
        f"folder {top} is taken for the test split: there is no folder test"
        for top, split in folders.items()
        if split == "test" and split_named(top) == "val"
    ]
    for split, samples in splits.items():
        present = {sample.labels[0] for sample in samples}
        missing = [name for label, name in enumerate(classes) if label not in present]
        if missing:
            notes.append(f"{split} has no images of {printable(first_few(missing, SHOWN_CLASSES))}")
    return notes


def _left_aside(walk: _Walk) -> list[str]:
    """What was seen and not packed."""
    notes = [f"not followed, a loop of links: {printable(loop)}" for loop in walk.loops]
    if walk.others.total():
        notes.append(f"left aside{_others_text(walk.others)}")
    return notes


def _others_text(others: Mapping[str, int]) -> str:
    """Files that are no images, in words."""
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()) if count)
    return f" what is no image: {listed}" if listed else ""


def _kind(name: str) -> str:
    """What a file that is no image is counted under."""
    if name.startswith("."):
        return "hidden"
    return printable(PurePosixPath(name).suffix.lower()) or "without extension"
