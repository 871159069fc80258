"""The encoder: a frozen tower with its preprocessing, on a device, whatever library it is of."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from msgspec import UNSET
from torch import nn

from linprobe.errors import LinprobeError
from linprobe.machine import Device, available_cores, keep_freed_memory
from linprobe.terminal import command
from linprobe_extract.device_memory import memory_of
from linprobe_extract.encoders import family
from linprobe_extract.encoders.family import EncoderChoice, Precision, PreprocessPath
from linprobe_extract.encoders.precision import (
    DTYPES,
    PrecisionPlan,
    device_facts,
    place_tower,
    plan_precision,
)
from linprobe_extract.encoders.tower import choose_taps
from linprobe_extract.encoders.weights import first_line
from linprobe_extract.pixels.canary import canary_pixels, check_preprocess, with_canary
from linprobe_extract.pixels.preprocess import FAST_INTERPOLATIONS
from linprobe_store.format.spec import EncoderNames, EncoderSpec, PreprocessSpec, StorageDtype, Tap
from linprobe_store.format.taps import expand_taps, is_block

BATCH_SIZE = {"cuda": 256, "cpu": 16}
"""Images a batch by kind of device: enough to fill it, small enough for its memory."""


class Encoder:
    """A frozen vision tower with its preprocessing, on a device; made by :meth:`load`.

    Parameters
    ----------
    spec : what the features are a function of, with a preprocessing. ``spec.encoder_id`` is its
        sha256: encoders of one id give the same features, but for the rounding of another device.
    names : what people call the encoder.
    taps : maps normalised pixels (b, 3, s, s), in the arithmetic of ``spec.precision``, to features
        (b, d) by tap; in evaluation mode, and on its device.
    layout : how the grids that enter the tower lie in memory.
    precision_reason : why ``spec.precision`` is what it is, in a few words.

    Attributes
    ----------
    preprocess : how the bytes of an image become the pixels of :meth:`encode`.
    image_size : side s of the square input, in pixels.
    batch_size : images a batch that fill the device, unless its memory is small.
    device : where the tower is, and where the pixels of :meth:`encode` must be.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        names: EncoderNames,
        taps: nn.Module,
        *,
        layout: torch.memory_format = torch.contiguous_format,
        precision_reason: str = "as asked",
    ) -> None:
        if spec.preprocess is None:
            raise ValueError("an encoder that runs has a preprocessing")
        self.spec = spec
        self.names = names
        self.precision_reason = precision_reason
        self.preprocess: PreprocessSpec = spec.preprocess
        self.image_size = spec.preprocess.image_size
        self.device = next(taps.parameters()).device
        self.batch_size = BATCH_SIZE[self.device.type]
        self._taps = taps
        self._layout = layout
        self._mean, self._std = (
            torch.tensor(channels, dtype=torch.float32, device=self.device).view(3, 1, 1)
            for channels in (self.preprocess.mean, self.preprocess.std)
        )

    @classmethod
    def load(
        cls,
        model: str,
        *,
        weights: Path | str | None = None,
        device: Device = "auto",
        precision: Precision = "auto",
        preprocess: PreprocessPath = "fast",
        storage_dtype: StorageDtype = "float16",
        taps: Sequence[str] = (),
    ) -> "Encoder":
        """Load an encoder as ``linprobe extract`` does.

        Parameters
        ----------
        model : ``demo``, ``ViT-B/16``, ``ARCH:TAG``, ``timm:NAME``, ``hf-hub:ORG/REPO``, ...; see
            :mod:`linprobe_extract.encoders.family`.
        weights : checkpoint in place of the model's own, which is downloaded where need be.
        device : where to run; ``auto`` is CUDA where there is such a device. It is made the current
            one, as ``torch.cuda.set_device`` does.
        precision : arithmetic of the forward pass; ``auto`` is that of the device and the tower
            by :func:`~linprobe_extract.encoders.precision.plan_precision`. Part of the identity,
            as are the next two.
        preprocess : ``exact`` is the model's own transform, bit for bit; ``fast`` is within 4 gray
            levels of it, at a third of its cost; ``nvjpeg`` decodes JPEGs on the GPU, if there is
            one.
        storage_dtype : what features are stored in.
        taps : points of the tower to take features from, such as ``("embedding", "last4")``; see
            :class:`~linprobe_extract.encoders.tower.TokenTaps`. () for what the model itself gives.

        Returns
        -------
        The encoder, on its device.

        Raises
        ------
        LinprobeError
            The model is unknown or cannot be loaded, the device is not there, the preprocessing
            differs from the model's own, or the tower gives no finite feature vectors.
        """
        own = None if weights is None else Path(weights)
        choice = EncoderChoice(
            model, own, device, precision, preprocess, storage_dtype, tuple(taps)
        )
        return load_encoder(choice)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Encode a batch of images, queued on the device's current stream.

        Parameters
        ----------
        pixels : uint8 (b, 3, s, s) on :attr:`device`, RGB in 0..255, preprocessed; any strides.

        Returns
        -------
        By tap, in the order of ``spec.taps``: float32 features (b, d) on the device, un-normalised.
        """
        # Kernels for another layout round otherwise: that of a buffer is no choice.
        features = self._taps(self._normalised(pixels.contiguous(memory_format=self._layout)))
        return {name: feature.float() for name, feature in features.items()}

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale and normalise as torchvision's ``ToTensor`` and ``Normalize``, bit for bit.

        For bf16 as one multiply-add, which equals their order of steps after rounding to bf16.
        """
        if self.spec.precision == "bf16":
            scale = 1 / (255 * self._std)
            return torch.addcmul(-self._mean / self._std, pixels, scale).to(torch.bfloat16)
        normalised = pixels.float().div_(255).sub_(self._mean).div_(self._std)
        return normalised.half() if self.spec.precision == "fp16" else normalised


def load_encoder(choice: EncoderChoice, *, local_rank: int = 0) -> Encoder:
    """Load a model as :meth:`Encoder.load`, on this process's device.

    ``local_rank`` is the number of this process among those that share the machine's GPUs.
    """
    ref = family.resolve_model(choice.model, weights=choice.weights)
    device = _device(choice.device, local_rank)
    if choice.preprocess == "nvjpeg" and device.type != "cuda":
        problem = f"the nvjpeg preprocessing decodes on a CUDA device; this encoder is on {device}"
        raise LinprobeError(problem, hint="--preprocess fast, or a machine with a GPU")
    load = family.families()[ref.family].load
    tower = load(ref)
    asked = expand_taps(choice.taps, tower.n_blocks)
    pixels = replace(tower.preprocess, path=choice.preprocess)
    if pixels.path != "exact" and pixels.interpolation not in FAST_INTERPOLATIONS:
        problem = f"the {pixels.path} path cannot resize with {pixels.interpolation}"
        raise LinprobeError(problem, hint="--preprocess exact")
    with memory_of(device, ref.names.model, 1):
        check_preprocess(pixels, tower.reference)
        spec = EncoderSpec(
            architecture=tower.architecture,
            config=tower.config,
            activation=tower.activation,
            weights_sha256=tower.weights_sha256,
            taps=(),
            preprocess=with_canary(pixels),
            precision="fp32",
            storage_dtype=choice.storage_dtype,
            n_blocks=tower.n_blocks if any(map(is_block, asked)) else UNSET,
        )
        *plans, last = plan_precision(choice.precision, device_facts(device), pixels.path)
        for plan in plans:
            with suppress(_UnfitError):
                return _place(choose_taps(tower, choice.taps), spec, ref.names, plan, device)
            tower = load(ref)  # a cast cannot be undone
        return _place(choose_taps(tower, choice.taps), spec, ref.names, last, device)


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
) -> Encoder:
    """Make the encoder of a plan, its taps measured by the built-in images."""
    assert spec.preprocess is not None
    layout = place_tower(taps, device, plan.precision, spec.preprocess.path)
    spec = replace(spec, precision=plan.precision)
    encoder = Encoder(spec, names, taps, layout=layout, precision_reason=plan.reason)
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
        each = [encoder.encode(image[None]) for image in images]
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
