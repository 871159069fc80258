"""One planned shard becomes one tar and one record of what went into it.

The tar holds the image bytes as they are, each followed by its label; headers carry no time, no
owner and no mode of the source, so the same samples give the same bytes anywhere. An image that
cannot be decoded is kept out and recorded with the reason.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from linprobe.disk import atomic_file
from linprobe_extract.pack.plan import TAR_BLOCK, PlannedSample, PlannedShard
from linprobe_extract.shards.card import UnreadableImage

RECORD_BYTES = 20 * TAR_BLOCK
"""A tar is padded to whole records of 20 blocks (POSIX pax, default blocking factor)."""
LABELS_FIELD = "labels"
"""Field of the ``.json`` member that holds the class ids of a multi-label sample."""


@dataclass(frozen=True)
class PackedImage:
    """An image that was read whole and could be decoded."""

    key: str
    """Sample key in the shard."""
    name: str
    """Name in the source."""
    labels: tuple[int, ...]
    """Class ids."""
    sha256: str
    """Sha256 of the image bytes, as 64 hex digits."""


@dataclass(frozen=True)
class ShardRecord:
    """What became of every sample planned for a shard: kept + dropped + unreadable = planned."""

    split: str
    """The split it belongs to."""
    index: int
    """Its place in the plan."""
    bytes: int
    """Size of the tar in bytes."""
    sha256: str
    """Sha256 of the tar, as 64 hex digits."""
    kept: tuple[PackedImage, ...]
    """In the tar, in order."""
    dropped: tuple[PackedImage, ...]
    """Left out because another split holds the same image."""
    unreadable: tuple[UnreadableImage, ...]
    """Left out because no decoder could read them."""


class _HashingFile:
    """A file being written, with the size and sha256 of what went in."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.n_bytes = 0

    def write(self, content: bytes) -> None:
        """Append ``content``."""
        self._file.write(content)
        self.sha256.update(content)
        self.n_bytes += len(content)

    def add_member(self, name: str, content: bytes) -> None:
        """Append a tar member: header, content, padding."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mode = 0o644
        self.write(info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        self.write(content)
        self.write(bytes(-len(content) % TAR_BLOCK))

    def close_archive(self) -> None:
        """Append the two zero blocks that end a tar, and fill the last record."""
        self.write(bytes(2 * TAR_BLOCK))
        self.write(bytes(-self.n_bytes % RECORD_BYTES))


def write_shard(
    path: Path,
    shard: PlannedShard,
    *,
    is_multi_label: bool,
    elsewhere: Set[str],
    on_sample: Callable[[], None],
) -> ShardRecord:
    """Write the tar of a shard; it shows as ``path`` when it is whole and synced.

    Parameters
    ----------
    elsewhere : sha256 (64 hex digits) of images to leave out because another split holds them.
    on_sample : called after each sample, from this thread.

    Raises
    ------
    StoreError : the tar cannot be written. An image that cannot be read does not raise.
    """
    kept: list[PackedImage] = []
    dropped: list[PackedImage] = []
    unreadable: list[UnreadableImage] = []
    with atomic_file(path) as file:
        tar = _HashingFile(file)
        for sample in shard.samples:
            image = read_image(sample)
            if isinstance(image, str):
                unreadable.append(UnreadableImage(shard.split, sample.source.name, image))
            elif (packed := _packed(sample, image)).sha256 in elsewhere:
                dropped.append(packed)
            else:
                extension = sample.source.extension or sniff_extension(image)
                tar.add_member(f"{sample.key}.{extension}", image)
                tar.add_member(*label_member(sample, is_multi_label=is_multi_label))
                kept.append(packed)
            on_sample()
        tar.close_archive()
    return ShardRecord(
        split=shard.split,
        index=shard.index,
        bytes=tar.n_bytes,
        sha256=tar.sha256.hexdigest(),
        kept=tuple(kept),
        dropped=tuple(dropped),
        unreadable=tuple(unreadable),
    )


def label_member(sample: PlannedSample, *, is_multi_label: bool) -> tuple[str, bytes]:
    """Name and content of the member that holds the label: ``.cls``, or ``.json`` for several."""
    labels = sample.source.labels
    if is_multi_label:
        return f"{sample.key}.json", json.dumps({LABELS_FIELD: list(labels)}).encode()
    return f"{sample.key}.cls", str(labels[0]).encode()


def read_image(sample: PlannedSample) -> bytes | str:
    """The bytes of an image, or in words why it cannot be used."""
    try:
        content = sample.source.read()
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return image_defect(content) or content


def image_defect(content: bytes) -> str | None:
    """Why Pillow cannot decode these bytes, in words; None where it can.

    JPEGs are decoded at an eighth of their size: all of the entropy-coded data is still read, so a
    truncated file is found, at a fraction of the cost.
    """
    if not content:
        return "empty file"
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except UnidentifiedImageError:
        return "not an image that Pillow knows"
    except Image.DecompressionBombError:
        return "more pixels than Pillow accepts"
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error...
        return f"cannot be decoded: {error}"
    return None


def sniff_extension(content: bytes) -> str:
    """The file extension of an image that Pillow can open, by its content."""
    with Image.open(io.BytesIO(content)) as image:
        name = (image.format or "").lower()
    return {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif", "jpeg2000": "jp2"}.get(name, name)


def _packed(sample: PlannedSample, content: bytes) -> PackedImage:
    """What is recorded of an image that can be read."""
    digest = hashlib.sha256(content).hexdigest()
    return PackedImage(sample.key, sample.source.name, sample.source.labels, digest)
