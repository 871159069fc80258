"""What an image processor of transformers does, as a preprocessing of ours where that says it."""

from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray
from PIL import Image

from linprobe_extract.pixels.canary import ReferenceTransform
from linprobe_extract.pixels.own import own_pixels
from linprobe_store.format.spec import PreprocessSpec


def pixels_of(processor: Any) -> tuple[PreprocessSpec, ReferenceTransform | None]:
    """The preprocessing of a model: as ours, where we can say it, else the processor itself."""
    steps = _plain_steps(processor) if getattr(processor, "backend", "") == "pil" else None
    if steps is not None:
        return steps, _reference(processor)

    def transform(image: Image.Image) -> object:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    return own_pixels(transform), None


def _plain_steps(processor: Any) -> PreprocessSpec | None:
    """Resize, crop in the centre, scale and normalise; None for anything beside."""
    settings = processor.to_dict()
    size = {k: v for k, v in dict(settings["size"]).items() if v}
    crop = dict(settings.get("crop_size") or {}) if settings.get("do_center_crop") else {}
    if not settings.get("do_resize") or settings.get("do_pad"):
        return None
    if size.keys() == {"shortest_edge"} and crop.get("height") == crop.get("width", 0):
        resized, side, mode = size["shortest_edge"], crop["height"], "shortest"
    elif size.keys() == {"height", "width"} and size["height"] == size["width"] and not crop:
        resized, side, mode = size["height"], size["height"], "squash"
    else:
        return None
    if side > resized or int(resized // 1) != np.floor(side / (side / resized)):
        return None
    factor = 255 * settings["rescale_factor"] if settings.get("do_rescale") else 255.0
    factor = 1.0 if abs(factor - 1) < 1e-9 else factor
    normalises = settings.get("do_normalize")
    mean = _channels(settings["image_mean"] if normalises else 0.0)
    std = _channels(settings["image_std"] if normalises else 1.0)
    return PreprocessSpec(
        image_size=side,
        mean=(mean[0] / factor, mean[1] / factor, mean[2] / factor),
        std=(std[0] / factor, std[1] / factor, std[2] / factor),
        interpolation={0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}[
            int(settings["resample"])
        ],
        resize_mode=mode,
        fill_color=0,
        crop_pct=side / resized,
        path="exact",
        canary="",
        rgb_first=True,
        crop_halves="down" if crop else UNSET,
    )


def _channels(values: Any) -> tuple[float, float, float]:
    if isinstance(values, int | float):
        return (float(values),) * 3
    red, green, blue = map(float, values)
    return red, green, blue


def _reference(processor: Any) -> ReferenceTransform:
    """The processor itself, on RGB, up to its uint8 pixels."""

    def pixels(image: Image.Image) -> NDArray[np.uint8]:
        rgb = image.convert("RGB")
        out = processor(images=rgb, do_rescale=False, do_normalize=False, return_tensors="np")
        return np.asarray(out["pixel_values"][0]).transpose(1, 2, 0)

    return pixels
