"""Making an encoder known to a store, and proving that it gives the features it gave before."""

import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from linprobe_extract.encoders.device import launcher
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import libraries
from linprobe_extract.pixels.canary import canary_images
from linprobe_extract.pixels.preprocess import preprocess
from linprobe_store.format.spec import FeatureArray
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.witness import Provenance


def register(encoder: Encoder, store: Path, *, batch_size: int) -> StoredEncoder:
    """Make the encoder known to a store, prove that it gives the features it gave before, record.

    Raises
    ------
    MismatchError : the canary features differ from those that the store has of this encoder.
    StoreError : the store cannot be written to.
    """
    stored = FeatureStore(store).register_encoder(encoder.spec, encoder.names)
    stored.check_canary(_canary_features(encoder))
    stored.record_provenance(
        Provenance(
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            host=platform.node(),
            device=_device_name(encoder.device),
            argv=tuple(sys.argv),
            versions={"python": platform.python_version(), **libraries()},
            batch_size=batch_size,
        )
    )
    return stored


def _canary_features(encoder: Encoder) -> Mapping[str, FeatureArray]:
    """Features (m, d) of the built-in images, by tap."""
    images = canary_images()
    side = encoder.image_size
    pixels = torch.zeros((len(images), 3, side, side), dtype=torch.uint8)
    for slot, image in zip(pixels, images, strict=True):
        preprocess(encoder.preprocess, image, slot)
    return launcher(encoder)(pixels)()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
