"""Tar members to labelled samples: webdataset's rule for keys, with the checks that it leaves out.

A sample is a run of adjacent members with one key: the path up to the first dot of the basename.
What is amiss is refused or counted, never passed over.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import TypeVar

from linprobe.errors import ShardError
from linprobe.names import IMAGE_EXTENSIONS
from linprobe.tars import MAX_MEMBER_BYTES
from linprobe_extract.shards.labels import LABEL_FILES, expected_label, find_label, label_file
from linprobe_extract.shards.types import Labelling, Member, Sample

MAX_LABEL_BYTES = 1 << 20
"""Of a file with labels: a caption and a few thousand labels."""
MAX_KEY_BYTES = 512 << 20
"""Of the keys of a shard, which are held to find those that come twice; ImageNet's have 120 MiB."""
MAX_FILES = 256
"""Images and labels of a sample: with 1 MiB each, the labels take what one image may."""
BATCH_BYTES = 1 << 30
"""Of the images of a batch, which ends before its size where they come to that."""
NO_IMAGE = "no_image"
NO_LABEL = "no_label"
TOO_LARGE = "too_large"

_KEY_BYTES = 100
"""What a key takes beside its characters, in a set of them."""
_META = re.compile("__[^/]*__($|/)")
"""What webdataset skips of a tar (``skip_meta`` of its ``tar_file_iterator``)."""

T = TypeVar("T")


def read_samples(url: str, members: Iterable[Member], labelling: Labelling) -> Iterator[Sample]:
    """Group the members of a shard, in tar order, into samples; ``url`` is for messages.

    Raises ShardError where a key comes twice or its members are not adjacent, a label cannot be
    understood, or no sample at all has a label.
    """
    # Imported here: it imports torch, and what plans and packs is without.
    from webdataset.tariterators import group_by_keys

    n_samples = n_labelled = 0
    files = ({"fname": m, "data": m.data, "__url__": url} for m in _checked(url, members))
    for fields in group_by_keys(files, lambda m: (m.key, m.extension), lcase=False):
        sample = _sample(url, fields["__key__"], fields, labelling)
        n_samples += 1
        n_labelled += sample.reason != NO_LABEL
        yield sample
    if not n_labelled:
        what = f"no sample of '{url}' has a label" if n_samples else f"'{url}' holds no sample"
        fault = f"{what}; expected {expected_label(labelling.source)}"
        hint = "name the JSON field with --label-key, or use --label-from npy, txt or folder"
        raise ShardError(fault, hint=hint)


@cache
def _webdatasets_rule() -> Callable[[str], tuple[str | None, str | None]]:
    from webdataset.tariterators import base_plus_ext  # which imports torch

    return base_plus_ext  # type: ignore[no-any-return]


def split_member(name: str) -> tuple[str, str] | None:
    """Split a member path into key and lower-case extensions: ``a/b.c.JPG`` is ``a/b``, ``c.jpg``.

    None for what is no part of a sample: without an extension, hidden (``.DS_Store``, macOS's
    ``._x.jpg``), or called ``__x__`` as webdataset calls what is about a shard.
    """
    folder, slash, basename = name.rpartition("/")
    # Its pattern takes the square of the slashes; and a hidden file's folder for its key.
    stem, extensions = _webdatasets_rule()(basename)
    if stem is None or extensions is None or (name[0] == "_" and _META.match(name)):
        return None
    if extensions.startswith("__") or (stem.startswith("__") and stem.endswith("__")):
        return None
    return folder + slash + stem, extensions.lower()


def is_image(extension: str) -> bool:
    """Whether a file with these extensions is an image: the last one tells."""
    return extension.rpartition(".")[2] in IMAGE_EXTENSIONS


def size_limit(extension: str) -> int:
    """The most bytes that are read of a member; none of what is no image and no label."""
    last = extension.rpartition(".")[2]
    if last in IMAGE_EXTENSIONS:
        return MAX_MEMBER_BYTES
    return MAX_LABEL_BYTES if last in LABEL_FILES else -1


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


def _checked(url: str, members: Iterable[Member]) -> Iterator[Member]:
    """What grouping needs of the members, up to one that it would pass over or hold without end."""
    seen: set[str] = set()
    key: str | None = None
    extensions: set[str] = set()
    images: list[str] = []
    n_key_bytes = 0
    for member in members:
        is_first = member.key != key
        if is_first:
            if member.key in seen:
                hint = "keep the files of a sample together in the tar, and keys unique"
                raise ShardError(f"key '{member.key}' comes twice in '{url}'", hint=hint)
            seen.add(member.key)
            key, extensions, images = member.key, set(), []
            n_key_bytes += len(key) + _KEY_BYTES
            if n_key_bytes > MAX_KEY_BYTES:
                fault = f"the keys of '{url}' take more than {MAX_KEY_BYTES:,} bytes"
                raise ShardError(fault, hint="pack it again as several shards")
        if not is_first and size_limit(member.extension) < 0:
            continue  # neither image nor label, of a sample that is known
        if member.extension in extensions:
            fault = f"'{member.key}.{member.extension}' comes twice in '{url}'"
            raise ShardError(fault, hint="keep keys unique: pack it again")
        extensions.add(member.extension)
        if is_image(member.extension):
            images.append(member.extension)
        if len(images) > 1:
            fault = f"sample '{key}' of '{url}' has {len(images)} images: {', '.join(images)}"
            hint = "keep one image a sample; which one is meant cannot be told"
            raise ShardError(fault, hint=hint)
        if len(extensions) > MAX_FILES:
            fault = f"sample '{key}' of '{url}' has more than {MAX_FILES} labels"
            raise ShardError(fault, hint="keep an image and its label a sample")
        yield member


def _sample(url: str, key: str, files: Mapping[str, bytes | None], labelling: Labelling) -> Sample:
    image = next((name for name in files if is_image(name)), "")
    try:
        if any(files.get(name, b"") is None for name in (image, label_file(files, labelling))):
            return Sample(key, b"", -1, TOO_LARGE)
        label = find_label(key, files, labelling)
    except (ValueError, RecursionError) as error:
        raise ShardError(
            f"label of sample '{key}' in '{url}' cannot be understood: {error}",
            hint=f"expected {expected_label(labelling.source)}; class names come from "
            "classnames.txt or --classes FILE",
        ) from error
    data = files.get(image)
    if label is None or data is None:
        return Sample(key, b"", -1, NO_LABEL if label is None else NO_IMAGE)
    return Sample(key, data, label, None)
