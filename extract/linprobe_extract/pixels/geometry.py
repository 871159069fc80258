"""Where the pixels of the encoder's square input come from: arithmetic on integer sizes.

It rounds as torchvision's ``Resize`` and ``CenterCrop`` and timm's ``ResizeKeepRatio`` and
``CenterCropOrPad`` do: one pixel of offset is another feature.
"""

import math
from dataclasses import dataclass

import PIL

from linprobe_store.format.spec import PreprocessSpec

_PILLOW = int(PIL.__version__.partition(".")[0])

MAX_ASPECT = 64
"""Longest resized side over the target's: a strip of 30000x5 would else be resized to 0.9 GB."""


@dataclass(frozen=True)
class Geometry:
    """Resize the whole image to (width, height), then take a square window of it."""

    width: int
    """Of the whole image after the resize, in pixels."""
    height: int
    """Of the whole image after the resize, in pixels."""
    left: int
    """Column where the window begins; negative where it is padded."""
    top: int
    """Row where the window begins; negative where it is padded."""

    def height_first(self, width: int, height: int) -> bool:
        """Whether Pillow resizes the columns before the rows of an image of this size.

        Bicubic overshoots are clipped to 0..255 after each of the two passes, so their order
        shows. Pillow 13 takes the height first where it shrinks by more than twice as many pixels
        as the width (pull request 9549; the rule found by comparing both orders on random sizes);
        earlier versions, and torch, always take the width first.
        """
        rows_lost, columns_lost = height - self.height, width - self.width
        return _PILLOW >= 13 and rows_lost > 0 and rows_lost > 2 * columns_lost

    def padding(self, side: int) -> tuple[int, int, int, int]:
        """Pixels to add on the left, top, right and bottom before a window of ``side`` fits."""
        left, top = max(0, -self.left), max(0, -self.top)
        right, bottom = side - self.width - left, side - self.height - top
        return left, top, max(0, right), max(0, bottom)


def geometry_of(spec: PreprocessSpec, width: int, height: int) -> Geometry | None:
    """Plan the resize and window of an image; None if it would be degenerate.

    That is a side of zero pixels, or one of more than :data:`MAX_ASPECT` times the target.
    """
    side = math.floor(spec.image_size / spec.crop_pct)
    if spec.resize_mode == "squash":
        new_width = new_height = side
    elif spec.resize_mode == "longest":
        ratio = max(height / side, width / side)
        new_width, new_height = round(width / ratio), round(height / ratio)
    elif width <= height:
        new_width, new_height = side, int(side * height / width)
    else:
        new_width, new_height = int(side * width / height), side
    if min(new_width, new_height) < 1 or max(new_width, new_height) > MAX_ASPECT * side:
        return None
    left, top = (_offset(extent, spec.image_size) for extent in (new_width, new_height))
    return Geometry(new_width, new_height, left, top)


def _offset(extent: int, side: int) -> int:
    """First pixel of a centred window of ``side`` in ``extent`` pixels; halves round to even."""
    return round((extent - side) / 2) if extent >= side else -((side - extent) // 2)
