"""The encoder on its device: launch batches now, collect their features later (a CPU: at once)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from linprobe_extract.device_memory import DeviceMemoryError, free_memory, memory_of
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.pixels.own import pixel_dtype
from linprobe_store.format.spec import FeatureArray


@dataclass(frozen=True)
class Flight:
    """A batch on the device."""

    has_landed: Callable[[], bool]
    """Whether its features are there, so that collecting them does not wait."""
    collect: Callable[[], Mapping[str, FeatureArray]]
    """Wait for the features (b, d) per tap in the storage dtype, in host memory."""


Launch: TypeAlias = Callable[[torch.Tensor], Flight]
"""Start one batch of uint8 pixels (b, 3, s, s), which must stay untouched until collected."""


def pixel_room(encoder: Encoder, n: int) -> torch.Tensor:
    """Give room for pixels (n, 3, s, s), for decoders to write and :func:`launcher` to read.

    In memory the three channels of a pixel lie side by side, as decoders write them: the device
    turns them to planes (:meth:`Encoder.encode_pixels`), at no cost to the threads that decode. For
    a GPU it is page-locked, so that copies overlap with other work, and on it where that decodes. A
    DeviceMemoryError is raised where there is not enough of such memory.
    """
    side, on_gpu = encoder.image_size, encoder.device.type == "cuda"
    with memory_of(encoder.device, encoder.names.model, n):
        if encoder.preprocess.path == "nvjpeg":
            return torch.empty((n, 3, side, side), dtype=torch.uint8, device=encoder.device)
        dtype = pixel_dtype(encoder.preprocess)
        rows = torch.empty((n, side, side, 3), dtype=dtype, pin_memory=on_gpu)
    return rows.permute(0, 3, 1, 2)


def launcher(encoder: Encoder) -> Launch:
    """Give what starts batches.

    It is for use in a :func:`~linprobe_extract.device_memory.memory_of`, which makes the encoder's
    device the current one, and all errors of memory, then or when collected, one.
    """
    return _gpu_launcher(encoder) if encoder.device.type == "cuda" else _cpu_launcher(encoder)


def encode_images(encoder: Encoder, pixels: torch.Tensor) -> Mapping[str, FeatureArray]:
    """Encode a batch and wait for it, in halves where the device has no room for all of it.

    Takes uint8 pixels (b, 3, s, s) of the host, b at least 1; gives features (b, d) per tap in the
    storage dtype. A DeviceMemoryError is raised if there is no room for one image.
    """
    launch, size = launcher(encoder), len(pixels)
    while True:
        try:
            with memory_of(encoder.device, encoder.names.model, size):
                batches = [launch(batch).collect() for batch in torch.split(pixels, size)]
            break
        except DeviceMemoryError:
            if size == 1:
                raise
        free_memory()
        size = (size + 1) // 2
    return {name: np.concatenate([each[name] for each in batches]) for name in batches[0]}


def _cpu_launcher(encoder: Encoder) -> Launch:
    dtype = getattr(torch, encoder.spec.storage_dtype)

    def launch(pixels: torch.Tensor) -> Flight:
        with torch.inference_mode():
            taps = encoder.encode_pixels(pixels)
            features = {name: tap.to(dtype).numpy() for name, tap in taps.items()}
        return Flight(lambda: True, lambda: features)

    return launch


def _gpu_launcher(encoder: Encoder) -> Launch:
    dtype = getattr(torch, encoder.spec.storage_dtype)
    upload = torch.cuda.Stream(encoder.device)  # type: ignore[no-untyped-call]

    def launch(pixels: torch.Tensor) -> Flight:
        compute = torch.cuda.current_stream(encoder.device)
        with torch.cuda.stream(upload):
            on_device = pixels.to(encoder.device, non_blocking=True)
        compute.wait_stream(upload)
        # The allocator must not hand this memory out again while the forward pass reads it.
        on_device.record_stream(compute)
        host = {}
        with torch.inference_mode():
            for name, tap in encoder.encode_pixels(on_device).items():
                host[name] = torch.empty(tap.shape, dtype=dtype, pin_memory=True)
                host[name].copy_(tap.to(dtype), non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(compute)

        def collect() -> Mapping[str, FeatureArray]:
            done.synchronize()
            return {name: tap.numpy() for name, tap in host.items()}

        return Flight(done.query, collect)

    return launch
