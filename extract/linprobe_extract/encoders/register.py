"""Making an encoder known to a store."""

import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from linprobe_extract.encoders.device import encode_images
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import libraries
from linprobe_extract.pixels.canary import canary_pixels
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.witness import Provenance


def canary_rate(encoder: Encoder) -> float | None:
    """Images per second, from the few of the canary: a forecast for a CPU; None for a GPU.

    They were encoded before, when the encoder was loaded: nothing is slow for being first.
    """
    if encoder.device.type != "cpu":
        return None
    pixels, started = canary_pixels(encoder.preprocess), time.perf_counter()
    encoder.encode_pixels(pixels)
    return len(pixels) / (time.perf_counter() - started)


def register(encoder: Encoder, store: Path, *, batch_size: int) -> StoredEncoder:
    """Make an encoder known to a store, and record it, if its canary features are those stored.

    Else a MismatchError is raised; a StoreError if the store cannot be written to, and a
    DeviceMemoryError if the device has no room for one image.
    """
    pixels = canary_pixels(encoder.preprocess)
    stored = FeatureStore(store).register_encoder(encoder.spec, encoder.names)
    stored.check_canary(encode_images(encoder, pixels))
    on_gpu = encoder.device.type == "cuda"
    stored.record_provenance(
        Provenance(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            host=platform.node(),
            device=torch.cuda.get_device_name(encoder.device) if on_gpu else "cpu",
            argv=tuple(sys.argv),
            versions={"python": platform.python_version(), **libraries()},
            batch_size=batch_size,
        )
    )
    return stored
