"""From a request to a loaded encoder that the store knows and that gives the features it gave."""

import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from linprobe.machine import available_cores, keep_freed_memory
from linprobe_extract.encoders.device import launcher
from linprobe_extract.encoders.encoder import Encoder, load_encoder
from linprobe_extract.encoders.family import EncoderChoice, libraries, resolve_model
from linprobe_extract.pixels.canary import canary_images
from linprobe_extract.pixels.preprocess import preprocess
from linprobe_store.format.spec import FeatureArray
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.witness import Provenance


def load(choice: EncoderChoice, *, local_rank: int = 0) -> Encoder:
    """Load an encoder, on this process's device.

    Raises
    ------
    LinprobeError : unknown model, missing or unfit weights, failed download, absent device.
    """
    reference = resolve_model(choice.model, weights=choice.weights)
    use_cuda = choice.device == "cuda" or (choice.device == "auto" and torch.cuda.is_available())
    keep_freed_memory()
    if not use_cuda:
        # Sums over more threads round otherwise: every process of a run takes the same number,
        # whatever torchrun sets, so that their number changes no bit.
        torch.set_num_threads(available_cores())
    return load_encoder(
        reference,
        # A scheduler that gives each process a GPU of its own shows it as the first.
        device=f"cuda:{local_rank % max(1, torch.cuda.device_count())}" if use_cuda else "cpu",
        precision=choice.precision,
        preprocess=choice.preprocess,
        storage_dtype=choice.storage_dtype,
    )


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
