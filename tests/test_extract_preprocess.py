"""Pixels: exact is the library's transform bit for bit, fast is within 4 gray levels of it."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.data.transforms_factory import create_transform

from image_factories import (
    claim_size,
    encode,
    picture,
    png_header,
    rot_scan,
    with_orientation,
)
from linprobe_extract.canary import MAX_DRIFT, check_preprocess, with_canary
from linprobe_extract.geometry import MAX_ASPECT, geometry_of
from linprobe_extract.preprocess import (
    Note,
    Outcome,
    SkipReason,
    limit_thread,
    preprocess,
)
from linprobe_store.errors import LinprobeError
from linprobe_store.spec import PreprocessSpec

Reference: TypeAlias = Callable[[Image.Image], NDArray[np.uint8]]
Path: TypeAlias = Literal["fast", "exact"]

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


def run(
    spec: PreprocessSpec, data: bytes, path: Path | None = None
) -> tuple[Outcome, NDArray[np.uint8]]:
    """Preprocess into a fresh slot."""
    out = torch.full((3, spec.image_size, spec.image_size), 77, dtype=torch.uint8)
    outcome = preprocess(spec if path is None else replace(spec, path=path), data, out)
    return outcome, out.numpy()


def drift(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> int:
    """Largest difference in gray levels."""
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


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
    outcome, ours = run(spec, data, "exact")

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
    outcome, ours = run(spec, data, "exact")

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
)
@example(
    333, 640, 95, "4:4:4", False, False, 1, 224, "squash", "bicubic"
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
) -> None:
    spec = replace(CLIP, image_size=side, resize_mode=resize_mode, interpolation=interpolation)
    image = picture(width, height, mode="L" if gray else "RGB", seed=seed)
    data = encode(image, quality=quality, subsampling=subsampling, progressive=progressive)
    fast, fast_pixels = run(spec, data, "fast")
    exact, exact_pixels = run(spec, data, "exact")

    assert fast == exact
    assert fast.skip is not None or drift(fast_pixels, exact_pixels) <= MAX_DRIFT


PHOTO = picture(300, 200)
JPEG = encode(PHOTO, quality=90)

SAME_AS_REFERENCE = {
    "plain": JPEG,
    "gray": encode(PHOTO.convert("L")),
    "progressive": encode(PHOTO, progressive=True),
    "4:4:4": encode(PHOTO, subsampling="4:4:4"),
    "stored as RGB": encode(PHOTO, keep_rgb=True),
    "CMYK JPEG": encode(picture(90, 120, mode="CMYK")),
    "trailing garbage": JPEG + b"garbage",
    "restart markers": encode(PHOTO, restart_marker_blocks=4),
    "RGBA PNG": encode(picture(90, 120, mode="RGBA"), "PNG"),
    "gray and alpha PNG": encode(picture(90, 120, mode="LA"), "PNG"),
    "palette PNG": encode(picture(90, 120, mode="P"), "PNG"),
    "palette with alpha": encode(picture(90, 120, mode="P"), "PNG", transparency=bytes(range(32))),
    "1-bit PNG": encode(picture(90, 120, mode="1"), "PNG"),
    "GIF": encode(picture(90, 120), "GIF"),
    "WebP": encode(picture(90, 120), "WEBP", lossless=True),
    "BMP": encode(picture(90, 120), "BMP"),
    "one pixel": encode(picture(1, 1)),
    "smaller than the input": encode(picture(20, 15)),
    "already the input's size": encode(picture(64, 64)),
    "bit rot in the scan": rot_scan(JPEG),
    "rotated by EXIF": with_orientation(PHOTO, 6),
}

SKIPPED = {
    "half a JPEG": (JPEG[: len(JPEG) // 2], SkipReason.TRUNCATED),
    "JPEG short of 200 bytes": (JPEG[:-200], SkipReason.TRUNCATED),
    "JPEG without its end marker": (JPEG[:-2], SkipReason.TRUNCATED),
    "JPEG header alone": (JPEG[:100], SkipReason.CORRUPT),
    "half a PNG": (encode(PHOTO, "PNG")[:20000], SkipReason.TRUNCATED),
    "PNG header alone": (png_header(8, 8)[:12], SkipReason.CORRUPT),
    "PNG of broken data": (png_header(400, 300), SkipReason.TRUNCATED),
    "zero bytes": (b"", SkipReason.NOT_AN_IMAGE),
    "HTML": (b"<!DOCTYPE html><html>404</html>", SkipReason.NOT_AN_IMAGE),
    "JSON": (b'{"error": 404}', SkipReason.NOT_AN_IMAGE),
    "400 megapixel PNG": (png_header(20000, 20000), SkipReason.TOO_MANY_PIXELS),
    "400 megapixel JPEG": (claim_size(JPEG, 20000, 20000), SkipReason.TOO_MANY_PIXELS),
    "JPEG of height zero": (claim_size(JPEG, 300, 0), SkipReason.CORRUPT),
    "wide strip": (encode(picture(3000, 5)), SkipReason.EXTREME_ASPECT),
    "tall strip": (encode(picture(5, 3000), "PNG"), SkipReason.EXTREME_ASPECT),
    "16-bit gray PNG": (
        encode(Image.fromarray(np.full((40, 50), 9000, np.uint16)), "PNG"),
        SkipReason.UNSUPPORTED_16BIT,
    ),
    "32-bit float TIFF": (
        encode(Image.fromarray(np.full((40, 50), 0.5, np.float32)), "TIFF"),
        SkipReason.UNSUPPORTED_16BIT,
    ),
}


@pytest.mark.parametrize("path", ["fast", "exact"])
@pytest.mark.parametrize("name", SAME_AS_REFERENCE)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # the reference's own
def test_what_the_reference_reads_becomes_its_pixels(name: str, path: Path) -> None:
    data = SAME_AS_REFERENCE[name]
    outcome, ours = run(CLIP, data, path)

    assert outcome.skip is None
    theirs = open_clip_reference(CLIP)(Image.open(io.BytesIO(data)))
    through_pillow = path == "exact" or not data.startswith(b"\xff\xd8")
    assert drift(ours, theirs) <= (0 if through_pillow else MAX_DRIFT)


@pytest.mark.parametrize("path", ["fast", "exact"])
@pytest.mark.parametrize("name", SKIPPED)
def test_what_cannot_be_used_is_skipped_with_its_reason(name: str, path: Path) -> None:
    data, reason = SKIPPED[name]

    assert run(CLIP, data, path)[0] == Outcome(reason)


@pytest.mark.parametrize("name", [n for n, (_, r) in SKIPPED.items() if r in {
    SkipReason.TRUNCATED, SkipReason.CORRUPT, SkipReason.NOT_AN_IMAGE}])  # fmt: skip
def test_the_reference_refuses_what_is_skipped_as_unreadable(name: str) -> None:
    with pytest.raises((OSError, SyntaxError, ValueError)):
        open_clip_reference(CLIP)(Image.open(io.BytesIO(SKIPPED[name][0])))


def test_bit_rot_decodes_to_the_references_pixels_and_is_noted() -> None:
    outcome, ours = run(CLIP, rot_scan(JPEG), "fast")

    assert outcome == Outcome(None, (Note.DAMAGED_JPEG,))
    theirs = open_clip_reference(CLIP)(Image.open(io.BytesIO(rot_scan(JPEG))))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("path", ["fast", "exact"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotation_that_exif_asks_for_is_ignored_and_noted(orientation: int, path: Path) -> None:
    outcome, ours = run(CLIP, with_orientation(PHOTO, orientation), path)

    assert outcome.notes == (() if orientation == 1 else (Note.ORIENTATION_IGNORED,))
    assert np.array_equal(ours, run(CLIP, encode(PHOTO, quality=92), path)[1])


@given(tail=st.binary(max_size=80))
def test_exif_of_any_content_is_read_without_an_error(tail: bytes) -> None:
    block = b"Exif\0\0" + tail
    segment = b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block

    assert run(CLIP, JPEG[:2] + segment + JPEG[2:])[0].skip is None


MAGICS = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF"]


@given(data=st.binary(max_size=300), magic=st.sampled_from(MAGICS))
def test_any_bytes_become_pixels_or_a_reason(data: bytes, magic: bytes) -> None:
    for path in ("fast", "exact"):
        assert isinstance(run(CLIP, magic + data, path)[0], Outcome)


def test_a_slot_may_have_any_strides() -> None:
    """A batch in channels-last memory takes the same pixels as one in planes."""
    batch = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    preprocess(CLIP, JPEG, batch[1].permute(2, 0, 1))

    assert np.array_equal(batch[1].permute(2, 0, 1).numpy(), run(CLIP, JPEG)[1])
    assert not batch[0].any()


def test_threads_get_the_pixels_of_a_single_thread() -> None:
    images = list(SAME_AS_REFERENCE.values()) * 8
    alone = [run(CLIP, data) for data in images]
    with ThreadPoolExecutor(8, initializer=limit_thread) as pool:
        together = list(pool.map(lambda data: run(CLIP, data), images))

    for (one, one_pixels), (other, other_pixels) in zip(alone, together, strict=True):
        assert one == other
        assert one.skip is not None or np.array_equal(one_pixels, other_pixels)


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
    monkeypatch.setattr("linprobe_extract.preprocess._resize", nearest)
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
