"""``imagefolder:DIR``: one folder per class, split by subfolders or by a seeded rule.

::

    DIR/train/CLASS/**.jpg  DIR/val/CLASS/**.jpg  DIR/test/CLASS/**.jpg     official splits
    DIR/CLASS/**.jpg  or  DIR/train/CLASS/**.jpg                            split by the rule

An image belongs to the class of the folder right under the split, however deep it lies. With
``train`` and ``val`` alone, ``val`` is taken for the test split, as ImageNet's layout means it.
What lies elsewhere is told and left out, and what looks misplaced is told.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from linprobe.errors import PackError
from linprobe.names import first_few, is_image, split_named
from linprobe.terminal import command
from linprobe_extract.pack.listing import (
    Listing,
    PackOptions,
    SourceSample,
    file_sample,
    printable,
)
from linprobe_extract.pack.splits import split_by_options

NAME = "imagefolder"
FORM = "imagefolder:DIR"
HELP = "`DIR/CLASS/IMAGE`, or `DIR/{train,val,test}/CLASS/IMAGE`"
IS_PATH = True
NEVER_CHANGES = False

LAYOUT = "expected DIR/CLASS/IMAGE or DIR/{train,val,test}/CLASS/IMAGE"
SHOWN_CLASSES = 3
"""Class names that a note of the card shows; another number would change its bytes."""


@dataclass
class _Walk:
    """Images and folders by path relative to the root, other files by extension, looping links."""

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    loops: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


def list_samples(words: str, options: PackOptions) -> Listing:
    """List the images under a folder with the class of their folder; else PackError."""
    root = Path(words).expanduser()
    if not root.is_dir():
        close = get_close_matches(root.name, (p.name for p in root.parent.glob("*/")), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close and not root.exists() else LAYOUT
        raise PackError(f"{root} is not a folder", hint=hint)
    walk = _Walk()
    try:
        _walk_images(root, PurePosixPath(), (), walk)
    except OSError as error:
        hint = "make every folder readable, or move it out of the source"
        raise PackError(f"{error.filename} cannot be read: {error.strerror}", hint=hint) from error
    others = ", ".join(f"{count} {kind}" for kind, count in sorted(walk.others.items()))
    left_aside = f"left aside what is no image: {others}" if others else ""
    folders = _split_folders(root, walk.images)
    depth = 1 if folders else 0
    class_of = {
        name: name.split("/")[depth] for name in sorted(walk.images) if name.count("/") > depth
    }
    if not class_of:
        what, hint = left_aside or "left aside nothing", LAYOUT
        if walk.images:
            what = f"{len(walk.images)} images lie in no class folder, such as {walk.images[0]}"
            hint = f"{LAYOUT}; where {root} is one class, pack the folder above it"
        elif walk.others[".tar"]:
            hint = f"a folder of shards needs no packing: {command('extract', data=root)}"
        raise PackError(f"{root} holds no images of classes; {what}", hint=hint)
    classes = sorted(set(class_of.values()))
    label_of = {name: label for label, name in enumerate(classes)}
    samples = [file_sample(root / name, name, (label_of[of],)) for name, of in class_of.items()]
    if len(folders) > 1:
        splits, split_notes = _by_folder(samples, folders, classes)
    else:
        splits, rule = split_by_options(samples, options)
        split_notes = [rule]
    notes = [f"not followed, a loop of links: {printable(loop)}" for loop in walk.loops]
    notes += [left_aside] if left_aside else []
    class_names = tuple(map(printable, classes))
    warnings = tuple(map(printable, _misplaced(walk, class_of, depth)))
    every_note = (*notes, *split_notes)
    return Listing(root.resolve().name, class_names, splits, notes=every_note, warnings=warnings)


def _misplaced(walk: _Walk, class_of: Mapping[str, str], depth: int) -> Iterator[str]:
    """What a folder of classes was hardly meant to hold, each in words."""
    strays = [name for name in sorted(walk.images) if name not in class_of]
    if strays:
        yield f"left out, in no class folder: {first_few(strays)}"
    parents = {name[: at.start()] for name in class_of for at in re.finditer("/", name)}
    own = [name for name in walk.folders if name.count("/") == depth and name not in parents]
    if own:
        yield f"no image in the folders of {first_few(own)}"
    classes = set(class_of.values())
    inner = {
        "/".join(parts[: i + 1])
        for parts in (name.split("/") for name in class_of)
        for i in range(depth + 1, len(parts) - 1)
        if parts[i] in classes - {parts[depth]}
    }
    if inner:
        yield f"named like another class, and taken for the one above: {first_few(sorted(inner))}"
    by_case: dict[str, list[str]] = {}
    for name in sorted(classes):
        by_case.setdefault(name.casefold().strip(), []).append(name)
    for alike in (names for names in by_case.values() if len(names) > 1):
        yield f"classes that differ in capitals alone: {first_few(alike)}"


def _walk_images(
    root: Path, folder: PurePosixPath, above: tuple[tuple[int, int], ...], walk: _Walk
) -> None:
    """Add what lies under ``folder``, itself inside folders ``above``; links yes, loops no."""
    status = (root / folder).stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        walk.loops.append(str(folder))
        return
    with os.scandir(root / folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        is_hidden = entry.name.startswith(".")
        if entry.is_dir():
            if is_hidden:
                walk.others["hidden folders"] += 1
            else:
                walk.folders.append(str(folder / entry.name))
                _walk_images(root, folder / entry.name, (*above, identity), walk)
        elif is_image(entry.name):
            walk.images.append(str(folder / entry.name))
        else:
            kind = printable(PurePosixPath(entry.name).suffix.lower()) or "without extension"
            walk.others["hidden" if is_hidden else kind] += 1


def _split_folders(root: Path, images: list[str]) -> Mapping[str, str]:
    """The top folders that are splits, to the split each holds; none where all are classes."""
    tops = sorted({name.split("/")[0] for name in images if "/" in name})
    splits = {top: split for top in tops if (split := split_named(top))}
    if not any(name.count("/") > 1 and name.split("/")[0] in splits for name in images):
        return {}
    if strange := [top for top in tops if top not in splits]:
        hint = "move the other folders elsewhere, or rename the splits if they are classes"
        what = f"{first_few(splits)} look like splits, and {first_few(strange)} do not"
        raise PackError(f"{root}: {what}", hint=hint)
    held = set(splits.values())
    if len(held) < len(splits):
        hint = "keep one folder each of train, val and test"
        raise PackError(f"{root}: two folders for one split: {first_few(splits)}", hint=hint)
    if "train" not in held:
        raise PackError(f"{root}: expected a train folder, found {first_few(splits)}", hint=LAYOUT)
    is_imagenet = held == {"train", "val"}
    return {top: "test" if is_imagenet and s == "val" else s for top, s in splits.items()}


def _by_folder(
    samples: list[SourceSample], folders: Mapping[str, str], classes: list[str]
) -> tuple[Mapping[str, list[SourceSample]], list[str]]:
    splits: dict[str, list[SourceSample]] = {split: [] for split in folders.values()}
    printed = {printable(top): split for top, split in folders.items()}
    for sample in samples:
        splits[printed[sample.name.split("/")[0]]].append(sample)
    notes = [f"splits by folders: {', '.join(folders)}"]
    notes += [
        f"folder {top} is taken for the test split: there is no folder test"
        for top, split in folders.items()
        if split == "test" and split_named(top) == "val"
    ]
    for split, members in splits.items():
        present = {sample.labels[0] for sample in members}
        missing = [name for label, name in enumerate(classes) if label not in present]
        if missing:
            notes.append(f"{split} has no images of {printable(first_few(missing, SHOWN_CLASSES))}")
    return splits, notes
