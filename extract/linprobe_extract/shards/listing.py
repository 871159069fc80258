"""Which files of a folder are shards of which split, by their names: here and on servers alike."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import braceexpand

from linprobe import names
from linprobe.errors import ExtractError

COPY_HINT = "copy or pack the dataset again"
_SHARD = re.compile(r"[^./][^/]*\.tar(\.(gz|bz2|xz))?", re.DOTALL)
"""Not their indexes, nor what a copy in progress leaves."""
_OF = re.compile(r"-\d+-of-(\d{1,6})(?!\d)")
"""What the n-th of m shards ends in, as TensorFlow and ``datasets`` write it."""
_CHAIN = re.compile(
    r"[a-z][a-z0-9+-]*::[a-z]|(zip|tar|libarchive|reference)://[^:]*::", re.IGNORECASE
)
"""What fsspec opens one over another: a bare protocol, or a file inside an archive."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 1_000_000
"""Shards that one pattern may mean: a slip of the finger means more, and takes all memory."""
_HUB = re.compile(
    r"https://(?:huggingface\.co|hf\.co)/datasets/(?P<repo>[^/]+/(?P<name>[^/]+))"
    r"(?:/(?:tree|resolve|blob)/(?P<revision>[^/]+)(?P<folder>/.*)?)?",
)


def shards_by_split(files: Iterable[str], place: str) -> dict[str, tuple[str, ...]]:
    """The shards among files, by split, in row order.

    Parameters
    ----------
    files : paths from a folder: ``train/0.tar``, or with the split in the name, such as
        ``imagenet1k-train-0000.tar`` and ``train-00000-of-00001.tar``.
    place : what to call the folder in messages.

    Raises ExtractError where a split is there twice, a name speaks of several, or says that there
    are more shards.
    """
    series: dict[str, dict[str, list[str]]] = {}
    for path in sorted(files, key=names.natural_key):
        folder, _, name = path.rpartition("/")
        if not _SHARD.fullmatch(name):
            continue
        stem = name[: name.rindex(".tar")]
        words = [folder] if folder else re.findall("[A-Za-z]+", stem)
        splits = {names.split_named(word) for word in words} - {None}
        if len(splits) > 1:
            fault = f"'{name}' in '{place}' names several splits"
            raise ExtractError(fault, hint=f"say which: --shards 'train={place}/{name}'")
        for split in splits:
            kind = folder or re.sub(r"\d+", "0", stem)
            series.setdefault(str(split), {}).setdefault(kind, []).append(path)
    for split, kinds in series.items():
        if len(kinds) > 1:
            examples = " and ".join(f"'{paths[0]}'" for paths in kinds.values())
            fault = f"'{place}' holds the split '{split}' twice: {examples}"
            hint = f"keep one of them, or name the shards: --shards '{split}=path/*.tar'"
            raise ExtractError(fault, hint=hint)
    shards = {split: tuple(paths) for split, kinds in series.items() for paths in kinds.values()}
    for split, paths in shards.items():
        for path in paths:
            if (total := _OF.search(path)) and int(total[1]) != len(paths):
                refuse_count(split, place, len(paths), int(total[1]))
    return shards


def expand(text: str) -> list[str]:
    """The shards that a person's list means, as webdataset reads it.

    Braces (``{000..099}``), ``::`` between lists, ``${NAME}`` for the environment's ``WDS_NAME``.
    But a chain of fsspec, such as ``simplecache::s3://bucket/0.tar``, stays one.

    Raises ExtractError where braces do not close or mean more than a million shards, or there is
    no such variable.
    """
    sizes = [abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(text)]
    if (n_shards := math.prod(sizes)) > _MAX_SHARDS:
        fault = f"'{text}' means {n_shards:,} shards or more, expected {_MAX_SHARDS:,} at most"
        raise ExtractError(fault, hint="write braces as in train-{000..099}.tar")
    try:
        if ("::" in text and not _CHAIN.match(text)) or "${" in text:
            from webdataset.shardlists import expand_urls  # which imports torch

            return list(expand_urls(text))
        return list(braceexpand.braceexpand(text))  # all that it does to others
    except (ValueError, AssertionError) as error:
        hint = "write braces as in train-{000..099}.tar; ${NAME} stands for WDS_NAME"
        raise ExtractError(f"cannot expand '{text}': {error}", hint=hint) from error


def refuse_count(split: str, place: str, n_shards: int, expected: int) -> None:
    """Raise ExtractError: a split has not the number of shards that it says it has."""
    fault = f"split '{split}' of '{place}' has {n_shards} shards, expected {expected}"
    raise ExtractError(fault, hint=COPY_HINT)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder on a server, as its pieces are asked for."""

    files: str
    """URL that the names of files follow, without a slash at its end."""
    listing: str
    """URL that fsspec lists."""
    name: str
    """What to call the dataset."""


def remote_folder(url: str) -> RemoteFolder:
    """What a URL typed for a dataset means.

    The page of a dataset on Hugging Face (``.../tree/main``) is no folder: its files lie under
    ``resolve``, where CLIP_benchmark looks for them too, and ``hf://`` lists them.
    """
    base = url.rstrip("/")
    if page := _HUB.fullmatch(base):
        revision, folder = page["revision"] or "main", page["folder"] or ""
        return RemoteFolder(
            f"https://huggingface.co/datasets/{page['repo']}/resolve/{revision}{folder}",
            f"hf://datasets/{page['repo']}@{revision}{folder}",
            page["name"],
        )
    return RemoteFolder(base, base, base.split("://")[-1].rpartition("/")[2])
