"""Pixels: exact is the library's transform bit for bit, fast is within 4 gray levels of it."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_factories import (
    encode,
    picture,
)
from numpy.typing import NDArray
from PIL import Image
from pixel_oracles import CLIP, drift, open_clip_reference, pixels_of, timm_reference

from linprobe.errors import LinprobeError
from linprobe_extract.pixels.canary import MAX_DRIFT, check_preprocess, with_canary
from linprobe_extract.pixels.geometry import MAX_ASPECT, geometry_of
from linprobe_extract.pixels.preprocess import SkipReason, _resize, limit_thread, preprocess

MODES = ("RGB", "L", "RGBA", "LA", "P", "1", "CMYK")
sizes = st.integers(1, 260)


@settings(max_examples=120, deadline=None)
@given(
    width=sizes,
    height=sizes,
    mode=st.sampled_from(MODES),
    side=st.sampled_from([16, 33, 64]),
    resize_mode=st.sampled_from(["shortest", "squash", "longest"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill=st.sampled_from([0, 128]),
)
def test_exact_is_open_clips_transform_bit_for_bit(
    width: int, height: int, mode: str, side: int, resize_mode: str, interpolation: str, fill: int
) -> None:
    spec = replace(
        CLIP,
        image_size=side,
        resize_mode=resize_mode,
        interpolation=interpolation,
        fill_color=fill,
    )
    data = encode(picture(width, height, mode=mode), "TIFF" if mode == "CMYK" else "PNG")
    outcome, ours = pixels_of(spec, data, "exact")

    if outcome.skip is None:
        theirs = open_clip_reference(spec)(Image.open(io.BytesIO(data)))
        assert np.array_equal(ours, theirs)
    else:
        assert outcome.skip is SkipReason.EXTREME_ASPECT
        assert max(width, height) > min(width, height) * min(MAX_ASPECT, side)


@settings(max_examples=80, deadline=None)
@given(
    width=sizes,
    height=sizes,
    mode=st.sampled_from(MODES),
    resize_mode=st.sampled_from(["shortest", "squash", "longest"]),
    crop_pct=st.sampled_from([0.875, 0.9, 0.95, 1.0]),
)
def test_exact_is_timms_transform_bit_for_bit(
    width: int, height: int, mode: str, resize_mode: str, crop_pct: float
) -> None:
    gray = 128 if resize_mode == "longest" else 0
    spec = replace(
        CLIP,
        mean=(0.5, 0.5, 0.5),
        resize_mode=resize_mode,
        crop_pct=crop_pct,
        fill_color=gray,
        rgb_first=True,
    )
    data = encode(picture(width, height, mode=mode), "TIFF" if mode == "CMYK" else "PNG")
    outcome, ours = pixels_of(spec, data, "exact")

    if outcome.skip is None:
        assert np.array_equal(ours, timm_reference(spec)(Image.open(io.BytesIO(data))))


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 900),
    height=st.integers(1, 900),
    quality=st.integers(10, 100),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    progressive=st.booleans(),
    gray=st.booleans(),
    seed=st.integers(0, 999),
    side=st.sampled_from([64, 224, 336]),
    resize_mode=st.sampled_from(["shortest", "squash", "longest"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    fill=st.sampled_from([0, 128]),
)
@example(
    333, 640, 95, "4:4:4", False, False, 1, 224, "squash", "bicubic", 0
)  # the height shrinks first
def test_fast_is_within_4_gray_levels_of_exact(
    width: int,
    height: int,
    quality: int,
    subsampling: str,
    progressive: bool,
    gray: bool,
    seed: int,
    side: int,
    resize_mode: str,
    interpolation: str,
    fill: int,
) -> None:
    spec = replace(
        CLIP,
        image_size=side,
        resize_mode=resize_mode,
        interpolation=interpolation,
        fill_color=fill,
    )
    image = picture(width, height, mode="L" if gray else "RGB", seed=seed)
    data = encode(image, quality=quality, subsampling=subsampling, progressive=progressive)
    fast, fast_pixels = pixels_of(spec, data, "fast")
    exact, exact_pixels = pixels_of(spec, data, "exact")

    assert fast == exact
    assert fast.skip is not None or drift(fast_pixels, exact_pixels) <= MAX_DRIFT["fast"]


PHOTO = picture(300, 200)
JPEG = encode(PHOTO, quality=90)


def test_a_slot_may_have_any_strides() -> None:
    """A batch in channels-last memory takes the same pixels as one in planes."""
    batch = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    preprocess(CLIP, JPEG, batch[1].permute(2, 0, 1))

    assert np.array_equal(batch[1].permute(2, 0, 1).numpy(), pixels_of(CLIP, JPEG)[1])
    assert not batch[0].any()


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_nothing_is_turned_to_planes_on_the_way(
    resize_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch does so with what it resizes unless the strides are those of a whole batch."""
    resized = []

    def watched(pixels: torch.Tensor, height: int, width: int, mode: str) -> torch.Tensor:
        resized.append(_resize(pixels, height, width, mode))
        return resized[-1]

    monkeypatch.setattr("linprobe_extract.pixels.preprocess._resize", watched)
    for size in ((300, 200), (333, 640)):  # the latter by its height first
        pixels_of(replace(CLIP, resize_mode=resize_mode), encode(picture(*size)))

    assert len(resized) >= 2
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in resized)


def test_limiting_a_decode_thread_leaves_the_main_thread_its_own() -> None:
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1, initializer=limit_thread) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == before


@given(width=st.integers(1, 5000), height=st.integers(1, 5000))
def test_the_window_lies_in_the_padded_image(width: int, height: int) -> None:
    for mode in ("shortest", "squash", "longest"):
        spec = replace(CLIP, image_size=224, crop_pct=0.9, resize_mode=mode)
        geometry = geometry_of(spec, width, height)
        if geometry is None:
            continue
        left, top, right, bottom = geometry.padding(224)
        assert left + geometry.width + right >= max(0, geometry.left) + 224
        assert top + geometry.height + bottom >= max(0, geometry.top) + 224


@pytest.mark.parametrize("width", range(20, 300, 31))
def test_height_first_is_pillows_order_of_passes(width: int) -> None:
    """On noise of full contrast the two orders differ, and Pillow shows which it took."""
    noise = np.random.default_rng(width).integers(0, 2, (200, width)) * 255
    image = Image.fromarray(noise.astype(np.uint8))
    for new_width, new_height in ((50, 150), (150, 50), (101, 101), (40, 120), (80, 90)):
        geometry = geometry_of(replace(CLIP, resize_mode="squash"), width, 200)
        assert geometry is not None
        geometry = replace(geometry, width=new_width, height=new_height)
        first = (width, new_height) if geometry.height_first(width, 200) else (new_width, 200)
        bicubic = PIL.Image.Resampling.BICUBIC
        two = image.resize(first, bicubic).resize((new_width, new_height), bicubic)
        one = image.resize((new_width, new_height), bicubic)
        assert one.tobytes() == two.tobytes()


def test_a_transform_that_is_not_ours_is_refused_before_anything_is_extracted() -> None:
    def shifted(image: Image.Image) -> NDArray[np.uint8]:
        pixels = open_clip_reference(CLIP)(image).transpose(1, 2, 0)
        return np.roll(pixels, 1, axis=1)

    with pytest.raises(LinprobeError, match="gray levels away") as raised:
        check_preprocess(CLIP, shifted)
    assert "constraints.txt" in raised.value.hint


def test_a_fast_path_that_drifts_is_refused_and_exact_is_the_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nearest(pixels: torch.Tensor, height: int, width: int, _mode: str) -> torch.Tensor:
        return torch.nn.functional.interpolate(pixels, size=(height, width), mode="nearest")

    def reference(image: Image.Image) -> NDArray[np.uint8]:
        return open_clip_reference(CLIP)(image).transpose(1, 2, 0)

    check_preprocess(CLIP, reference)
    monkeypatch.setattr("linprobe_extract.pixels.preprocess._resize", nearest)
    with pytest.raises(LinprobeError, match="the fast preprocessing is up to") as raised:
        check_preprocess(CLIP, reference)
    assert raised.value.hint == "--preprocess exact"
    check_preprocess(replace(CLIP, path="exact"), reference)


def test_the_canary_is_a_function_of_every_choice_that_changes_pixels() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"image_size": 65},
        {"interpolation": "bilinear"},
        {"resize_mode": "squash"},
        {"resize_mode": "longest"},
        {"resize_mode": "longest", "fill_color": 9},
        {"crop_pct": 0.9},
        {"rgb_first": True},
        {"path": "exact"},
    ]
    canaries = {with_canary(replace(CLIP, **change)).canary for change in changes}

    assert len(canaries) == len(changes)
    assert with_canary(CLIP) == with_canary(with_canary(CLIP))
