"""Making an encoder known to a store."""

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from linprobe_extract.encoders.device import encode_images, pixel_room
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import libraries
from linprobe_extract.pixels.canary import canary_images
from linprobe_extract.pixels.preprocess import preprocess
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.witness import Provenance


def register(encoder: Encoder, store: Path, *, batch_size: int) -> StoredEncoder:
    """Make an encoder known to a store, and record it, if its canary features are those stored.

    Else a MismatchError is raised; a StoreError if the store cannot be written to, and a
    DeviceMemoryError if the device has no room for one image.
    """
    images = canary_images()
    pixels = pixel_room(encoder, len(images))
    for slot, image in zip(pixels, images, strict=True):
        preprocess(encoder.preprocess, image, slot)
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
