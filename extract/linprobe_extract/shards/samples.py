"""Tar members to labelled samples, with the checks that webdataset leaves out.

A sample is a run of adjacent members with one key: the path up to the first dot of the basename.
What is amiss is refused or counted, never passed over.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from linprobe.errors import ShardError
from linprobe.names import IMAGE_EXTENSIONS
from linprobe_extract.shards.types import Label, Labelling, Member, Sample
from linprobe_store.format.spec import LabelArray

MAX_CLASSES = 1_000_000
"""Beyond this a label without class names is taken for a mistake, such as a sample's number."""
NO_IMAGE = "no_image"
NO_LABEL = "no_label"


def read_samples(url: str, members: Iterable[Member], labelling: Labelling) -> Iterator[Sample]:
    """Group the members of a shard, in tar order, into samples; ``url`` is for messages.

    Raises ShardError where a key comes twice or its members are not adjacent, a label cannot be
    understood, or no sample at all has a label.
    """
    seen: set[str] = set()
    n_labelled = 0
    for key, files in _group(url, members, seen):
        sample = _sample(url, key, files, labelling)
        n_labelled += sample.reason != NO_LABEL
        yield sample
    if seen and not n_labelled:
        fault = f"no sample of '{url}' has a label; expected {_expected_label(labelling.source)}"
        hint = "name the JSON field with --label-key, or use --label-from folder"
        raise ShardError(fault, hint=hint)


def split_member(name: str) -> tuple[str, str]:
    """Split a member path into key and lower-case extension: ``a/b.c.JPG`` is ``a/b``, ``jpg``.

    The key ends at the first dot of the basename, webdataset's rule; of several extensions the
    last one tells the type.
    """
    path = PurePosixPath(name)
    stem, _, extensions = path.name.partition(".")
    key = str(path.with_name(stem)) if stem else name
    return key, extensions.rpartition(".")[2].lower()


def _group(
    url: str, members: Iterable[Member], seen: set[str]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    key, files = "", dict[str, bytes]()
    for member in members:
        member_key, extension = split_member(member.name)
        if member_key != key:
            if files:
                yield key, files
            if member_key in seen:
                hint = "keep the files of a sample together in the tar, and keys unique"
                raise ShardError(f"key '{member_key}' comes twice in '{url}'", hint=hint)
            seen.add(member_key)
            key, files = member_key, {}
        if extension in files:
            hint = "keep keys unique: pack it again"
            raise ShardError(f"'{member.name}' comes twice in '{url}'", hint=hint)
        files[extension] = member.data
    if files:
        yield key, files


def _sample(url: str, key: str, files: Mapping[str, bytes], labelling: Labelling) -> Sample:
    images = [name for name in files if name in IMAGE_EXTENSIONS]
    if len(images) > 1:
        fault = f"sample '{key}' of '{url}' has {len(images)} images: {', '.join(images)}"
        hint = "keep one image a sample; which one is meant cannot be told"
        raise ShardError(fault, hint=hint)
    try:
        label = _label(key, files, labelling)
    except (ValueError, AttributeError, RecursionError) as error:
        raise ShardError(
            f"label of sample '{key}' in '{url}' cannot be understood: {error}",
            hint=f"expected {_expected_label(labelling.source)}; class names come from "
            "classnames.txt or --classes FILE",
        ) from error
    if label is None or not images:
        return Sample(key, b"", -1, NO_LABEL if label is None else NO_IMAGE)
    return Sample(key, files[images[0]], label, None)


def _label(key: str, files: Mapping[str, bytes], labelling: Labelling) -> Label | None:
    kind, _, field = labelling.source.partition(":")
    value: object = PurePosixPath(key).parent.name
    if kind == "cls":
        value = int(files["cls"]) if "cls" in files else None
    elif kind == "json":
        value = json.loads(files["json"]).get(field) if "json" in files else None
    if not isinstance(value, list):
        return None if value is None else _class_id(value, labelling.classes)
    if labelling.classes is None:
        raise ValueError("it has several labels, and the number of classes is not known")
    return tuple(sorted({_class_id(item, labelling.classes) for item in value}))


def _class_id(value: object, classes: tuple[str, ...] | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is neither a class id nor a class name")  # noqa: TRY004
    if isinstance(value, str):
        if classes is None or value not in classes:
            raise ValueError(f"no class is called {value!r}")
        return classes.index(value)
    if not 0 <= value < (MAX_CLASSES if classes is None else len(classes)):
        n_classes = "" if classes is None else f" of {len(classes)} classes"
        raise ValueError(f"{value} is not the id{n_classes} counted from 0")
    return value


def _expected_label(source: str) -> str:
    kind, _, field = source.partition(":")
    texts = {
        "cls": "a member '<key>.cls' that holds a class id",
        "json": f"a member '<key>.json' with the field '{field}'",
    }
    return texts.get(kind, "keys such as 'class-name/0001'")


def label_array(labels: Sequence[Label], classes: tuple[str, ...] | None) -> LabelArray:
    """Labels as the store takes them: (n,) int64, or (n, k) uint8 for multi-label samples.

    Raises ShardError where a sample has several labels and the class names are not known.
    """
    if not any(isinstance(label, tuple) for label in labels):
        return np.array(labels, np.int64)
    if classes is None:
        fault = "samples have several labels each and the number of classes is unknown"
        hint = "name the classes in classnames.txt or with --classes FILE"
        raise ShardError(fault, hint=hint)
    hot = np.zeros((len(labels), len(classes)), np.uint8)
    for row, label in zip(hot, labels, strict=True):
        row[list(label) if isinstance(label, tuple) else [label]] = 1
    return hot
