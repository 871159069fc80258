"""Image bytes to the encoder's uint8 pixels, by one of three paths; all functions are thread-safe.

``exact`` is the model's own transform, bit for bit, by Pillow. ``fast`` takes plain JPEGs, and so
does ``nvjpeg``, on the GPU: each within its ``canary.MAX_DRIFT`` gray levels of ``exact``, to which
they leave the rest. None rotates by EXIF.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional

from linprobe.names import image_formats
from linprobe_extract.pixels import jpeg, nvjpeg
from linprobe_extract.pixels.geometry import Geometry, geometry_of
from linprobe_extract.pixels.own import OwnPixels, as_tensor
from linprobe_extract.pixels.upright import is_heif
from linprobe_store.format.spec import PreprocessSpec

MAX_PIXELS = 178_956_970
"""Pillow's own limit for an error: a file of a few kilobytes can claim billions of pixels."""

FAST_INTERPOLATIONS = ("bicubic", "bilinear")
"""Interpolations of which torch has an antialiased uint8 kernel."""

Pixels = TypeVar("Pixels", torch.Tensor, NDArray[np.uint8])

# We have a limit of our own, and a warning per image between it and Pillow's helps nobody.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_FORMATS = image_formats()


class SkipReason(StrEnum):
    """Why an image became no pixels; equal reasons are counted together."""

    NOT_AN_IMAGE = "not_an_image"
    """No decoder knows the bytes: empty, HTML, an unknown format."""
    NEEDS_HEIF = "needs_linprobe[heif]"
    """HEIC or HEIF, and its decoder, an extra, is not installed."""
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
    TRANSFORM_FAILED = "transform_failed"
    """A transform of one's own raised, or gave another shape than for other images."""


class Note(StrEnum):
    """What is worth counting about an image that did become pixels."""

    ORIENTATION_IGNORED = "orientation_ignored"
    """A JPEG whose EXIF asks for a rotation; used as stored, as the reference does."""
    DAMAGED_JPEG = "damaged_jpeg"
    """Refused by the decoder of ``fast`` or ``nvjpeg``: Pillow, as in the reference, makes up what
    is missing."""


@dataclass(frozen=True)
class Outcome:
    """What became of one image."""

    skip: SkipReason | None
    """None if the pixels were written."""
    notes: tuple[Note, ...] = ()
    """Remarks to be counted; empty when skipped."""


class _SkipError(Exception):
    def __init__(self, reason: SkipReason) -> None:
        self.reason = reason


def limit_thread() -> None:
    """Hold torch to one thread in this one: in a decode pool each would start as many again."""
    torch.set_num_threads(1)


def preprocess(spec: PreprocessSpec, data: bytes | Image.Image, out: torch.Tensor) -> Outcome:
    """Write the pixels of one image file; whatever its bytes are, nothing is raised.

    ``out`` is uint8 (3, s, s), or of the dtype of :class:`OwnPixels`, s = ``spec.image_size``, with
    any strides; on the host, for ``nvjpeg`` on the GPU. Its content is undefined if the image is
    skipped. ``data`` may be an image that is decoded already: ``exact`` takes it.
    """
    file = data if isinstance(data, bytes) else b""
    if spec.path == "nvjpeg" and file:
        return preprocess_all(spec, (file,), (out,))[0]
    is_jpeg = file[:3] == jpeg.MAGIC
    rotated = is_jpeg and jpeg.exif_orientation(file) != 1
    notes: tuple[Note, ...] = (Note.ORIENTATION_IGNORED,) if rotated else ()
    try:
        try:
            done = is_jpeg and spec.path == "fast" and _write_fast(spec, file, out)
        except jpeg.DamagedJpegError:
            done, notes = False, (*notes, Note.DAMAGED_JPEG)
        if isinstance(spec, OwnPixels):
            _write_own(spec, data, out)
        elif not done:
            _write_exact(spec, data, out)
    except _SkipError as skipped:
        return Outcome(skipped.reason)
    return Outcome(None, notes)


def preprocess_all(
    spec: PreprocessSpec, images: Sequence[bytes], out: Sequence[torch.Tensor]
) -> list[Outcome]:
    """Write the pixels of image files as :func:`preprocess` does, those for nvJPEG by one call.

    Only for ``nvjpeg`` something is raised, torch's own errors, where the GPU has no room.
    """
    if spec.path != "nvjpeg" or not images:
        return [preprocess(spec, data, slot) for data, slot in zip(images, out, strict=True)]
    exact, device = replace(spec, path="exact"), out[0].device
    plans = [_plan_for_gpu(spec, data) for data in images]
    plain = [i for i, plan in enumerate(plans) if plan is not None]
    outcomes = []
    with nvjpeg.own_stream(device):
        pixels = nvjpeg.decode([images[i] for i in plain], device) if plain else []
        decoded = dict(zip(plain, pixels, strict=True))
        for i, (data, slot, plan) in enumerate(zip(images, out, plans, strict=True)):
            on_gpu = decoded.get(i)
            if plan is not None and on_gpu is not None:
                _write_from_gpu(spec, plan, on_gpu, slot)
                rotated = jpeg.exif_orientation(data) != 1
                outcomes.append(Outcome(None, (Note.ORIENTATION_IGNORED,) if rotated else ()))
                continue
            outcome = preprocess(exact, data, slot)
            if i in decoded and outcome.skip is None:
                outcome = Outcome(None, (*outcome.notes, Note.DAMAGED_JPEG))
            outcomes.append(outcome)
    return outcomes


def _plan_for_gpu(spec: PreprocessSpec, data: bytes) -> Geometry | None:
    """Plan a plain RGB or gray JPEG; None for what ``exact`` takes, or skips."""
    try:
        width, height, channels = jpeg.read_header(data)
    except jpeg.DamagedJpegError:
        return None
    if channels == 4 or width * height > nvjpeg.MAX_PIXELS or not nvjpeg.is_whole(data):
        return None
    return geometry_of(spec, width, height)


def _write_from_gpu(
    spec: PreprocessSpec, geometry: Geometry, pixels: torch.Tensor, out: torch.Tensor
) -> None:
    """Resize decoded pixels (3, h, w), one axis after the other, rounded as Pillow rounds."""
    _, height, width = pixels.shape
    by_height, by_width = (geometry.height, width), (height, geometry.width)
    first = by_height if geometry.height_first(width, height) else by_width
    # CUDA has an antialiased resize of floats alone.
    image = pixels[None].float()
    for size in (first, (geometry.height, geometry.width)):
        image = _resize(image, *size, spec.interpolation).round_().clamp_(0, 255)
    _crop(spec, geometry, image, out)


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
    width, height, channels = jpeg.read_header(data)
    if channels == 4:
        return False
    geometry = _plan(spec, width, height)
    # (1, c, h, w) over the decoder's (h, w, c) memory, with the strides of a whole batch of them
    # (numpy's [None] has another): else torch turns what it resized to planes, a fifth of its time.
    pixels = torch.from_numpy(jpeg.decode(data, channels))[None].permute(0, 3, 1, 2)
    if geometry.height_first(width, height):
        pixels = _resize(pixels, geometry.height, width, spec.interpolation)
    pixels = _resize(pixels, geometry.height, geometry.width, spec.interpolation)
    # As arrays, of which slices take a tenth of the time.
    _crop(spec, geometry, pixels.numpy(), out.numpy())
    return True


def _crop(spec: PreprocessSpec, geometry: Geometry, pixels: Pixels, out: Pixels) -> None:
    """Write the window of a resized image (1, c, h, w), padded where it is larger."""
    left, top, right, bottom = geometry.padding(spec.image_size)
    if left or top or right or bottom:
        out[...] = spec.fill_color
    window = out[:, top : spec.image_size - bottom, left : spec.image_size - right]
    row, column = max(0, geometry.top), max(0, geometry.left)
    rows, columns = window.shape[1:]
    window[...] = pixels[0, :, row : row + rows, column : column + columns]


def _resize(pixels: torch.Tensor, height: int, width: int, mode: str) -> torch.Tensor:
    """Resize (1, c, h, w) as Pillow does, uint8 with rounding; rows, then columns."""
    if pixels.shape[2:] == (height, width):
        return pixels
    size = (height, width)
    return functional.interpolate(pixels, size, mode=mode, antialias=True, align_corners=False)


def _write_exact(spec: PreprocessSpec, data: bytes | Image.Image, out: torch.Tensor) -> None:
    """Write any image that Pillow reads, as the model's own transform would."""
    image = _open(data)
    geometry = _plan(spec, *image.size)
    _load(image)
    if spec.rgb_first:
        image = image.convert("RGB")
    kernel = Image.Resampling[spec.interpolation.upper()]
    image = image.resize((geometry.width, geometry.height), kernel)
    # Padded and cropped in the image's own mode, as torchvision does.
    padding = geometry.padding(spec.image_size)
    if any(padding):
        bands = len(image.getbands())
        fill = spec.fill_color if bands == 1 else (spec.fill_color,) * bands
        image = ImageOps.expand(image, border=padding, fill=fill)
    left, top = max(0, geometry.left), max(0, geometry.top)
    image = image.crop((left, top, left + spec.image_size, top + spec.image_size))
    out.copy_(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


def _write_own(spec: OwnPixels, data: bytes | Image.Image, out: torch.Tensor) -> None:
    """Write what a transform of one's own makes of any image that Pillow reads."""
    image = _open(data)
    if image.width * image.height > MAX_PIXELS:
        raise _SkipError(SkipReason.TOO_MANY_PIXELS)
    _load(image)
    try:
        pixels = as_tensor(spec.transform(image.convert("RGB")))
    except Exception:  # the code of another; that it takes images was seen when it was loaded
        raise _SkipError(SkipReason.TRANSFORM_FAILED) from None
    if pixels.shape != out.shape or pixels.dtype != out.dtype:
        raise _SkipError(SkipReason.TRANSFORM_FAILED)
    out.copy_(pixels)


def _load(image: Image.Image) -> None:
    """Decode an image; skips one that is damaged, or of more than 8 bits."""
    # I;16, I and F would be clipped to white by convert("RGB").
    if image.mode[0] in "IF":
        raise _SkipError(SkipReason.UNSUPPORTED_16BIT)
    try:
        image.load()
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them do
        truncated = "truncated" in str(error).lower()
        raise _SkipError(SkipReason.TRUNCATED if truncated else SkipReason.CORRUPT) from None
    image.info.pop("transparency", None)  # no effect on RGB, but a warning per image


def _open(data: bytes | Image.Image) -> Image.Image:
    if isinstance(data, Image.Image):
        return data.copy()
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        if is_heif(data):
            raise _SkipError(SkipReason.NEEDS_HEIF) from None
        known = data.startswith((jpeg.MAGIC, b"\x89PNG\r\n\x1a\n"))
        raise _SkipError(SkipReason.CORRUPT if known else SkipReason.NOT_AN_IMAGE) from None
    except Image.DecompressionBombError:
        raise _SkipError(SkipReason.TOO_MANY_PIXELS) from None
    except Exception:  # as above: struct.error, KeyError, SyntaxError, OSError, ...
        raise _SkipError(SkipReason.CORRUPT) from None
