"""Tar members to labelled samples, with the checks that webdataset leaves out.

A sample is a run of adjacent members with one key: the path up to the first dot of the basename.
What is amiss is refused or counted, never passed over.
"""

import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

import numpy as np

from linprobe.errors import ShardError
from linprobe.names import IMAGE_EXTENSIONS, MAX_CLASSES
from linprobe.tars import MAX_MEMBER_BYTES
from linprobe_extract.shards.types import Label, Labelling, Member, Sample
from linprobe_store.format.spec import LabelArray

MAX_LABEL_BYTES = 1 << 20
"""Of a ``.cls`` or ``.json``: a caption and a few thousand labels."""
MAX_KEY_BYTES = 512 << 20
"""Of the keys of a shard, which are held to find those that come twice; ImageNet's have 120 MiB."""
BATCH_BYTES = 1 << 30
"""Of the images of a batch, which ends before its size where they come to that."""
NO_IMAGE = "no_image"
NO_LABEL = "no_label"
TOO_LARGE = "too_large"

_KEY_BYTES = 100
"""What a key takes beside its characters, in a set of them."""

_MAX_DIGITS = 64
"""Bytes of a ``.cls``, spaces and line ends included."""

T = TypeVar("T")


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


def size_limit(name: str) -> int:
    """The most bytes that are read of a member; none of what is no image and no label."""
    extension = split_member(name)[1]
    if extension in IMAGE_EXTENSIONS:
        return MAX_MEMBER_BYTES
    return MAX_LABEL_BYTES if extension in ("cls", "json") else -1


def cut_batches(
    items: Iterable[T], batch_size: int, size_of: Callable[[T], int]
) -> Iterator[tuple[T, ...]]:
    """Cut into consecutive batches of so many items; one ends early at :data:`BATCH_BYTES`."""
    batch: list[T] = []
    n_bytes = 0
    for item in items:
        batch.append(item)
        n_bytes += size_of(item)
        if len(batch) == batch_size or n_bytes >= BATCH_BYTES:
            yield tuple(batch)
            batch, n_bytes = [], 0
    if batch:
        yield tuple(batch)


def _group(
    url: str, members: Iterable[Member], seen: set[str]
) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    key: str | None = None
    files: dict[str, bytes | None] = {}
    n_key_bytes = 0
    for member in members:
        member_key, extension = split_member(member.name)
        if member_key != key:
            if key is not None:
                yield key, files
            if member_key in seen:
                hint = "keep the files of a sample together in the tar, and keys unique"
                raise ShardError(f"key '{member_key}' comes twice in '{url}'", hint=hint)
            seen.add(member_key)
            key, files = member_key, {}
            n_key_bytes += len(key) + _KEY_BYTES
            if n_key_bytes > MAX_KEY_BYTES:
                fault = f"the keys of '{url}' take more than {MAX_KEY_BYTES:,} bytes"
                raise ShardError(fault, hint="pack it again as several shards")
        if extension in files:
            hint = "keep keys unique: pack it again"
            raise ShardError(f"'{member.name}' comes twice in '{url}'", hint=hint)
        if size_limit(member.name) < 0:
            continue
        images = [name for name in (*files, extension) if name in IMAGE_EXTENSIONS]
        if len(images) > 1:
            fault = f"sample '{key}' of '{url}' has {len(images)} images: {', '.join(images)}"
            hint = "keep one image a sample; which one is meant cannot be told"
            raise ShardError(fault, hint=hint)
        files[extension] = member.data
    if key is not None:
        yield key, files


def _sample(url: str, key: str, files: Mapping[str, bytes | None], labelling: Labelling) -> Sample:
    image = next((name for name in files if name in IMAGE_EXTENSIONS), "")
    label_file = labelling.source.partition(":")[0]
    if any(files.get(name, b"") is None for name in (image, label_file)):
        return Sample(key, b"", -1, TOO_LARGE)
    try:
        label = _label(key, files, labelling)
    except (ValueError, RecursionError) as error:
        raise ShardError(
            f"label of sample '{key}' in '{url}' cannot be understood: {error}",
            hint=f"expected {_expected_label(labelling.source)}; class names come from "
            "classnames.txt or --classes FILE",
        ) from error
    data = files.get(image)
    if label is None or data is None:
        return Sample(key, b"", -1, NO_LABEL if label is None else NO_IMAGE)
    return Sample(key, data, label, None)


def _label(key: str, files: Mapping[str, bytes | None], labelling: Labelling) -> Label | None:
    kind, _, field = labelling.source.partition(":")
    value: object = PurePosixPath(key).parent.name
    if kind in ("cls", "json"):
        data = files.get(kind)
        if data is None:
            return None
        value = _number(data) if kind == "cls" else _field(data, field)
    if not isinstance(value, list):
        return None if value is None else _class_id(value, labelling)
    if labelling.classes is None:
        raise ValueError("it has several labels, and the number of classes is not known")
    return tuple(sorted({_class_id(item, labelling) for item in value}))


def _number(data: bytes) -> int:
    if not data.strip().isdigit() or len(data) > _MAX_DIGITS:
        raise ValueError(f"{reprlib.repr(data)} is no class id")
    return int(data)


def _field(data: bytes, name: str) -> object:
    fields = json.loads(data, object_pairs_hook=_object)
    if not isinstance(fields, dict):
        raise ValueError(f"{reprlib.repr(fields)} has no fields")  # noqa: TRY004
    return fields.get(name)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field comes twice")
    return fields


def _class_id(value: object, labelling: Labelling) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{reprlib.repr(value)} is neither a class id nor a class name")  # noqa: TRY004
    if isinstance(value, str):
        if value not in labelling.ids:
            raise ValueError(f"no class is called {reprlib.repr(value)}")
        return labelling.ids[value]
    n_classes = MAX_CLASSES if labelling.classes is None else len(labelling.classes)
    if not 0 <= value < n_classes:
        of_them = "" if labelling.classes is None else f" of {n_classes} classes"
        raise ValueError(f"{reprlib.repr(value)} is not the id{of_them} counted from 0")
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
