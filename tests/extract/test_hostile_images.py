"""Every image becomes the reference's pixels or a counted reason, whatever is in the file."""

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_factories import (
    claim_size,
    encode,
    picture,
    png_header,
    rot_scan,
    with_orientation,
)
from PIL import Image
from pixel_oracles import CLIP, PathName, drift, open_clip_reference, pixels_of

from linprobe_extract.pixels.canary import MAX_DRIFT
from linprobe_extract.pixels.preprocess import Note, Outcome, SkipReason, limit_thread

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
def test_what_the_reference_reads_becomes_its_pixels(name: str, path: PathName) -> None:
    data = SAME_AS_REFERENCE[name]
    outcome, ours = pixels_of(CLIP, data, path)

    assert outcome.skip is None
    theirs = open_clip_reference(CLIP)(Image.open(io.BytesIO(data)))
    through_pillow = path == "exact" or not data.startswith(b"\xff\xd8")
    assert drift(ours, theirs) <= (0 if through_pillow else MAX_DRIFT["fast"])


@pytest.mark.parametrize("path", ["fast", "exact"])
@pytest.mark.parametrize("name", SKIPPED)
def test_what_cannot_be_used_is_skipped_with_its_reason(name: str, path: PathName) -> None:
    data, reason = SKIPPED[name]

    assert pixels_of(CLIP, data, path)[0] == Outcome(reason)


@pytest.mark.parametrize("name", [n for n, (_, r) in SKIPPED.items() if r in {
    SkipReason.TRUNCATED, SkipReason.CORRUPT, SkipReason.NOT_AN_IMAGE}])  # fmt: skip
def test_the_reference_refuses_what_is_skipped_as_unreadable(name: str) -> None:
    with pytest.raises((OSError, SyntaxError, ValueError)):
        open_clip_reference(CLIP)(Image.open(io.BytesIO(SKIPPED[name][0])))


def test_bit_rot_decodes_to_the_references_pixels_and_is_noted() -> None:
    outcome, ours = pixels_of(CLIP, rot_scan(JPEG), "fast")

    assert outcome == Outcome(None, (Note.DAMAGED_JPEG,))
    theirs = open_clip_reference(CLIP)(Image.open(io.BytesIO(rot_scan(JPEG))))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("path", ["fast", "exact"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotation_that_exif_asks_for_is_ignored_and_noted(
    orientation: int, path: PathName
) -> None:
    outcome, ours = pixels_of(CLIP, with_orientation(PHOTO, orientation), path)

    assert outcome.notes == (() if orientation == 1 else (Note.ORIENTATION_IGNORED,))
    assert np.array_equal(ours, pixels_of(CLIP, encode(PHOTO, quality=92), path)[1])


@pytest.mark.parametrize("path", ["fast", "exact"])
def test_the_limit_of_pixels_holds_for_images_that_decode(
    path: PathName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow has a limit of its own, the fast decoder has none."""
    monkeypatch.setattr("linprobe_extract.pixels.preprocess.MAX_PIXELS", 300 * 200 - 1)
    assert pixels_of(CLIP, JPEG, path)[0] == Outcome(SkipReason.TOO_MANY_PIXELS)

    monkeypatch.setattr("linprobe_extract.pixels.preprocess.MAX_PIXELS", 300 * 200)
    assert pixels_of(CLIP, JPEG, path)[0].skip is None


@pytest.mark.parametrize("order", ["little", "big"])
def test_exif_is_read_in_both_byte_orders(order: Literal["little", "big"]) -> None:
    """A directory of two entries, the orientation last, as cameras write it."""
    mark = b"II*\0" if order == "little" else b"MM\0*"
    entries = [(0x010F, 2, 4, 0x41414100), (0x0112, 3, 1, 8)]
    body = mark + (8).to_bytes(4, order) + len(entries).to_bytes(2, order)
    for tag, kind, count, value in entries:
        size = 2 if kind == 3 else 4
        body += tag.to_bytes(2, order) + kind.to_bytes(2, order) + count.to_bytes(4, order)
        body += value.to_bytes(size, order).ljust(4, b"\0")
    block = b"Exif\0\0" + body
    segment = b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block

    outcome, _ = pixels_of(CLIP, JPEG[:2] + segment + JPEG[2:])
    assert outcome == Outcome(None, (Note.ORIENTATION_IGNORED,))


@given(tail=st.binary(max_size=80))
def test_exif_of_any_content_is_read_without_an_error(tail: bytes) -> None:
    block = b"Exif\0\0" + tail
    segment = b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block

    assert pixels_of(CLIP, JPEG[:2] + segment + JPEG[2:])[0].skip is None


MAGICS = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF"]


@given(data=st.binary(max_size=300), magic=st.sampled_from(MAGICS))
def test_any_bytes_become_pixels_or_a_reason(data: bytes, magic: bytes) -> None:
    for path in ("fast", "exact"):
        assert isinstance(pixels_of(CLIP, magic + data, path)[0], Outcome)


def test_threads_get_the_pixels_of_a_single_thread() -> None:
    images = list(SAME_AS_REFERENCE.values()) * 8
    alone = [pixels_of(CLIP, data) for data in images]
    with ThreadPoolExecutor(8, initializer=limit_thread) as pool:
        together = list(pool.map(lambda data: pixels_of(CLIP, data), images))

    for (one, one_pixels), (other, other_pixels) in zip(alone, together, strict=True):
        assert one == other
        assert one.skip is not None or np.array_equal(one_pixels, other_pixels)
