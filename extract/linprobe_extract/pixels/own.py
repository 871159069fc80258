"""Pixels by a transform of one's own: what it gives is what its encoder takes."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image

from linprobe.errors import LinprobeError
from linprobe_store.format.spec import PreprocessSpec

Transform: TypeAlias = Callable[[Image.Image], object]
"""Takes an RGB image, from any thread; gives a tensor or array (3, s, s), the same each time."""


def _none(_: Image.Image) -> object:
    raise NotImplementedError


@dataclass(frozen=True)
class OwnPixels(PreprocessSpec):
    """A preprocessing that is a function; in the spec of its encoder only its canary tells it."""

    transform: Transform = _none
    dtype: torch.dtype = torch.float32
    """Of what it gives; the encoder takes it as it is, without scaling."""

    def plain(self) -> PreprocessSpec:
        """What goes into the identity of the encoder."""
        return PreprocessSpec(**{f.name: getattr(self, f.name) for f in fields(PreprocessSpec)})


def own_pixels(transform: Transform) -> OwnPixels:
    """Try a transform on an image; its canary is still empty.

    Raises
    ------
    LinprobeError : it fails, gives no square (3, s, s), or other pixels each time.
    """
    image = Image.effect_mandelbrot((90, 70), (-2, -1.5, 1, 1.5), 40).convert("RGB")
    try:
        first, second = (as_tensor(transform(image.copy())) for _ in range(2))
    except Exception as error:  # whatever the code of another does
        problem = f"the transform fails on an image: {type(error).__name__}: {error}"
        hint = "it takes a PIL image in RGB and gives a tensor (3, s, s)"
        raise LinprobeError(problem.splitlines()[0], hint=hint) from error
    if first.ndim != 3 or first.shape[0] != 3 or first.shape[1] != first.shape[2]:
        problem = f"the transform gives pixels of the shape {tuple(first.shape)}"
        hint = "resize or crop to a square, as torchvision's Resize((s, s)) does"
        raise LinprobeError(f"{problem}, expected (3, s, s)", hint=hint)
    if not torch.equal(first, second):
        hint = "features are made once: leave random crops, flips and the like out"
        raise LinprobeError("the transform gives other pixels each time", hint=hint)
    return OwnPixels(
        image_size=first.shape[1],
        mean=(0, 0, 0),
        std=(1, 1, 1),
        interpolation="own",
        resize_mode="own",
        fill_color=0,
        crop_pct=1,
        path="own",
        canary="",
        transform=transform,
        dtype=first.dtype,
    )


def as_tensor(value: object) -> torch.Tensor:
    """What a transform gave, as a tensor on the CPU; a TypeError where it is none."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"expected a tensor or an array, found a {type(value).__name__}")
    return value.detach().cpu()


def pixel_dtype(spec: PreprocessSpec) -> torch.dtype:
    """Of the pixels that a preprocessing makes: uint8, unless a transform of one's own does."""
    return spec.dtype if isinstance(spec, OwnPixels) else torch.uint8
