"""Which sample goes into which shard under which key: decided before anything is read.

A shard is closed by count or by an upper bound on its bytes: what later turns out unreadable or
dropped makes it smaller and moves nothing.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from linprobe.errors import PackError
from linprobe.records import digest_json
from linprobe_extract.pack.listing import Listing, PackOptions, SourceSample

PACK_VERSION = 1
"""Raised by one when the same source and options would give other shards."""
TAR_BLOCK = 512
ORDER: tuple[str, ...] = ("test", "val", "train")
"""Splits in the order of packing: what leaks into a later one is then known."""
KEY_NAME_LENGTH = 48
"""With split and row, keys stay under 72 bytes: far from the 100 that a plain tar header holds."""


@dataclass(frozen=True)
class PlannedShard:
    """One tar to write."""

    split: str
    index: int
    """Its place among the shards planned for the split, from 0."""
    first_row: int
    """Row of its first sample in the split."""
    samples: tuple[SourceSample, ...]


@dataclass(frozen=True)
class PackPlan:
    """All that will be done, decided."""

    listing: Listing
    request: str
    """See :class:`~linprobe_extract.shards.card.DatasetCard`."""
    digest: str
    """Sha256 over the request and the listing, as 64 hex digits."""
    shards: tuple[PlannedShard, ...]
    """Test first, then val, then train."""


def request_digest(source: str, options: PackOptions) -> str:
    """Sha256 over ``NamedSource.request`` and the options that change what is packed."""
    shaping = asdict(options)
    for name in ("root", "download", "check_counts", "jobs", "overwrite", "csv_guard"):
        del shaping[name]
    for name in ("upright", "limit"):
        if not shaping[name]:
            del shaping[name]
    return digest_json({"version": PACK_VERSION, "source": source, "options": shaping})


def plan_pack(listing: Listing, request: str, options: PackOptions) -> PackPlan:
    """Cut the listing into shards, all decided; PackError where a shard limit is below 1."""
    max_samples, max_bytes = options.shard_samples or listing.shard_samples, options.shard_bytes
    if max_samples < 1 or max_bytes < 1:
        raise PackError(
            f"expected shard limits from 1, found {max_samples} samples and {max_bytes} bytes",
            hint="for example --shard-samples 1000 --shard-bytes 268435456",
        )
    shards: list[PlannedShard] = []
    for split in ORDER:
        first_row = 0
        parts = cut_shards(listing.splits.get(split, ()), max_samples, max_bytes)
        for index, part in enumerate(parts):
            shards.append(PlannedShard(split, index, first_row, part))
            first_row += len(part)
    head = (listing.name, listing.classes, listing.is_multi_label, listing.headline_metric)
    content = hashlib.sha256(repr(head).encode())
    for split in sorted(listing.splits):
        for sample in listing.splits[split]:
            row = (split, sample.name, sample.labels, sample.n_bytes, sample.stamp)
            content.update(repr(row).encode())
    digest = digest_json({"request": request, "listing": content.hexdigest()})
    return PackPlan(listing, request, digest, tuple(shards))


def cut_shards(
    samples: Sequence[SourceSample], max_samples: int, max_bytes: int
) -> list[tuple[SourceSample, ...]]:
    """Cut into consecutive shards of at most so many samples and so many bytes of tar."""
    shards: list[list[SourceSample]] = []
    n_bytes = 0
    for sample in samples:
        size = tar_bytes(sample.n_bytes)
        if not shards or len(shards[-1]) == max_samples or n_bytes + size > max_bytes:
            shards.append([])
            n_bytes = 0
        shards[-1].append(sample)
        n_bytes += size
    return [tuple(shard) for shard in shards]


def tar_bytes(image_bytes: int) -> int:
    """Bytes that an image and its label take in a tar: two headers, padded contents."""
    padded = -(-image_bytes // TAR_BLOCK) * TAR_BLOCK
    return padded + 3 * TAR_BLOCK


def sample_key(split: str, row: int, name: str) -> str:
    """A unique key that still says which image it was: split, row, and the end of the name.

    ASCII, without dots: ``train-0000017-iris_image_0243``.
    """
    path = PurePosixPath(name)
    spoken = "_".join([*(part for part in path.parts[-2:-1] if part != split), path.stem])
    plain = unicodedata.normalize("NFKD", spoken).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", plain).strip("_")[-KEY_NAME_LENGTH:]
    return f"{split}-{row:07d}-{safe}" if safe else f"{split}-{row:07d}"
