"""The plan of a dataset: its splits, their shards in row order (``2.tar`` before ``10.tar``).

Knows no image, no model and no torch, so that an error about arguments comes at once.
"""

import glob
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from msgspec import UNSET

from linprobe import names
from linprobe.errors import ExtractError
from linprobe.records import read_bytes
from linprobe.terminal import command, pack_hint
from linprobe_extract.shards.card import DatasetCard, ShardCard, load_card
from linprobe_extract.shards.listing import (
    COPY_HINT,
    RemoteFolder,
    expand,
    refuse_count,
    remote_folder,
    shards_by_split,
)
from linprobe_extract.shards.network import PATIENT, Retry
from linprobe_extract.shards.remote import folder_names, read_file
from linprobe_extract.shards.types import DatasetPlan, Pipeline, Shard, SplitPlan
from linprobe_extract.shards.webdatasets import pipeline_splits

_LAYOUT_HINT = (
    "expected DIR/train/*.tar and DIR/test/*.tar (as `linprobe pack` writes them), "
    "or give each split: --shards 'train=path/{00..09}.tar'"
)
_COMMAND = "pipe:"
"""What a shard begins with that is the output of a shell command."""
_LABELS_BY_TYPE = {"classification": "cls", "multilabel": "npy"}
"""Where labels are, by what CLIP_benchmark calls a dataset in its ``dataset_type.txt``."""
_COUNT_HINT = "write the number, or remove the file where it lies on disk"


def plan_dataset(
    data: str | Mapping[str, Pipeline] | None,
    *,
    shards: Sequence[str] = (),
    name: str | None = None,
    label_source: str | None = None,
    classes_file: Path | None = None,
    key_prefix: Literal["shard"] | None = None,
    retry: Retry = PATIENT,
) -> DatasetPlan:
    """Locate the shards of a dataset, as ``extract_features`` takes them, and put them in order.

    Raises ExtractError where there is no such folder, no shards in it, or an entry that cannot be
    understood, or a server does not say what it has; CardError where the folder's ``dataset.json``
    is damaged.
    """
    card = None
    if data is not None and shards:
        both = "both data and shards are given; expected one of them"
        raise ExtractError(both, hint="leave one of them out")
    if key_prefix not in (None, "shard"):
        what = f"a key prefix {key_prefix!r}; expected 'shard' or none"
        raise ExtractError(what, hint="--key-prefix shard")
    if isinstance(data, Mapping):
        splits, default_name, data = pipeline_splits(data), "dataset", None
    elif shards:
        splits, default_name = _explicit_splits(shards), "dataset"
    elif data is None:
        raise ExtractError("no data to extract", hint="give --data DIR or --shards SPLIT=PATTERN")
    elif names.is_url(data):
        place = remote_folder(data)
        splits, default_name = _remote_splits(place, retry), place.name
        data = place.files
    else:  # a local folder, whatever it is called
        if not Path(data).is_dir():
            hint = f"{command('pack', 'SOURCE', out='DIR')} makes one; {_LAYOUT_HINT}"
            raise ExtractError(f"no folder of shards at '{data}'", hint=hint)
        card = load_card(Path(data))
        splits, default_name = _local_splits(Path(data), card), Path(data).resolve().name
    if classes_file is not None:
        classes: tuple[str, ...] | None = names.read_class_names(classes_file, error=ExtractError)
    elif card is not None:
        classes = card.classes
    else:
        classes = None if data is None or shards else _classes_beside(data, retry)
    return DatasetPlan(
        name=name or (card.name if card else default_name),
        splits=tuple(SplitPlan(key, splits[key]) for key in sorted(splits)),
        label_source=label_source or (card.label_source if card else _labels_beside(data, retry)),
        classes=classes,
        metric=card.headline_metric if card else None,
        key_prefix=key_prefix or UNSET,
        upright=True if card is not None and card.upright else None,
    )


def _labels_beside(base: str | None, retry: Retry) -> str:
    """Where ``dataset_type.txt``, which CLIP_benchmark writes, says that labels are."""
    data = None if base is None else _file_beside(base, "dataset_type.txt", retry)
    kind = "classification" if data is None else data.decode(errors="replace").strip().lower()
    if kind not in _LABELS_BY_TYPE:
        fault = f"'{base}' is a dataset of the type {kind[:40]!r}, which has no classes"
        hint = "say where its labels are: --label-from or --label-key"
        raise ExtractError(fault, hint=hint)
    return _LABELS_BY_TYPE[kind]


def _classes_beside(base: str, retry: Retry) -> tuple[str, ...] | None:
    """The names in ``classnames.txt``; None where there is no such file."""
    data = _file_beside(base, "classnames.txt", retry)
    if data is None:
        return None
    return names.parse_class_names(data, f"{base}/classnames.txt", error=ExtractError)


def _file_beside(base: str, name: str, retry: Retry) -> bytes | None:
    """Content of a small file of a dataset; None where there is none."""
    if names.is_url(base):
        return read_file(f"{base}/{name}", retry)
    path = Path(base) / name
    return read_bytes(path, error=ExtractError) if path.exists() else None


def _local_splits(folder: Path, card: DatasetCard | None) -> dict[str, tuple[Shard, ...]]:
    """Find the shards of a folder, and compare with what it states."""
    files = [path.name for path in folder.iterdir() if not path.is_dir()]
    for path in folder.iterdir():
        if path.is_dir() and names.split_named(path.name):
            files += [f"{path.name}/{file.name}" for file in path.iterdir()]
    found = shards_by_split(files, str(folder))
    if not found:
        hint = pack_hint(folder) or _LAYOUT_HINT
        raise ExtractError(f"no shards found in '{folder}'", hint=hint)
    listed = card.splits if card else {}
    splits: dict[str, tuple[Shard, ...]] = {}
    for split, paths in found.items():
        tars = [folder / path for path in paths]
        cards = {shard.name: shard for shard in listed[split].shards} if split in listed else {}
        splits[split] = tuple(_listed(tar, cards.get(tar.name)) for tar in tars)
        counts = tars[0].parent / "nshards.txt"
        expected = len(tars)
        if split in listed:
            expected = len(cards)
        elif counts.exists() and counts.parent != folder:
            data = read_bytes(counts, error=ExtractError, hint=_COUNT_HINT)
            expected = _shard_count(data, str(counts))
        if expected != len(tars):
            refuse_count(split, str(folder), len(tars), expected)
    if absent := listed.keys() - splits.keys():
        fault = f"'{folder}' has no shards of the split '{min(absent)}', which its card lists"
        raise ExtractError(fault, hint=COPY_HINT)
    return splits


def _listed(path: Path, card: ShardCard | None) -> Shard:
    if not path.is_file():  # or a link to a file that is gone
        fault = f"'{path}' is named like a shard and is no file"
        raise ExtractError(fault, hint="copy the dataset again, or remove it")
    size = path.stat().st_size
    if card is None:
        return Shard(str(path))
    if card.bytes != size:
        fault = f"'{path}' has {size} bytes; the dataset's card says {card.bytes}"
        raise ExtractError(fault, hint=COPY_HINT)
    return Shard(str(path), card.fingerprint, card.samples)


def _shard_count(data: bytes, place: str) -> int:
    text = data.decode("utf-8-sig", errors="replace").strip()
    if not re.fullmatch("[0-9]{1,6}", text) or not int(text):
        fault = f"'{place}' holds {text[:40]!r}, expected the number of shards, 1 to 999999"
        raise ExtractError(fault, hint=_COUNT_HINT)
    return int(text)


def _remote_splits(place: RemoteFolder, retry: Retry) -> dict[str, tuple[Shard, ...]]:
    """Shards under a URL: those that ``<split>/nshards.txt`` counts, and those it lists."""
    counted = []
    for alias in names.SPLIT_ALIASES:
        count = f"{alias}/nshards.txt"
        data = read_file(f"{place.files}/{count}", retry)
        if data is not None:
            n_shards = _shard_count(data, f"{place.files}/{count}")
            counted += [f"{alias}/{index}.tar" for index in range(n_shards)]
    paths = shards_by_split(counted, place.files)
    if not paths.keys() >= set(names.SPLIT_ALIASES.values()):
        listed = shards_by_split(_listing(place, retry, is_needed=not paths), place.files)
        for split, files in listed.items():
            if len(paths.setdefault(split, files)) != len(files):
                refuse_count(split, place.files, len(files), len(paths[split]))
    splits = {
        split: tuple(Shard(f"{place.files}/{path}", kind="url") for path in files)
        for split, files in paths.items()
    }
    if not splits:
        raise ExtractError(
            f"no shards found under '{place.files}'",
            hint="expected URL/train/nshards.txt beside 0.tar, 1.tar, ..., or a folder that can be "
            "listed; or give each split: --shards 'train=URL/{0..9}.tar'",
        )
    return splits


def _listing(place: RemoteFolder, retry: Retry, *, is_needed: bool) -> list[str]:
    """What a server lists; nothing of one that lists nothing, where counts say enough."""
    if is_needed:
        return _names_under(place.listing, retry)
    with suppress(ExtractError):
        return _names_under(place.listing, replace(retry, attempts=1))
    return []


def _names_under(url: str, retry: Retry) -> list[str]:
    """Names of the files in a folder that a server lists, and of those in folders of splits.

    No name is taken for a chain of URLs.
    """
    entries = folder_names(url, retry)
    files = list(entries)
    for folder in filter(names.split_named, entries):
        files += [f"{folder}/{name}" for name in folder_names(f"{url}/{folder}", retry)]
    return [name for name in files if "::" not in name]


def _explicit_splits(entries: Sequence[str]) -> dict[str, tuple[Shard, ...]]:
    splits: dict[str, tuple[Shard, ...]] = {}
    for entry in entries:
        alias, _, pattern = entry.partition("=")
        split = names.split_named(alias)
        if split is None or not pattern:
            hint = "write SPLIT=PATTERN, such as 'train=shards/train-{000..099}.tar'"
            raise ExtractError(f"cannot understand --shards '{entry}'", hint=hint)
        shards = tuple(shard for each in expand(pattern) for shard in _matches(each))
        if not shards:
            hint = "check the pattern; quote it for the shell"
            raise ExtractError(f"no shards match '{pattern}'", hint=hint)
        splits[split] = splits.get(split, ()) + shards
    return splits


def _matches(pattern: str) -> list[Shard]:
    """What a person's pattern without braces means: the one place that looks at its text."""
    if pattern.startswith(_COMMAND):
        return [Shard(pattern, kind="command")]
    if names.is_url(pattern):
        return [Shard(pattern, kind="url")]
    if Path(pattern).is_file():
        return [Shard(pattern)]
    if not any(char in pattern for char in "*?["):
        hint = pack_hint(Path(pattern)) or "check the path or the braces"
        raise ExtractError(f"no shard at '{pattern}'", hint=hint)
    paths = glob.glob(pattern, recursive=True)  # noqa: PTH207 - may be absolute
    return [Shard(path) for path in sorted(paths, key=names.natural_key)]
