"""Where the encoder's pixels come from, by integer sizes; one pixel of offset is another feature.

Rounds as torchvision's Resize and CenterCrop, and timm's ResizeKeepRatio and CenterCropOrPad.
"""

import math
from dataclasses import dataclass

import PIL
from msgspec import UNSET

from linprobe_store.format.spec import PreprocessSpec

_PILLOW = int(PIL.__version__.partition(".")[0])

MAX_ASPECT = 64
"""Longest resized side over the target's: a strip of 30000x5 would else be resized to 0.9 GB."""


@dataclass(frozen=True)
class Geometry:
    """Resize the whole image to width x height pixels, then take a square window of it.

    The window begins at the column ``left`` and the row ``top``; negative where it is padded.
    """

    width: int
    height: int
    left: int
    top: int

    def height_first(self, width: int, height: int) -> bool:
        """Whether Pillow resizes the columns before the rows of an image of this size.

        It shows, since overshoots are clipped after each pass. Pillow 13 takes the height first
        where it shrinks by more than twice as many pixels as the width (pull request 9549; found
        by comparing both orders on random sizes); earlier versions, and torch, never do.
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
    # A centred window; halves round to even where it is cropped, or down; down where it is padded.
    halved = round if spec.crop_halves is UNSET else math.floor
    left, top = (
        halved(spare / 2) if spare >= 0 else -(-spare // 2)
        for spare in (new_width - spec.image_size, new_height - spec.image_size)
    )
    return Geometry(new_width, new_height, left, top)
