"""``--preprocess nvjpeg``, with torchvision's decoder of the CPU in the place of the GPU's."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_factories import SmallModel, load_small
from fake_cuda import FakeCuda
from image_factories import encode, picture, rot_scan, with_orientation
from PIL import Image
from pixel_oracles import CLIP
from run_factories import run_once, split_of
from tar_factories import write_dataset

from linprobe.errors import LinprobeError
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import EncoderChoice
from linprobe_extract.encoders.loading import load_encoder
from linprobe_extract.pixels import nvjpeg
from linprobe_extract.pixels.canary import MAX_DRIFT, check_preprocess, with_canary
from linprobe_extract.pixels.preprocess import Note, Outcome, SkipReason, preprocess, preprocess_all

# It says that torchcodec will take its place.
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

SPEC = replace(CLIP, path="nvjpeg")
EXACT = replace(CLIP, path="exact")


class Calls:
    """What the decoder was asked, image by image and call by call."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        decode = nvjpeg._decode

        def counted(images: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
            self.sizes.append(len(images))
            return decode(images, device)

        patch.setattr(nvjpeg, "_decode", counted)


@pytest.fixture(autouse=True)
def decoder(monkeypatch: pytest.MonkeyPatch) -> Calls:
    monkeypatch.setattr(nvjpeg, "DEVICE", "cpu")
    return Calls(monkeypatch)


def pixels_of(images: Sequence[bytes]) -> tuple[list[Outcome], torch.Tensor]:
    out = torch.zeros(len(images), 3, CLIP.image_size, CLIP.image_size, dtype=torch.uint8)
    return preprocess_all(SPEC, images, list(out)), out


def exact_pixels(image: bytes) -> torch.Tensor:
    out = torch.zeros(3, CLIP.image_size, CLIP.image_size, dtype=torch.uint8)
    preprocess(EXACT, image, out)
    return out


def drift(ours: torch.Tensor, theirs: torch.Tensor) -> int:
    return int((ours.int() - theirs.int()).abs().max())


def test_plain_jpegs_are_decoded_by_one_call_within_the_tolerance_of_exact(
    decoder: Calls,
) -> None:
    sizes = ((500, 375), (300, 640), (90, 70), (224, 224), (1200, 230))
    images = [encode(picture(*size, seed=size[0]), subsampling=0) for size in sizes]
    images.append(encode(picture(300, 200, mode="L")))

    outcomes, pixels = pixels_of(images)

    assert decoder.sizes == [6]
    assert outcomes == [Outcome(None)] * 6
    worst = max(drift(p, exact_pixels(image)) for p, image in zip(pixels, images, strict=True))
    assert worst <= MAX_DRIFT["nvjpeg"]


def test_whatever_is_no_plain_whole_jpeg_goes_the_exact_path(decoder: Calls) -> None:
    jpeg = encode(picture(200, 300))
    images = [
        encode(picture(90, 80, mode="P"), "PNG"),
        encode(picture(90, 80, mode="CMYK")),
        jpeg[:-300],
        b"<html>",
        encode(picture(2000, 20)),
    ]

    outcomes, pixels = pixels_of(images)

    assert decoder.sizes == []
    reasons = [outcome.skip for outcome in outcomes]
    skips = [SkipReason.TRUNCATED, SkipReason.NOT_AN_IMAGE, SkipReason.EXTREME_ASPECT]
    assert reasons == [None, None, *skips]
    assert all((pixels[i] == exact_pixels(images[i])).all() for i in range(2))


def test_one_damaged_jpeg_does_not_cost_its_neighbours_and_is_noted(
    decoder: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, turned = encode(picture(200, 300)), with_orientation(picture(200, 300), 6)
    bad, counted = rot_scan(good), nvjpeg._decode

    def refuse(images: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
        if bad in images:
            raise RuntimeError("Failed to decode batch: 2")
        return counted(images, device)

    monkeypatch.setattr(nvjpeg, "_decode", refuse)

    outcomes, pixels = pixels_of([good, bad, turned])

    assert decoder.sizes == [1, 1]
    assert outcomes[0] == Outcome(None)
    assert Note.DAMAGED_JPEG in outcomes[1].notes
    assert outcomes[2].notes == (Note.ORIENTATION_IGNORED,)
    assert (pixels[1] == exact_pixels(bad)).all()


def test_a_full_gpu_is_no_damaged_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(images: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(nvjpeg, "_decode", full)

    with pytest.raises(torch.OutOfMemoryError):
        pixels_of([encode(picture(20, 30))])


def test_a_decoder_that_is_wrong_or_missing_is_refused_before_anything_is_extracted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reference(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        data = encode(image, "PNG")
        return exact_pixels(data).permute(1, 2, 0).numpy()

    check_preprocess(SPEC, reference)
    decode = nvjpeg._decode
    monkeypatch.setattr(nvjpeg, "_decode", lambda *a: [x.flip(0) for x in decode(*a)])
    with pytest.raises(LinprobeError, match="the nvjpeg preprocessing is up to"):
        check_preprocess(SPEC, reference)

    def missing(images: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(nvjpeg, "_decode", missing)
    with pytest.raises(LinprobeError, match="is torchvision built with nvJPEG"):
        check_preprocess(SPEC, reference)


def test_it_is_an_encoder_of_its_own_that_needs_a_gpu(model: SmallModel, encoder: Encoder) -> None:
    with pytest.raises(LinprobeError, match="decodes on a CUDA device; this encoder is on cpu"):
        load_small(model, preprocess="nvjpeg")
    spec = replace(encoder.spec, preprocess=with_canary(replace(encoder.preprocess, path="nvjpeg")))
    assert spec.encoder_id != encoder.spec.encoder_id


def test_a_run_with_it_on_a_fake_gpu_stores_what_fast_stores_within_rounding(
    model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_dataset(tmp_path / "pets", splits={"train": [5, 3], "test": [2]})
    run_once(load_small(model), data, tmp_path / "fast", batch_size=4)
    cuda = FakeCuda(monkeypatch)
    choice = EncoderChoice(str(model.config), model.weights, "cuda", "fp32", "nvjpeg")
    encoder = cuda.encoder(load_encoder(choice))

    report = run_once(encoder, data, tmp_path / "nvjpeg", batch_size=4)

    assert report.n_images == 10
    ours, fast = (split_of(tmp_path / name, "train") for name in ("nvjpeg", "fast"))
    assert list(ours.keys) == list(fast.keys)
    np.testing.assert_allclose(ours.array("embedding"), fast.array("embedding"), atol=0.1)
