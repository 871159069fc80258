"""Images that a dataset holds more than once, found by the sha256 of their bytes."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from linprobe_extract.dataset_card import DuplicateImage
from linprobe_extract.pack_tar import PackedImage, ShardRecord


def find_duplicates(records: Sequence[ShardRecord]) -> tuple[DuplicateImage, ...]:
    """Every image with more than one copy, in the order in which its first copy was packed.

    Copies that ``--drop-leaks`` left out count as copies. Re-encoded or resized copies have other
    bytes and are not found.
    """
    times = Counter(image.sha256 for _, image, _ in _all_images(records))
    copies: dict[str, list[tuple[str, PackedImage, bool]]] = defaultdict(list)
    for copy in _all_images(records):
        if times[copy[1].sha256] > 1:
            copies[copy[1].sha256].append(copy)
    return tuple(_duplicate(sha256, found) for sha256, found in copies.items())


def _all_images(records: Iterable[ShardRecord]) -> Iterable[tuple[str, PackedImage, bool]]:
    """Split, image, and whether it was dropped."""
    for record in records:
        for image in record.kept:
            yield record.split, image, False
        for image in record.dropped:
            yield record.split, image, True


def _duplicate(sha256: str, copies: Sequence[tuple[str, PackedImage, bool]]) -> DuplicateImage:
    """One image and all its copies."""
    return DuplicateImage(
        sha256=sha256,
        splits=tuple(split for split, _, _ in copies),
        names=tuple(image.name for _, image, _ in copies),
        labels=tuple(image.labels for _, image, _ in copies),
        dropped=tuple(image.name for _, image, is_dropped in copies if is_dropped),
    )
