"""One planned shard becomes one tar and one record of what went into it.

The tar holds image bytes as they are, or turned upright, each followed by its label; headers carry
no time, owner or mode of the source: the same samples give the same bytes anywhere.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from linprobe.disk import atomic_file
from linprobe.names import image_formats
from linprobe.terminal import install
from linprobe_extract.pack.plan import TAR_BLOCK, PlannedShard, sample_key
from linprobe_extract.pixels.upright import is_heif, turned
from linprobe_extract.shards.card import UnreadableImage

RECORD_BYTES = 20 * TAR_BLOCK
"""A tar is padded to whole records of 20 blocks (POSIX pax, default blocking factor)."""
LABELS_FIELD = "labels"
"""Field of the ``.json`` member that holds the class ids of a multi-label sample."""
_EXTENSIONS = {"jpeg": "jpg", "mpo": "jpg", "tiff": "tif", "jpeg2000": "jp2", "heif": "heic"}
"""Of the formats that Pillow calls otherwise."""


@dataclass(frozen=True)
class PackedImage:
    """An image that could be decoded: its key, name in the source, and sha256 in hex."""

    key: str
    name: str
    labels: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class ShardRecord:
    """What became of every sample planned for a shard: kept + dropped + unreadable = planned."""

    split: str
    index: int
    """Its place in the plan."""
    bytes: int
    sha256: str
    """Of the tar of so many bytes, as 64 hex digits."""
    kept: tuple[PackedImage, ...]
    """In the tar, in order."""
    dropped: tuple[PackedImage, ...]
    """Left out because another split holds the same image."""
    unreadable: tuple[UnreadableImage, ...]
    """Left out because no decoder could read them."""
    rotated: tuple[str, ...] = ()
    """Names of those in the tar that ask to be turned by their EXIF."""


def write_shard(
    path: Path,
    shard: PlannedShard,
    *,
    is_multi_label: bool,
    is_upright: bool,
    elsewhere: Set[str],
    on_sample: Callable[[], None],
) -> ShardRecord:
    """Write the tar of a shard; it shows as ``path`` when it is whole and synced, else StoreError.

    Images with a sha256 in ``elsewhere``, which another split holds, are left out; with
    ``is_upright``, they are turned as their EXIF says. ``on_sample`` is called after each sample,
    from this thread.
    """
    kept: list[PackedImage] = []
    dropped: list[PackedImage] = []
    unreadable: list[UnreadableImage] = []
    rotated: list[str] = []
    digest = hashlib.sha256()
    with atomic_file(path) as file:
        for row, sample in enumerate(shard.samples, shard.first_row):
            key = sample_key(shard.split, row, sample.name)
            try:
                image = sample.read()
                defect = image_defect(image)
                upright = turned(image) if defect is None else None
            except OSError as error:
                image, upright = b"", None
                defect = f"cannot be read: {error.strerror or error}"
            extension = sample.extension
            if upright is not None and is_upright:
                image, extension = upright, ""
            sha256 = hashlib.sha256(image).hexdigest()
            packed = PackedImage(key, sample.name, sample.labels, sha256)
            if defect is not None:
                unreadable.append(UnreadableImage(shard.split, sample.name, defect))
            elif sha256 in elsewhere:
                dropped.append(packed)
            else:
                members = _member(f"{key}.{extension or sniff_extension(image)}", image)
                rotated += [sample.name] if upright is not None else []
                if is_multi_label:
                    label = json.dumps({LABELS_FIELD: list(sample.labels)})
                    members += _member(f"{key}.json", label.encode())
                else:
                    members += _member(f"{key}.cls", str(sample.labels[0]).encode())
                file.write(members)
                digest.update(members)
                kept.append(packed)
            on_sample()
        end = bytes(2 * TAR_BLOCK)
        end += bytes(-(file.tell() + len(end)) % RECORD_BYTES)
        file.write(end)
        digest.update(end)
        n_bytes = file.tell()
    outcome = tuple(kept), tuple(dropped), tuple(unreadable), tuple(rotated)
    return ShardRecord(shard.split, shard.index, n_bytes, digest.hexdigest(), *outcome)


def _member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    header = info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    return header + content + bytes(-len(content) % TAR_BLOCK)


def image_defect(content: bytes) -> str | None:
    """Why Pillow cannot decode these bytes, in words; None where it can.

    JPEGs are decoded at an eighth of their size: all of the entropy-coded data is still read, so a
    truncated file is found, at a fraction of the cost.
    """
    if not content:
        return "empty file"
    try:
        with _open(content) as image:
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except UnidentifiedImageError:
        if is_heif(content):
            return f"HEIC, which needs an extra: {install('heif')}"
        return "not an image of a known format"
    except Image.DecompressionBombError:
        return "more pixels than Pillow accepts"
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error...
        return f"cannot be decoded: {error}"
    return None


def sniff_extension(content: bytes) -> str:
    """The file extension of an image that Pillow can open, by its content."""
    with _open(content) as image:
        name = (image.format or "").lower()
    return _EXTENSIONS.get(name, name)


def _open(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=image_formats())
