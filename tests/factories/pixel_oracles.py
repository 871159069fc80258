"""The libraries' own transforms as oracles of ours."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.data.transforms_factory import create_transform

from linprobe_extract.pixels.preprocess import Outcome, preprocess
from linprobe_store.format.spec import PreprocessSpec

Reference: TypeAlias = Callable[[Image.Image], NDArray[np.uint8]]
PathName: TypeAlias = Literal["fast", "exact"]

CLIP = PreprocessSpec(
    image_size=64,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    interpolation="bicubic",
    resize_mode="shortest",
    fill_color=0,
    crop_pct=1.0,
    path="fast",
    canary="",
)


def open_clip_reference(spec: PreprocessSpec) -> Reference:
    """open_clip's own transform of the same configuration, up to its uint8 pixels."""
    config = PreprocessCfg(
        size=spec.image_size,
        interpolation=spec.interpolation,
        resize_mode=spec.resize_mode,
        fill_color=spec.fill_color,
    )
    steps = image_transform_v2(config, is_train=False).transforms[:-2]

    def pixels(image: Image.Image) -> NDArray[np.uint8]:
        for step in steps:
            image = step(image)
        return np.asarray(image).transpose(2, 0, 1)

    return pixels


def timm_reference(spec: PreprocessSpec) -> Reference:
    """Timm's own evaluation transform of the same configuration, after timm's loader."""
    modes = {"shortest": "center", "squash": "squash", "longest": "border"}
    transform = create_transform(
        (3, spec.image_size, spec.image_size),
        is_training=False,
        normalize=False,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
        crop_mode=modes[spec.resize_mode],
    )
    return lambda image: np.asarray(transform(image.convert("RGB")))


def pixels_of(
    spec: PreprocessSpec, data: bytes, path: PathName | None = None
) -> tuple[Outcome, NDArray[np.uint8]]:
    """Preprocess into a fresh slot."""
    out = torch.full((3, spec.image_size, spec.image_size), 77, dtype=torch.uint8)
    outcome = preprocess(spec if path is None else replace(spec, path=path), data, out)
    return outcome, out.numpy()


def drift(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> int:
    """Largest difference in gray levels."""
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())
