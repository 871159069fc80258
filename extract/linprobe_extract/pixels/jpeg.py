"""JPEG without Pillow: the only file that imports simplejpeg.

It wraps Pillow's libjpeg-turbo with the same defaults, so the pixels are the same, and refuses
files whose pixels Pillow would make up; whatever is refused here goes to Pillow.
"""

from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray

MAGIC = b"\xff\xd8\xff"
"""First bytes of every JPEG: start of image, then a marker."""

_APP1 = 0xE1
_FIRST_SCAN = 0xDA
_ORIENTATION_TAG = 0x0112


class DamagedJpegError(ValueError):
    """A JPEG that the strict decoder refuses, and a tolerant one may still read."""


def read_header(data: bytes) -> tuple[int, int, int]:
    """Width and height in pixels, and channels: 3 (colour), 1 (gray) or 4 (CMYK, YCCK: print).

    A DamagedJpegError is raised if there is no whole header.
    """
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise DamagedJpegError(str(error)) from error
    return int(width), int(height), {"Gray": 1, "CMYK": 4, "YCCK": 4}.get(colorspace, 3)


def decode(data: bytes, channels: int) -> NDArray[np.uint8]:
    """Decode to uint8 pixels (height, width, ``channels``), 3 for RGB or 1 for gray.

    A DamagedJpegError is raised if anything in the file is not as the standard says.
    """
    colorspace = "RGB" if channels == 3 else "GRAY"
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace=colorspace))
    except ValueError as error:
        raise DamagedJpegError(str(error)) from error


def exif_orientation(data: bytes) -> int:
    """Read the EXIF orientation, 1 (upright) to 8; 1 if there is none or it cannot be read."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _FIRST_SCAN or length < 2:
            break
        if marker == _APP1 and data[position + 4 : position + 10] == b"Exif\0\0":
            return _tiff_orientation(data[position + 10 : position + 2 + length])
        position += 2 + length
    return 1


def _tiff_orientation(tiff: bytes) -> int:
    """Find the orientation in the first directory of a TIFF block (TIFF 6.0, section 2)."""
    order: Literal["little", "big"] = "little" if tiff[:2] == b"II" else "big"

    def number(start: int, size: int) -> int:
        return int.from_bytes(tiff[start : start + size], order)

    directory = number(4, 4)
    for entry in range(min(number(directory, 2), len(tiff) // 12)):
        start = directory + 2 + 12 * entry
        if number(start, 2) == _ORIENTATION_TAG:
            value = number(start + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1
