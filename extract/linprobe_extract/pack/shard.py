"""One planned shard becomes one tar and one record of what went into it.

The tar holds the image bytes as they are, each followed by its label; headers carry no time, no
owner and no mode of the source, so the same samples give the same bytes anywhere. An image that
cannot be decoded is kept out and recorded with the reason.

PNG without a compressor, for sources that hold pixels and no files.

Every byte follows from the pixels: the deflate stream is made of stored blocks, so the same
pixels give the same file, and hence the same dataset id, under every version of zlib and Pillow.
The price is size: about 1.3 times that of a compressed PNG on CIFAR-10.
Format: PNG specification (third edition) sections 5 and 7; RFC 1950; RFC 1951 section 3.2.4.
"""

import hashlib
import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

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
    """Write a tar under another name and rename it to ``path`` when it is whole and synced.

    Parameters
    ----------
    elsewhere : sha256 (64 hex digits) of images to leave out because another split holds them.
    on_sample : called after each sample, from this thread.

    Raises
    ------
    OSError : the tar cannot be written. An image that cannot be read does not raise.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        tar = _HashingFile(file)
        kept, dropped, unreadable = _fill(tar, shard, is_multi_label, elsewhere, on_sample)
        tar.close_archive()
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    digest = tar.sha256.hexdigest()
    return ShardRecord(
        shard.split,
        shard.index,
        tar.n_bytes,
        digest,
        tuple(kept),
        tuple(dropped),
        tuple(unreadable),
    )


def _fill(
    tar: _HashingFile,
    shard: PlannedShard,
    is_multi_label: bool,
    elsewhere: Set[str],
    on_sample: Callable[[], None],
) -> tuple[list[PackedImage], list[PackedImage], list[UnreadableImage]]:
    """Write what can be read and is not elsewhere; what was kept, dropped, and unreadable."""
    kept: list[PackedImage] = []
    dropped: list[PackedImage] = []
    unreadable: list[UnreadableImage] = []
    for sample in shard.samples:
        found = read_image(sample)
        if isinstance(found, str):
            unreadable.append(UnreadableImage(shard.split, sample.source.name, found))
        elif (packed := _packed(sample, found)).sha256 in elsewhere:
            dropped.append(packed)
        else:
            extension = sample.source.extension or sniff_extension(found)
            tar.add_member(f"{sample.key}.{extension}", found)
            tar.add_member(*label_member(sample, is_multi_label=is_multi_label))
            kept.append(packed)
        on_sample()
    return kept, dropped, unreadable


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
        found = (image.format or "").lower()
    return {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif", "jpeg2000": "jp2"}.get(found, found)


def _packed(sample: PlannedSample, content: bytes) -> PackedImage:
    """What is recorded of an image that can be read."""
    digest = hashlib.sha256(content).hexdigest()
    return PackedImage(sample.key, sample.source.name, sample.source.labels, digest)


SIGNATURE = b"\x89PNG\r\n\x1a\n"
STORED_LIMIT = 65_535
"""Most bytes in one stored deflate block (RFC 1951: LEN is 16 bits)."""
ZLIB_HEADER = b"\x78\x01"
"""Deflate with a 32 KiB window, fastest level (RFC 1950 section 2.2)."""


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode gray (h, w) or RGB (h, w, 3) uint8 pixels; a function of the pixels alone.

    Raises
    ------
    ValueError : another shape or dtype.
    """
    if pixels.dtype != np.uint8 or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    ):
        raise ValueError(f"expected uint8 (h, w) or (h, w, 3), found {pixels.dtype} {pixels.shape}")
    height, width = pixels.shape[:2]
    color_type = 0 if pixels.ndim == 2 else 2
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    lines = pixels.reshape(height, -1)
    no_filter = np.zeros((height, 1), np.uint8)
    scanlines = np.concatenate([no_filter, lines], axis=1).tobytes()
    return b"".join(
        (
            SIGNATURE,
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", _store(scanlines)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    """One PNG chunk with its length and checksum."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _store(content: bytes) -> bytes:
    """A zlib stream of stored blocks."""
    parts = [ZLIB_HEADER]
    starts = range(0, max(len(content), 1), STORED_LIMIT)
    for start in starts:
        block = content[start : start + STORED_LIMIT]
        is_last = start + STORED_LIMIT >= len(content)
        parts.append(struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF) + block)
    return b"".join([*parts, struct.pack(">I", zlib.adler32(content))])
