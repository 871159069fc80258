"""Loading an encoder: its tower, checked, cast and put on this process's device."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch
from msgspec import UNSET
from torch import nn

from linprobe.errors import LinprobeError
from linprobe.machine import Device, available_cores, keep_freed_memory
from linprobe.terminal import command
from linprobe_extract.device_memory import memory_of
from linprobe_extract.encoders import family
from linprobe_extract.encoders.encoder import BATCH_SIZE, Encoder
from linprobe_extract.encoders.family import EncoderChoice, PreprocessPath
from linprobe_extract.encoders.precision import (
    DTYPES,
    PrecisionPlan,
    device_facts,
    place_tower,
    plan_precision,
)
from linprobe_extract.encoders.tower import LoadedTower, choose_taps
from linprobe_extract.encoders.weights import first_line
from linprobe_extract.pixels.canary import canary_pixels, check_preprocess, with_canary
from linprobe_extract.pixels.own import OwnPixels
from linprobe_extract.pixels.preprocess import FAST_INTERPOLATIONS
from linprobe_store.format.spec import (
    EncoderNames,
    EncoderSpec,
    PreprocessSpec,
    Tap,
)
from linprobe_store.format.taps import expand_taps, is_block


def load_encoder(choice: EncoderChoice, *, local_rank: int = 0) -> Encoder:
    """Load a model as :class:`linprobe.Encoder` does, on this process's device.

    ``local_rank`` is the number of this process among those that share the machine's GPUs.
    """
    ref = family.resolve_model(choice.model, weights=choice.weights)
    load = family.families()[ref.family].load
    return place_encoder(partial(load, ref), ref.names, choice, local_rank=local_rank)


def place_encoder(
    load: Callable[[], LoadedTower],
    names: EncoderNames,
    choice: EncoderChoice,
    *,
    local_rank: int = 0,
) -> Encoder:
    """Put a tower on this process's device, as the choice says, and measure its taps.

    ``load`` gives the tower, perhaps twice: a cast cannot be undone.
    """
    device = _device(choice.device, local_rank)
    if choice.preprocess == "nvjpeg" and device.type != "cuda":
        problem = f"the nvjpeg preprocessing decodes on a CUDA device; this encoder is on {device}"
        raise LinprobeError(problem, hint="--preprocess fast, or a machine with a GPU")
    tower = load()
    asked = expand_taps(choice.taps, tower.n_blocks)
    with memory_of(device, names.model, 1):
        pixels = with_canary(_pixels_of(tower, choice.preprocess))
        spec = EncoderSpec(
            architecture=tower.architecture,
            config=tower.config,
            activation=tower.activation,
            weights_sha256=tower.weights_sha256,
            taps=(),
            preprocess=pixels.plain() if isinstance(pixels, OwnPixels) else pixels,
            precision="fp32",
            storage_dtype=choice.storage_dtype,
            n_blocks=tower.n_blocks if any(map(is_block, asked)) else UNSET,
        )
        plans = plan_precision(choice.precision, device_facts(device), pixels.path)
        if choice.precision == "auto" and not tower.may_cast:
            plans = (PrecisionPlan("fp32", "a module of one's own computes as it is"),)
        for plan in plans[:-1]:
            with suppress(_UnfitError):
                return _place(choose_taps(tower, choice.taps), spec, names, plan, device, pixels)
            tower = load()
        return _place(choose_taps(tower, choice.taps), spec, names, plans[-1], device, pixels)


def _pixels_of(tower: LoadedTower, path: PreprocessPath) -> PreprocessSpec:
    """The preprocessing of a tower by a path, checked against the model's own."""
    if tower.reference is None:
        if path == "nvjpeg":
            problem = f"{tower.architecture} takes pixels of a transform alone, by its own library"
            raise LinprobeError(problem, hint="--preprocess fast")
        return tower.preprocess
    pixels = replace(tower.preprocess, path=path)
    if pixels.path != "exact" and pixels.interpolation not in FAST_INTERPOLATIONS:
        problem = f"the {pixels.path} path cannot resize with {pixels.interpolation}"
        raise LinprobeError(problem, hint="--preprocess exact")
    check_preprocess(pixels, tower.reference)
    return pixels


@dataclass(frozen=True)
class UntrainedTower:
    """A tower with random weights, to be timed."""

    taps: nn.Module
    """On its device."""
    pixels: torch.Tensor
    """A batch (b, 3, s, s) for it, as a run makes them."""
    plan: PrecisionPlan
    """What it computes in; its weights do not tell whether they overflow."""


def load_untrained(choice: EncoderChoice) -> UntrainedTower:
    """Build the taps of a model with random weights on its device, as a run would place them.

    A LinprobeError is raised if the model cannot be built or the device is not there.
    """
    ref = family.resolve_model(choice.model, weights=choice.weights)
    device = _device(choice.device)
    taps, side = family.families()[ref.family].untrained(ref)
    plan = plan_precision(choice.precision, device_facts(device), choice.preprocess)[0]
    layout = place_tower(taps, device, plan.precision, choice.preprocess)
    shape = (BATCH_SIZE[device.type], 3, side, side)
    pixels = torch.zeros(shape, dtype=DTYPES[plan.precision], device=device)
    return UntrainedTower(taps, pixels.contiguous(memory_format=layout), plan)


def _device(wanted: Device, local_rank: int = 0) -> torch.device:
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cuda" and not n_devices:
        problem = f"device cuda asked for; torch {torch.__version__} sees 0 CUDA devices"
        raise LinprobeError(problem, hint=f"--device cpu, or {command('doctor')}")
    keep_freed_memory()
    if wanted == "cpu" or not n_devices:
        # Sums over more threads round otherwise: every process takes the same number of them.
        torch.set_num_threads(available_cores())
        return torch.device("cpu")
    # A scheduler that gives each process a GPU of its own shows it as the first.
    device = torch.device("cuda", local_rank % n_devices)
    # Before anything makes a context or page-locks memory: it would be on the first GPU.
    torch.cuda.set_device(device)
    return device


def _place(
    taps: nn.Module,
    spec: EncoderSpec,
    names: EncoderNames,
    plan: PrecisionPlan,
    device: torch.device,
    pixels: PreprocessSpec,
) -> Encoder:
    """Make the encoder of a plan, its taps measured by the built-in images."""
    layout = place_tower(taps, device, plan.precision, pixels.path)
    spec = replace(spec, precision=plan.precision)
    encoder = Encoder(spec, names, taps, pixels=pixels, layout=layout, precision_reason=plan.reason)
    encoder.spec = replace(spec, taps=_measure(encoder))
    return encoder


class _UnfitError(LinprobeError):
    """A tower does not compute in a precision."""


def _measure(encoder: Encoder) -> tuple[Tap, ...]:
    """Encode the built-in images: the dimensions of the taps, and proof that the weights work."""
    precision = encoder.spec.precision
    try:
        images = canary_pixels(encoder.preprocess).to(encoder.device)
        # One by one: a device has room for no more than one, perhaps.
        each = [encoder.encode_pixels(image[None]) for image in images]
        features = {name: torch.cat([taps[name] for taps in each]) for name in each[0]}
    except RuntimeError as error:
        if encoder.device.type != "cpu":  # there it may be the memory, which decides nothing
            raise
        problem = f"this tower does not run in {precision} on a CPU: {first_line(error)}"
        raise _UnfitError(problem, hint="--precision fp32") from error
    for name, feature in features.items():
        if feature.ndim != 2:
            problem = f"the {name} of images has the shape {tuple(feature.shape)}"
            hint = "linprobe takes towers that pool to one vector"
            raise LinprobeError(f"{problem}, expected (b, d)", hint=hint)
        if not bool(feature.isfinite().all()):
            hint = "is the checkpoint whole, and --model its architecture? try --precision fp32"
            problem = f"the {name} of built-in images has infinities or NaN"
            raise _UnfitError(f"{problem}, in {precision}", hint=hint)
    return tuple(Tap(name, feature.shape[1]) for name, feature in features.items())
