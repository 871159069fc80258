"""Where the shards of each split lie: in a folder, under a URL, or as patterns say.

The order is the natural one (``2.tar`` before ``10.tar``) and is the row order of the features.
"""

import glob
import re
from dataclasses import dataclass
from pathlib import Path

import braceexpand
import fsspec

from linprobe.errors import ExtractError
from linprobe_extract.shards.card import DatasetCard, ShardCard
from linprobe_store.format.spec import ShardFingerprint

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folder or file prefix of a split, and the split that it means."""

LAYOUT_HINT = (
    "expected DIR/train/*.tar and DIR/test/*.tar (as `linprobe pack` writes them), "
    "or give each split: --shards 'train=path/{00..09}.tar'"
)


@dataclass(frozen=True)
class Shard:
    """A source tar: the unit of work, of resume, of commit and of error."""

    url: str
    """Local path, URL, or ``pipe:`` command."""
    fingerprint: ShardFingerprint | None
    """From the dataset's card; None means that the bytes have to be read to know it."""
    n_samples: int | None
    """From the dataset's card; None when not known before reading."""

    @property
    def is_stream(self) -> bool:
        """Whether it is a URL or a command, and no local file."""
        return "://" in self.url or self.url.startswith("pipe:")

    @property
    def name(self) -> str:
        """Basename of the tar, without query strings."""
        return re.split(r"[/\s]", self.url.split("?")[0].rstrip("/"))[-1]


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key under which ``2.tar`` precedes ``10.tar``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def local_splits(folder: Path, card: DatasetCard | None) -> dict[str, tuple[Shard, ...]]:
    """Find ``<split>/*.tar`` or ``<split>-*.tar`` in a folder.

    Raises
    ------
    ExtractError : there are none, a split comes twice, or shards are missing or of another size.
    """
    found: dict[str, tuple[Shard, ...]] = {}
    for alias, split in SPLITS.items():
        nested = (path for path in (folder / alias).glob("*.tar*") if _is_tar(path.name))
        flat = (path for path in folder.glob(f"{alias}*.tar*") if _has_prefix(path.name, alias))
        paths = sorted((str(path) for path in (*nested, *flat) if path.is_file()), key=_natural)
        if paths and split in found:
            raise ExtractError(
                f"'{folder}' holds the split '{split}' twice, under '{alias}' and another name",
                hint="keep one of them, or name the shards: --shards 'val=path/*.tar'",
            )
        if paths:
            found[split] = tuple(_shard(path, split, card) for path in paths)
    if not found:
        raise ExtractError(f"no shards found in '{folder}'", hint=LAYOUT_HINT)
    _check_complete(folder, found, card)
    return found


def _has_prefix(name: str, alias: str) -> bool:
    return _is_tar(name) and re.match(rf"{alias}[-_.]?\d*\.tar", name) is not None


def _is_tar(name: str) -> bool:
    """Tell shards from their indexes and from what a copy in progress leaves."""
    return re.fullmatch(r"[^.].*\.tar(\.(gz|bz2|xz))?", name) is not None


def _count(text: str, place: str) -> int:
    if not text.strip().isdigit():
        raise ExtractError(
            f"'{place}' holds {text.strip()[:40]!r}, expected the number of shards",
            hint="write the number, or remove the file where it lies on disk",
        )
    return int(text)


def _shard(path: str, split: str, card: DatasetCard | None) -> Shard:
    listed = _listed(split, Path(path).name, card)
    if listed is None:
        return Shard(path, None, None)
    size = Path(path).stat().st_size
    if size != listed.bytes:
        raise ExtractError(
            f"'{path}' has {size} bytes; the dataset's card says {listed.bytes}",
            hint="copy or pack the dataset again",
        )
    fingerprint = ShardFingerprint(listed.name, listed.bytes, listed.sha256)
    return Shard(path, fingerprint, listed.samples)


def _listed(split: str, name: str, card: DatasetCard | None) -> ShardCard | None:
    if card is None or split not in card.splits:
        return None
    return next((shard for shard in card.splits[split].shards if shard.name == name), None)


def _check_complete(
    folder: Path, found: dict[str, tuple[Shard, ...]], card: DatasetCard | None
) -> None:
    """Compare with the splits and shard counts that the folder itself states."""
    absent = set(card.splits if card else ()) - found.keys()
    if absent:
        raise ExtractError(
            f"'{folder}' has no shards of the split '{min(absent)}', which its card lists",
            hint="copy or pack the dataset again",
        )
    for split, shards in found.items():
        counts = Path(shards[0].url).parent / "nshards.txt"
        if card is not None and split in card.splits:
            expected = len(card.splits[split].shards)
        elif counts.is_file() and counts.parent != folder:
            expected = _count(counts.read_text(), str(counts))
        else:
            continue
        if expected != len(shards):
            raise ExtractError(
                f"split '{split}' of '{folder}' has {len(shards)} shards, expected {expected}",
                hint="copy or pack the dataset again",
            )


def remote_splits(base: str) -> dict[str, tuple[Shard, ...]]:
    """Find ``<split>/<i>.tar`` under a URL by ``<split>/nshards.txt``.

    Raises
    ------
    ExtractError : there is none.
    """
    found: dict[str, tuple[Shard, ...]] = {}
    for alias, split in SPLITS.items():
        folder = f"{base.rstrip('/')}/{alias}"
        text = remote_text(f"{folder}/nshards.txt")
        if text is not None and split not in found:
            n_shards = _count(text, f"{folder}/nshards.txt")
            urls = (f"{folder}/{index}.tar" for index in range(n_shards))
            found[split] = tuple(Shard(url, None, None) for url in urls)
    if not found:
        raise ExtractError(
            f"no shards found under '{base}'",
            hint="expected URL/train/nshards.txt beside 0.tar, 1.tar, ...; "
            "or give each split: --shards 'train=URL/{0..9}.tar'",
        )
    return found


def remote_text(url: str) -> str | None:
    """Read a small text file; None when there is none."""
    try:
        with fsspec.open(url, "rt", encoding="utf-8-sig") as stream:
            return str(stream.read())
    except FileNotFoundError:
        return None
    except Exception as error:  # each of fsspec's drivers has errors of its own
        raise ExtractError(
            f"cannot read '{url}': {str(error) or type(error).__name__}",
            hint="check the URL and the network; s3://, gs:// and others need their fsspec driver",
        ) from error


def explicit_splits(entries: tuple[str, ...]) -> dict[str, tuple[Shard, ...]]:
    """Expand ``SPLIT=PATTERN`` entries with braces and globs.

    Raises
    ------
    ExtractError : an entry cannot be understood or matches nothing.
    """
    found: dict[str, tuple[Shard, ...]] = {}
    for entry in entries:
        split, _, pattern = entry.partition("=")
        if SPLITS.get(split) is None or not pattern:
            raise ExtractError(
                f"cannot understand --shards '{entry}'",
                hint="write SPLIT=PATTERN, such as 'train=shards/train-{000..099}.tar'",
            )
        urls = tuple(url for spec in _braces(pattern) for url in _glob(spec))
        if not urls:
            raise ExtractError(
                f"no shards match '{pattern}'", hint="check the pattern; quote it for the shell"
            )
        known = found.get(SPLITS[split], ())
        found[SPLITS[split]] = known + tuple(Shard(url, None, None) for url in urls)
    return found


def _braces(pattern: str) -> list[str]:
    try:
        return list(braceexpand.braceexpand(pattern))
    except ValueError as error:
        raise ExtractError(
            f"cannot expand '{pattern}': {error}", hint="write braces as in train-{000..099}.tar"
        ) from error


def _glob(spec: str) -> list[str]:
    if "://" in spec or spec.startswith("pipe:"):
        return [spec]
    if any(char in spec for char in "*?["):
        return sorted(glob.glob(spec, recursive=True), key=_natural)  # noqa: PTH207 - may be absolute
    if not Path(spec).is_file():
        raise ExtractError(f"no shard at '{spec}'", hint="check the path or the braces")
    return [spec]
