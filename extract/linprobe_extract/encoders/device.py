"""The encoder on its device: launch a batch now, collect its features later (a CPU: at once)."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch

from linprobe_extract.encoders.encoder import Encoder
from linprobe_store.format.spec import FeatureArray

Collect: TypeAlias = Callable[[], Mapping[str, FeatureArray]]
"""Wait for one batch; features (b, d) per tap in the storage dtype, in host memory."""
Launch: TypeAlias = Callable[[torch.Tensor], Collect]
"""Start one batch of uint8 pixels (b, 3, s, s), which must stay untouched until collected."""


def empty_pixels(n: int, side: int, *, pin_memory: bool = False) -> torch.Tensor:
    """Give room for uint8 pixels (n, 3, side, side), for decoders to write and the device to read.

    In memory the three channels of a pixel lie side by side, as decoders write them: the device
    turns them to planes (:meth:`Encoder.encode`), at no cost to the threads that decode.
    """
    shape = (n, side, side, 3)
    return torch.empty(shape, dtype=torch.uint8, pin_memory=pin_memory).permute(0, 3, 1, 2)


def launcher(encoder: Encoder) -> Launch:
    """Give what starts batches; torch.OutOfMemoryError, then or later, if one does not fit."""
    dtype = getattr(torch, encoder.spec.storage_dtype)
    if encoder.device.type == "cuda":
        return _cuda_launcher(encoder, dtype)

    def launch(pixels: torch.Tensor) -> Collect:
        with torch.inference_mode():
            taps = encoder.encode(pixels.to(encoder.device))
            features = {name: tap.to("cpu", dtype).numpy() for name, tap in taps.items()}
        return lambda: features

    return launch


def _cuda_launcher(encoder: Encoder, dtype: torch.dtype) -> Launch:
    upload = torch.cuda.Stream(encoder.device)  # type: ignore[no-untyped-call]

    def launch(pixels: torch.Tensor) -> Collect:
        compute = torch.cuda.current_stream(encoder.device)
        with torch.inference_mode():
            with torch.cuda.stream(upload):
                on_device = pixels.to(encoder.device, non_blocking=True)
            compute.wait_stream(upload)
            # The allocator must not hand this memory out again while the forward pass reads it.
            on_device.record_stream(compute)
            host = {}
            for name, tap in encoder.encode(on_device).items():
                host[name] = torch.empty(tap.shape, dtype=dtype, pin_memory=True)
                host[name].copy_(tap.to(dtype), non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(compute)

        def collect() -> Mapping[str, FeatureArray]:
            done.synchronize()
            return {name: tap.numpy() for name, tap in host.items()}

        return collect

    return launch
