"""The encoder on its device: pixels go up, features come down, and memory may be short."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_factories import SmallModel, random_pixels
from fake_cuda import FakeCuda
from run_factories import run_once, sealed_bytes

from linprobe_extract.device_memory import DeviceMemoryError
from linprobe_extract.encoders.device import encode_images, launcher, pixel_room
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import EncoderChoice
from linprobe_extract.encoders.loading import load_encoder
from linprobe_extract.encoders.register import register


class Cramped(Encoder):
    """An encoder whose device holds few images at once."""

    def __init__(self, encoder: Encoder, n_most: int, error: Exception) -> None:
        super().__init__(encoder.spec, encoder.names, encoder._taps)
        self.n_most, self.error = n_most, error

    def encode_pixels(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        if len(pixels) > self.n_most:
            raise self.error
        return super().encode_pixels(pixels)


def test_decoders_write_whole_rows_and_the_device_turns_them_to_planes_with_equal_features(
    encoder: Encoder,
) -> None:
    planes = random_pixels(3, encoder.image_size)
    rows = pixel_room(encoder, 3)
    rows.copy_(planes)

    assert rows.shape == planes.shape
    assert all(slot.permute(1, 2, 0).is_contiguous() for slot in rows)
    launch = launcher(encoder)
    want, got = launch(planes).collect(), launch(rows).collect()
    assert all((want[tap] == got[tap]).all() for tap in want)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: tried 9 bytes"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_every_library_s_word_for_full_memory_halves_the_batch(
    encoder: Encoder, error: Exception
) -> None:
    pixels = random_pixels(7, encoder.image_size)
    want = launcher(encoder)(pixels).collect()

    got = encode_images(Cramped(encoder, 2, error), pixels)

    for tap, features in want.items():
        assert got[tap].shape == features.shape
        np.testing.assert_allclose(got[tap], features, atol=1e-2)
    words = str(error).partition("\n")[0]
    with pytest.raises(DeviceMemoryError, match="does not fit the memory of cpu with 1 im") as told:
        encode_images(Cramped(encoder, 0, error), pixels)
    assert words in told.value.message


def test_an_error_that_is_none_of_memory_stays_what_it_is(encoder: Encoder) -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        encode_images(Cramped(encoder, 2, error), random_pixels(4, encoder.image_size))


def test_the_canary_takes_no_more_memory_than_there_is(encoder: Encoder, tmp_path: Path) -> None:
    error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasSgemm`")

    register(Cramped(encoder, 1, error), tmp_path, batch_size=8)

    assert register(encoder, tmp_path, batch_size=8).encoder_id == encoder.spec.encoder_id
    with pytest.raises(DeviceMemoryError, match="with 1 images at once: CUDA error: CUBLAS"):
        register(Cramped(encoder, 0, error), tmp_path, batch_size=8)


def test_the_gpu_of_a_rank_is_current_before_its_memory_is_taken(
    model: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(monkeypatch)

    load_encoder(EncoderChoice(str(model.config), model.weights, "cuda"), local_rank=3)

    assert cuda.steps[0] == ("current is", 1)
    assert ("copied to", 1) in cuda.steps


def test_what_is_page_locked_belongs_to_the_encoder_s_gpu_whichever_is_current(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(monkeypatch)
    fake = cuda.encoder(encoder)
    cuda.current = 0

    encode_images(fake, pixel_room(fake, 4).fill_(7))

    assert {device for step, device in cuda.steps if step == "page-locked on"} == {1}
    assert cuda.current == 0


def test_a_run_on_a_fake_gpu_gives_the_bytes_of_one_on_the_cpu(
    encoder: Encoder, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_once(encoder, data, tmp_path / "cpu", batch_size=2)
    cuda = FakeCuda(monkeypatch)

    report = run_once(cuda.encoder(encoder), data, tmp_path / "gpu", batch_size=2)

    assert sealed_bytes(tmp_path / "gpu") == sealed_bytes(tmp_path / "cpu")
    assert report.batch_size == 2


def test_page_locked_memory_that_is_short_halves_the_batch(
    encoder: Encoder, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_once(encoder, data, tmp_path / "cpu", batch_size=2)
    ring_of_three = 5 * 3 * 3 * encoder.image_size**2
    cuda = FakeCuda(monkeypatch, page_lockable=ring_of_three)

    report = run_once(cuda.encoder(encoder), data, tmp_path / "gpu", batch_size=8)

    assert report.batch_size == 2
    assert sealed_bytes(tmp_path / "gpu") == sealed_bytes(tmp_path / "cpu")
