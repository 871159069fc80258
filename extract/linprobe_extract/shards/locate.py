"""The plan of a dataset: its splits, their shards in row order (``2.tar`` before ``10.tar``).

Knows no image, no model and no torch, so that an error about arguments comes at once.
"""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import braceexpand

from linprobe import names
from linprobe.errors import ExtractError
from linprobe.records import read_bytes
from linprobe.terminal import command
from linprobe_extract.shards.card import DatasetCard, ShardCard, load_card
from linprobe_extract.shards.network import PATIENT, Retry, read_file
from linprobe_extract.shards.types import DatasetPlan, Shard, SplitPlan

_LAYOUT_HINT = (
    "expected DIR/train/*.tar and DIR/test/*.tar (as `linprobe pack` writes them), "
    "or give each split: --shards 'train=path/{00..09}.tar'"
)
_COMMAND = "pipe:"
"""What a shard begins with that is the output of a shell command."""
_COPY_HINT = "copy or pack the dataset again"
_COUNT_HINT = "write the number, or remove the file where it lies on disk"


def plan_dataset(
    data: str | None,
    *,
    shards: Sequence[str] = (),
    name: str | None = None,
    label_source: str | None = None,
    classes_file: Path | None = None,
    retry: Retry = PATIENT,
) -> DatasetPlan:
    """Locate the shards of a dataset, as ``extract_features`` takes them, and put them in order.

    Raises ExtractError where there is no such folder, no shards in it, or an entry that cannot be
    understood, or a server does not say what it has; CardError where the folder's ``dataset.json``
    is damaged.
    """
    card = None
    if shards:
        splits, default_name = _explicit_splits(shards), "dataset"
    elif data is None:
        raise ExtractError("no data to extract", hint="give --data DIR or --shards SPLIT=PATTERN")
    elif names.is_url(data):
        splits, default_name = _remote_splits(data, retry), Path(data.split("://")[-1]).name
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
        classes = None if shards else _classes_beside(str(data), retry)
    return DatasetPlan(
        name=name or (card.name if card else default_name),
        splits=tuple(SplitPlan(key, splits[key]) for key in sorted(splits)),
        label_source=label_source or (card.label_source if card else "cls"),
        classes=classes,
        metric=card.headline_metric if card else None,
    )


def _classes_beside(base: str, retry: Retry) -> tuple[str, ...] | None:
    """The names in ``classnames.txt``; None where there is no such file."""
    if not names.is_url(base):
        path = Path(base) / "classnames.txt"
        return names.read_class_names(path, error=ExtractError) if path.exists() else None
    url = f"{base.rstrip('/')}/classnames.txt"
    data = read_file(url, retry)
    return None if data is None else names.parse_class_names(data, url, error=ExtractError)


def _local_splits(folder: Path, card: DatasetCard | None) -> dict[str, tuple[Shard, ...]]:
    """List ``<split>/*.tar`` and ``<split>-*.tar``, and compare with what the folder states."""
    paths: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        flat = re.match(r"([A-Za-z]+)[-_.]?\d*\.tar", path.name)
        alias = path.name if path.is_dir() else flat[1] if flat else ""
        if names.split_named(alias):
            for tar in path.iterdir() if path.is_dir() else (path,):
                # Not their indexes, nor what a copy in progress leaves.
                if re.fullmatch(r"[^.].*\.tar(\.(gz|bz2|xz))?", tar.name, re.DOTALL):
                    paths.setdefault(alias, []).append(tar)
    if not paths:
        raise ExtractError(f"no shards found in '{folder}'", hint=_LAYOUT_HINT)
    listed = card.splits if card else {}
    splits: dict[str, tuple[Shard, ...]] = {}
    for alias, tars in sorted(paths.items()):
        split = names.SPLIT_ALIASES[alias.lower()]
        if split in splits:
            fault = f"'{folder}' holds the split '{split}' twice, under '{alias}' and another name"
            hint = f"keep one of them, or name the shards: --shards '{split}=path/*.tar'"
            raise ExtractError(fault, hint=hint)
        cards = {shard.name: shard for shard in listed[split].shards} if split in listed else {}
        tars = sorted(tars, key=lambda tar: names.natural_key(str(tar)))
        splits[split] = tuple(_listed(tar, cards.get(tar.name)) for tar in tars)
        counts = tars[0].parent / "nshards.txt"
        expected = len(tars)
        if split in listed:
            expected = len(cards)
        elif counts.exists() and counts.parent != folder:
            data = read_bytes(counts, error=ExtractError, hint=_COUNT_HINT)
            expected = _shard_count(data, str(counts))
        if expected != len(tars):
            fault = f"split '{split}' of '{folder}' has {len(tars)} shards, expected {expected}"
            raise ExtractError(fault, hint=_COPY_HINT)
    if absent := listed.keys() - splits.keys():
        fault = f"'{folder}' has no shards of the split '{min(absent)}', which its card lists"
        raise ExtractError(fault, hint=_COPY_HINT)
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
        raise ExtractError(fault, hint=_COPY_HINT)
    return Shard(str(path), card.fingerprint, card.samples)


def _shard_count(data: bytes, place: str) -> int:
    text = data.decode("utf-8-sig", errors="replace").strip()
    if not re.fullmatch("[0-9]{1,6}", text):
        fault = f"'{place}' holds {text[:40]!r}, expected the number of shards, below a million"
        raise ExtractError(fault, hint=_COUNT_HINT)
    return int(text)


def _remote_splits(base: str, retry: Retry) -> dict[str, tuple[Shard, ...]]:
    """List ``<split>/<i>.tar`` under a URL, counted by ``<split>/nshards.txt``."""
    splits: dict[str, tuple[Shard, ...]] = {}
    for alias, split in names.SPLIT_ALIASES.items():
        folder = f"{base.rstrip('/')}/{alias}"
        data = None if split in splits else read_file(f"{folder}/nshards.txt", retry)
        if data is not None:
            n_shards = _shard_count(data, f"{folder}/nshards.txt")
            urls = (f"{folder}/{index}.tar" for index in range(n_shards))
            splits[split] = tuple(Shard(url, kind="url") for url in urls)
    if not splits:
        raise ExtractError(
            f"no shards found under '{base}'",
            hint="expected URL/train/nshards.txt beside 0.tar, 1.tar, ...; "
            "or give each split: --shards 'train=URL/{0..9}.tar'",
        )
    return splits


def _explicit_splits(entries: Sequence[str]) -> dict[str, tuple[Shard, ...]]:
    splits: dict[str, tuple[Shard, ...]] = {}
    for entry in entries:
        alias, _, pattern = entry.partition("=")
        split = names.split_named(alias)
        if split is None or not pattern:
            hint = "write SPLIT=PATTERN, such as 'train=shards/train-{000..099}.tar'"
            raise ExtractError(f"cannot understand --shards '{entry}'", hint=hint)
        try:
            patterns = list(braceexpand.braceexpand(pattern))
        except ValueError as error:
            hint = "write braces as in train-{000..099}.tar"
            raise ExtractError(f"cannot expand '{pattern}': {error}", hint=hint) from error
        shards = tuple(shard for each in patterns for shard in _matches(each))
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
        raise ExtractError(f"no shard at '{pattern}'", hint="check the path or the braces")
    paths = glob.glob(pattern, recursive=True)  # noqa: PTH207 - may be absolute
    return [Shard(path) for path in sorted(paths, key=names.natural_key)]
