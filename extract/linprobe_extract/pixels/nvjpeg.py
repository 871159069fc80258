"""JPEGs decoded on the GPU by nvJPEG, through torchvision, whose list call batches them.

torchvision says that torchcodec will take its place; there one call decodes one image.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from linprobe_extract.device_memory import is_out_of_memory

DEVICE = "cuda"
"""Where built-in images are decoded: the current GPU."""
MAX_PIXELS = 1 << 24
"""A larger photograph is for the host: its float pixels would take 200 MB and more of the GPU."""

_END_OF_IMAGE = b"\xff\xd9"
_thread = threading.local()


def is_whole(data: bytes) -> bool:
    """Whether a JPEG ends with its end: nvJPEG makes up what a cut one lacks."""
    return data.rstrip(b"\0")[-2:] == _END_OF_IMAGE


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Queue this thread's work beside the encoder's, on ``device``, and wait for it."""
    if device.type != "cuda":
        yield
        return
    streams = _thread.__dict__.setdefault("streams", {})
    stream = streams.get(device) or torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    streams[device] = stream
    with torch.cuda.stream(stream):
        yield
        stream.synchronize()


def decode(images: Sequence[bytes], device: torch.device) -> list[torch.Tensor | None]:
    """Decode JPEGs to uint8 RGB pixels (3, height, width) on ``device``, queued on its stream.

    None for what nvJPEG refuses. Where memory is short, torch's own errors are raised.
    """
    try:
        return list(_decode(images, device))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
    # The call gives all or nothing: which of them was it?
    return [None] if len(images) == 1 else [decode([image], device)[0] for image in images]


def _decode(images: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg  # a third of a second, and few ask

    encoded = [torch.frombuffer(bytearray(image), dtype=torch.uint8) for image in images]
    pixels: list[torch.Tensor] = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
    return pixels
