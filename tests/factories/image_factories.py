"""Encoded images, from seeded noise and shapes."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def picture(width: int, height: int, *, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture with gradients, hard edges and fine noise, in any mode of Pillow."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    phases = rng.uniform(0, 6.3, (3, 4))
    waves = [
        np.sin(x / (5 + 40 * a) + b) + np.cos(y / (5 + 30 * c) + d) for a, b, c, d in phases / 6.3
    ]
    pixels = 128 + 60 * np.stack(waves, axis=-1) + rng.normal(0, 12, (height, width, 3))
    pixels[(x // 17 + y // 23) % 5 == 0] = rng.integers(0, 256, 3)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if mode in ("RGBA", "LA"):
        alpha = Image.fromarray(((x * 7 + y * 3) % 256).astype(np.uint8))
        image = image.convert(mode)
        image.putalpha(alpha)
        return image
    if mode == "P":
        return image.quantize(32)
    return image.convert(mode)


def encode(image: Image.Image, format_name: str = "JPEG", **options: Any) -> bytes:  # noqa: ANN401 - passed through
    """Encode an image in memory."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def png_header(width: int, height: int, *, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def claim_size(jpeg: bytes, width: int, height: int) -> bytes:
    """Rewrite the size in a baseline JPEG's frame header."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def with_orientation(image: Image.Image, orientation: int) -> bytes:
    """A JPEG whose EXIF asks for a rotation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, quality=92, exif=exif)


def rot_scan(jpeg: bytes) -> bytes:
    """Overwrite some of the entropy-coded data of a JPEG, as a bad disk does."""
    middle = len(jpeg) // 2
    return jpeg[:middle] + b"\xff\xd3" + bytes(30) + jpeg[middle + 32 :]
