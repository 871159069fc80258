"""From a choice to an encoder: loaded, proved, put on a device, and known to a store."""

import platform
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from linprobe.errors import LinprobeError
from linprobe.machine import Device, available_cores, keep_freed_memory
from linprobe.terminal import command
from linprobe_extract.encoders.device import launcher
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import (
    EncoderChoice,
    Precision,
    families,
    libraries,
    resolve_model,
)
from linprobe_extract.pixels.canary import canary_images, check_preprocess, with_canary
from linprobe_extract.pixels.preprocess import FAST_INTERPOLATIONS, preprocess
from linprobe_store.format.spec import EncoderSpec, FeatureArray, Tap
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.witness import Provenance


def load(choice: EncoderChoice, *, local_rank: int = 0) -> Encoder:
    """Load a model, prove its preprocessing, and put it on this process's device.

    Parameters
    ----------
    choice : which encoder, and how.
    local_rank : number of this process among those of the machine, which share its GPUs.

    Raises
    ------
    LinprobeError : the model is unknown or cannot be loaded, the device is not there, the
        preprocessing differs from the model's own, or the tower gives no finite feature vectors.
    """
    ref = resolve_model(choice.model, weights=choice.weights)
    device = _device(choice.device, local_rank)
    tower = families()[ref.family].load(ref)
    pixels = replace(tower.preprocess, path=choice.preprocess)
    if pixels.path == "fast" and pixels.interpolation not in FAST_INTERPOLATIONS:
        raise LinprobeError(
            f"the fast path cannot resize with {pixels.interpolation}", hint="--preprocess exact"
        )
    check_preprocess(pixels, tower.reference)
    precision = _precision(choice.precision, device)
    # cuDNN would round the operands of fp32 convolutions to TF32's 10 bits of mantissa.
    torch.backends.cudnn.allow_tf32 = False
    taps = _cast(tower.taps.eval(), precision).to(device)
    spec = EncoderSpec(
        architecture=tower.architecture,
        config=tower.config,
        activation=tower.activation,
        weights_sha256=tower.weights_sha256,
        taps=_measure(taps, pixels.image_size, precision),
        preprocess=with_canary(pixels),
        precision=precision,
        storage_dtype=choice.storage_dtype,
    )
    return Encoder(spec, ref.names, taps)


def load_untrained(choice: EncoderChoice) -> tuple[nn.Module, int]:
    """Build a model's tower with random weights on a device, in the precision chosen.

    Returns
    -------
    The tower, from normalised pixels (b, 3, s, s) to features by tap; and s.

    Raises
    ------
    LinprobeError : the model is unknown or cannot be built, or the device is not there.
    """
    ref = resolve_model(choice.model, weights=choice.weights)
    device = _device(choice.device)
    taps, side = families()[ref.family].untrained(ref)
    return _cast(taps, _precision(choice.precision, device)).to(device), side


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


def _device(wanted: Device, local_rank: int = 0) -> torch.device:
    """Choose and check this process's device, and set torch up for it."""
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cuda" and not n_devices:
        raise LinprobeError(
            f"device cuda asked for; torch {torch.__version__} sees 0 CUDA devices",
            hint=f"--device cpu, or {command('doctor')}",
        )
    keep_freed_memory()
    if wanted == "cpu" or not n_devices:
        # Sums over more threads round otherwise: every process of a run takes the same number,
        # whatever torchrun sets, so that their number changes no bit.
        torch.set_num_threads(available_cores())
        return torch.device("cpu")
    # A scheduler that gives each process a GPU of its own shows it as the first.
    return torch.device("cuda", local_rank % n_devices)


def _precision(asked: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """Resolve ``auto``: Ampere (compute capability 8.0) was the first to multiply in bf16."""
    if asked != "auto":
        return asked
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
    return "bf16" if fast else "fp32"


def _cast(taps: nn.Module, precision: str) -> nn.Module:
    """Cast the weights once; batch norm keeps its statistics in float32."""
    if precision == "bf16":
        taps.to(torch.bfloat16)
        for module in taps.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the common base
                module.float()
    return taps


def _measure(taps: nn.Module, side: int, precision: str) -> tuple[Tap, ...]:
    """Encode one gray image: the dimensions of the taps, and proof that the weights work."""
    parameter = next(taps.parameters())
    ramp = torch.linspace(-1, 1, side * side, device=parameter.device).view(1, 1, side, side)
    with torch.inference_mode():
        features = taps(ramp.repeat(1, 3, 1, 1).to(parameter.dtype))
    for name, feature in features.items():
        if feature.ndim != 2:
            raise LinprobeError(
                f"the {name} of one image has the shape {tuple(feature.shape)}, expected (1, d)",
                hint="linprobe takes towers that pool to one vector",
            )
        if not bool(feature.isfinite().all()):
            raise LinprobeError(
                f"the {name} of a gray ramp has infinities or NaN, in {precision}",
                hint="is the checkpoint whole, and --model its architecture? try --precision fp32",
            )
    return tuple(Tap(name, feature.shape[1]) for name, feature in features.items())
