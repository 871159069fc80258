"""Built-in images that prove what a preprocessing does with today's libraries on this machine."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from linprobe.errors import LinprobeError
from linprobe_extract.pixels import nvjpeg
from linprobe_extract.pixels.own import pixel_dtype
from linprobe_extract.pixels.preprocess import Note, preprocess
from linprobe_store.format.spec import PreprocessSpec

MAX_DRIFT = {"exact": 0, "fast": 4, "nvjpeg": 8}
"""Gray levels by which a path may differ from ``exact``, by rounding; a wrong kernel: by tens.

``fast``: 4 was the largest of 150 random JPEGs. ``nvjpeg``: of JPEGs with colour at full
resolution, where our resize is off by 1 and libjpeg-turbo's coarsest DCT by 5; not run on a GPU.
nvJPEG stretches colour of half the resolution without smoothing it, which changes some pixels at
hard edges of colour by tens, and the canary photo by 0.3 on average (libjpeg-turbo, told so).
"""

_PROBES = ((500, 375, "RGB"), (333, 640, "RGB"), (120, 90, "RGB"), (300, 200, "L"))

ReferenceTransform: TypeAlias = Callable[[Image.Image], NDArray[np.uint8]]
"""The model's own transform up to its uint8 RGB pixels (s, s, 3)."""


def canary_images() -> tuple[bytes, ...]:
    """The images behind :attr:`PreprocessSpec.canary`: a large colour JPEG, two small PNGs.

    They show the decoder, both directions of the resize, and the order of resize and conversion.
    """
    photo = resources.files("linprobe_extract").joinpath("canary.jpg").read_bytes()
    y, x = np.mgrid[0:45, 0:64]
    alpha = np.stack([x * 4, y * 5, (x ^ y) * 4, (x + y) * 2], axis=-1).astype(np.uint8)
    palette = Image.fromarray(((x // 8 + y // 9) % 4).astype(np.uint8))
    palette.putpalette([250, 10, 10, 10, 250, 10, 10, 10, 250, 240, 240, 20])
    return photo, _encode(Image.fromarray(alpha, "RGBA"), "PNG"), _encode(palette, "PNG")


def with_canary(spec: PreprocessSpec) -> PreprocessSpec:
    """Fill in the digest of the pixels that this machine makes of the canary images."""
    pixels = canary_pixels(spec).numpy().tobytes()
    return replace(spec, canary=hashlib.sha256(pixels).hexdigest())


def canary_pixels(spec: PreprocessSpec) -> torch.Tensor:
    """Give the pixels (m, 3, s, s) that this machine makes of the canary images; uint8 mostly."""
    return torch.from_numpy(np.stack([_pixels(spec, image) for image in canary_images()]))


def check_preprocess(spec: PreprocessSpec, reference: ReferenceTransform) -> None:
    """Check our pixels of the built-in images against the model's own transform.

    A LinprobeError is raised if a path is further than its :data:`MAX_DRIFT` from ``reference``.
    """
    # Exact always: it takes whatever the others cannot.
    for each in dict.fromkeys((replace(spec, path="exact"), spec)):
        on_gpu = each.path == "nvjpeg"
        images = _probe_jpegs(subsampling=0) if on_gpu else canary_images() + _probe_jpegs()
        for data in images:
            expected = reference(Image.open(io.BytesIO(data))).transpose(2, 0, 1)
            drift = int(np.abs(_pixels(each, data).astype(np.int16) - expected).max())
            allowed = MAX_DRIFT[each.path]
            if drift > allowed:
                versions = "constraints.txt lists the tested versions of pillow and torchvision"
                raise LinprobeError(
                    f"the {each.path} preprocessing is up to {drift} gray levels away from the "
                    f"model's own transform on a built-in image; {allowed} are allowed",
                    hint=versions if each.path == "exact" else "--preprocess exact",
                )


def _probe_jpegs(**options: int) -> tuple[bytes, ...]:
    """JPEGs of several sizes and kinds, made now: only compared, so any encoder will do.

    ``options`` are those of Pillow: with ``subsampling=0``, colour is at full resolution.
    """
    images = []
    for width, height, mode in _PROBES:
        y, x = np.mgrid[0:height, 0:width]
        texture = [(x * y // 7) % 256, (x * 3 + y * 5) % 256, ((x - 60) ** 2 + y * y) // 97 % 256]
        image = Image.fromarray(np.stack(texture, axis=-1).astype(np.uint8))
        images.append(_encode(image.convert(mode), "JPEG", **options))
    return tuple(images)


def _encode(image: Image.Image, format_name: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def _pixels(spec: PreprocessSpec, data: bytes) -> NDArray[np.uint8]:
    device = nvjpeg.DEVICE if spec.path == "nvjpeg" else "cpu"
    side = spec.image_size
    out = torch.zeros((3, side, side), dtype=pixel_dtype(spec), device=device)
    outcome = preprocess(spec, data, out)
    if outcome.skip is not None:
        hint = "reinstall pillow and simplejpeg; constraints.txt lists the tested versions"
        raise LinprobeError(f"a built-in image was skipped as {outcome.skip}", hint=hint)
    if Note.DAMAGED_JPEG in outcome.notes:
        problem = f"the {spec.path} preprocessing refuses a built-in JPEG"
        if spec.path == "nvjpeg":
            problem += ": is torchvision built with nvJPEG, and for this driver?"
        raise LinprobeError(problem, hint="--preprocess exact")
    return out.cpu().numpy()
