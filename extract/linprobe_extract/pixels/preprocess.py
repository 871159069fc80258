"""Image bytes to the encoder's uint8 pixels, by one of two paths.

``exact`` is the model's own transform, bit for bit: Pillow decodes, resizes in the image's own
mode, crops, and converts to RGB, in the order of the library the model comes from.

``fast`` decodes plain 8-bit RGB and gray JPEGs without Pillow and resizes them with torch's
antialiased uint8 kernel on channels-last memory: within ``canary.MAX_DRIFT``
gray levels of ``exact``, at a third of its cost. Everything else takes the exact path.

Neither path rotates by EXIF: the reference transforms do not. Nothing here raises for what is
in the bytes: an image becomes pixels or a :class:`SkipReason`. All functions are thread-safe; the
work is done outside the interpreter lock. A pool of decode threads should call
:func:`limit_thread` in each thread, or every thread starts as many again inside torch.
"""

import io
import warnings
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional

from linprobe_extract.pixels import jpeg
from linprobe_extract.pixels.geometry import Geometry, geometry_of
from linprobe_store.format.spec import PreprocessSpec

MAX_PIXELS = 178_956_970
"""Pillow's own limit for an error (twice the 1/4 GiB of RGB at which it warns): a file of a few
kilobytes can claim billions of pixels."""

FAST_INTERPOLATIONS = ("bicubic", "bilinear")
"""Interpolations of which torch has an antialiased uint8 kernel."""

# We have a limit of our own, and a warning per image between it and Pillow's helps nobody.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class SkipReason(StrEnum):
    """Why an image became no pixels; equal reasons are counted together."""

    NOT_AN_IMAGE = "not_an_image"
    """No decoder knows the bytes: empty, HTML, an unknown format."""
    TRUNCATED = "truncated"
    """The file ends before its image does."""
    CORRUPT = "corrupt"
    """A known format that its decoder cannot read."""
    TOO_MANY_PIXELS = "too_many_pixels"
    """More than :data:`MAX_PIXELS`."""
    EXTREME_ASPECT = "extreme_aspect"
    """A strip that the resize would blow up (``geometry.MAX_ASPECT``)."""
    UNSUPPORTED_16BIT = "unsupported_16bit"
    """Gray of more than 8 bits, which the reference transform turns all white."""


class Note(StrEnum):
    """What is worth counting about an image that did become pixels."""

    ORIENTATION_IGNORED = "orientation_ignored"
    """A JPEG whose EXIF asks for a rotation; used as stored, as the reference does."""
    DAMAGED_JPEG = "damaged_jpeg"
    """Refused by the strict decoder, decoded by Pillow: some pixels are made up, as in the
    reference. Told on the fast path only."""


@dataclass(frozen=True)
class Outcome:
    """What became of one image."""

    skip: SkipReason | None
    """None if the pixels were written."""
    notes: tuple[Note, ...] = ()
    """Remarks to be counted; empty when skipped."""


class _SkipError(Exception):
    """An image that becomes no pixels."""

    def __init__(self, reason: SkipReason) -> None:
        super().__init__(reason)
        self.reason = reason


def limit_thread() -> None:
    """Hold torch to one thread in the calling thread: the initializer of a decode pool."""
    torch.set_num_threads(1)


def preprocess(spec: PreprocessSpec, data: bytes, out: torch.Tensor) -> Outcome:
    """Write the pixels of one encoded image.

    Parameters
    ----------
    spec : the preprocessing of the encoder.
    data : a whole image file.
    out : uint8 (3, s, s) on the host, s = ``spec.image_size``, any strides: a slot of a batch
        buffer, or ``torch.from_numpy`` of one. Its content is undefined if the image is skipped.
    """
    try:
        notes = _orientation(data)
        if spec.path == "fast" and data[:3] == jpeg.MAGIC:
            try:
                if _write_fast(spec, data, out):
                    return Outcome(None, notes)
            except jpeg.DamagedJpegError:
                notes += (Note.DAMAGED_JPEG,)
        _write_exact(spec, data, out)
    except _SkipError as skipped:
        return Outcome(skipped.reason)
    return Outcome(None, notes)


def _orientation(data: bytes) -> tuple[Note, ...]:
    """Note a JPEG that asks to be rotated."""
    rotated = data[:3] == jpeg.MAGIC and jpeg.exif_orientation(data) != 1
    return (Note.ORIENTATION_IGNORED,) if rotated else ()


def _plan(spec: PreprocessSpec, width: int, height: int) -> Geometry:
    """Refuse sizes that cost gigabytes, from the header alone."""
    if width * height > MAX_PIXELS:
        raise _SkipError(SkipReason.TOO_MANY_PIXELS)
    geometry = geometry_of(spec, width, height)
    if geometry is None:
        raise _SkipError(SkipReason.EXTREME_ASPECT)
    return geometry


def _write_fast(spec: PreprocessSpec, data: bytes, out: torch.Tensor) -> bool:
    """Write a plain RGB or gray JPEG; False if it is neither."""
    header = jpeg.read_header(data)
    if header.channels == 4:
        return False
    geometry = _plan(spec, header.width, header.height)
    # (1, c, h, w) over the decoder's (h, w, c) memory: a copy to planes costs more than the resize.
    pixels = torch.from_numpy(jpeg.decode(data, header.channels)).permute(2, 0, 1)[None]
    if geometry.height_first(header.width, header.height):
        pixels = _resize(pixels, geometry.height, header.width, spec.interpolation)
    pixels = _resize(pixels, geometry.height, geometry.width, spec.interpolation)
    _write_window(pixels[0], geometry, spec.fill_color, out)
    return True


def _resize(pixels: torch.Tensor, height: int, width: int, mode: str) -> torch.Tensor:
    """Resize uint8 (1, c, h, w) as Pillow does; rows, then columns."""
    if pixels.shape[2:] == (height, width):
        return pixels
    return functional.interpolate(
        pixels, size=(height, width), mode=mode, antialias=True, align_corners=False
    )


def _write_window(image: torch.Tensor, geometry: Geometry, fill: int, out: torch.Tensor) -> None:
    """Copy the window of the resized image (c, h, w) into ``out``, padding with ``fill``."""
    side = out.shape[-1]
    left, top, right, bottom = geometry.padding(side)
    if left or top or right or bottom:
        out.fill_(fill)
    rows = slice(max(0, geometry.top), max(0, geometry.top) + side - top - bottom)
    columns = slice(max(0, geometry.left), max(0, geometry.left) + side - left - right)
    out[:, top : side - bottom, left : side - right].copy_(image[:, rows, columns])


def _write_exact(spec: PreprocessSpec, data: bytes, out: torch.Tensor) -> None:
    """Write any image that Pillow reads, as the model's own transform would."""
    image = _open(data)
    geometry = _plan(spec, *image.size)
    # I;16, I and F would be clipped to white by convert("RGB").
    if image.mode[0] in "IF":
        raise _SkipError(SkipReason.UNSUPPORTED_16BIT)
    _load(image)
    image.info.pop("transparency", None)  # no effect on RGB, but a warning per image
    if spec.rgb_first:
        image = image.convert("RGB")
    image = image.resize(
        (geometry.width, geometry.height), Image.Resampling[spec.interpolation.upper()]
    )
    pixels = np.array(_window(image, geometry, spec).convert("RGB"))
    out.copy_(torch.from_numpy(pixels).permute(2, 0, 1))


def _window(image: Image.Image, geometry: Geometry, spec: PreprocessSpec) -> Image.Image:
    """Pad and crop in the image's own mode, as torchvision does."""
    side = spec.image_size
    padding = geometry.padding(side)
    if any(padding):
        bands = len(image.getbands())
        fill = spec.fill_color if bands == 1 else (spec.fill_color,) * bands
        image = ImageOps.expand(image, border=padding, fill=fill)
    left, top = max(0, geometry.left), max(0, geometry.top)
    return image.crop((left, top, left + side, top + side))


def _open(data: bytes) -> Image.Image:
    """Read the header."""
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        known = data.startswith((jpeg.MAGIC, b"\x89PNG\r\n\x1a\n"))
        raise _SkipError(SkipReason.CORRUPT if known else SkipReason.NOT_AN_IMAGE) from None
    except Image.DecompressionBombError:
        raise _SkipError(SkipReason.TOO_MANY_PIXELS) from None
    except Exception:  # Pillow's plugins raise whatever a damaged file makes them stumble over
        raise _SkipError(SkipReason.CORRUPT) from None


def _load(image: Image.Image) -> None:
    """Decode the pixels."""
    try:
        image.load()
    except Exception as error:  # as above: struct.error, KeyError, SyntaxError, OSError, ...
        truncated = "truncated" in str(error).lower()
        reason = SkipReason.TRUNCATED if truncated else SkipReason.CORRUPT
        raise _SkipError(reason) from None
