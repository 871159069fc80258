"""The encoder: a frozen tower with its preprocessing, on a device, whatever library it is of."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from linprobe.errors import LinprobeError
from linprobe.machine import Device, available_cores, keep_freed_memory
from linprobe.terminal import command
from linprobe_extract.device_memory import memory_of
from linprobe_extract.encoders import family
from linprobe_extract.encoders.family import EncoderChoice, Precision, PreprocessPath
from linprobe_extract.pixels.canary import check_preprocess, with_canary
from linprobe_extract.pixels.preprocess import FAST_INTERPOLATIONS
from linprobe_store.format.spec import EncoderNames, EncoderSpec, PreprocessSpec, StorageDtype, Tap

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

    Attributes
    ----------
    preprocess : how the bytes of an image become the pixels of :meth:`encode`.
    image_size : side s of the square input, in pixels.
    batch_size : images a batch that fill the device, unless its memory is small.
    device : where the tower is, and where the pixels of :meth:`encode` must be.
    """

    def __init__(self, spec: EncoderSpec, names: EncoderNames, taps: nn.Module) -> None:
        if spec.preprocess is None:
            raise ValueError("an encoder that runs has a preprocessing")
        self.spec = spec
        self.names = names
        self.preprocess: PreprocessSpec = spec.preprocess
        self.image_size = spec.preprocess.image_size
        self.device = next(taps.parameters()).device
        self.batch_size = BATCH_SIZE[self.device.type]
        self._taps = taps
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
    ) -> "Encoder":
        """Load an encoder as ``linprobe extract`` does.

        Parameters
        ----------
        model : ``demo``, ``ViT-B/16``, ``ARCH:TAG``, ``timm:NAME``, ``hf-hub:ORG/REPO``, ...; see
            :mod:`linprobe_extract.encoders.family`.
        weights : checkpoint in place of the model's own, which is downloaded where need be.
        device : where to run; ``auto`` is CUDA where there is such a device.
        precision : arithmetic of the forward pass; ``auto`` is bf16 on GPUs that compute in it,
            else fp32. Part of the identity, as are the next two.
        preprocess : ``exact`` is the model's own transform, bit for bit; ``fast`` is within 4 gray
            levels of it, at a third of its cost; ``nvjpeg`` decodes JPEGs on the GPU, if there is
            one.
        storage_dtype : what features are stored in.

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
        choice = EncoderChoice(model, own, device, precision, preprocess, storage_dtype)
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
        # Kernels for channels-last memory round otherwise: the layout of a buffer is no choice.
        features = self._taps(self._normalised(pixels.contiguous()))
        return {tap.name: features[tap.name].float() for tap in self.spec.taps}

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale and normalise as torchvision's ``ToTensor`` and ``Normalize``, bit for bit.

        For bf16 as one multiply-add, which equals their order of steps after rounding to bf16.
        """
        if self.spec.precision == "bf16":
            scale = 1 / (255 * self._std)
            return torch.addcmul(-self._mean / self._std, pixels, scale).to(torch.bfloat16)
        return pixels.float().div_(255).sub_(self._mean).div_(self._std)


def load_encoder(choice: EncoderChoice, *, local_rank: int = 0) -> Encoder:
    """Load a model as :meth:`Encoder.load`, on this process's device.

    ``local_rank`` is the number of this process among those that share the machine's GPUs.
    """
    ref = family.resolve_model(choice.model, weights=choice.weights)
    device = _device(choice.device, local_rank)
    if choice.preprocess == "nvjpeg" and device.type != "cuda":
        problem = f"the nvjpeg preprocessing decodes on a CUDA device; this encoder is on {device}"
        raise LinprobeError(problem, hint="--preprocess fast, or a machine with a GPU")
    tower = family.families()[ref.family].load(ref)
    pixels = replace(tower.preprocess, path=choice.preprocess)
    if pixels.path != "exact" and pixels.interpolation not in FAST_INTERPOLATIONS:
        problem = f"the {pixels.path} path cannot resize with {pixels.interpolation}"
        raise LinprobeError(problem, hint="--preprocess exact")
    check_preprocess(pixels, tower.reference)
    # cuDNN would round the operands of fp32 convolutions to TF32's 10 bits of mantissa.
    torch.backends.cudnn.allow_tf32 = False
    taps = tower.taps.eval()
    with memory_of(device, ref.names.model, 1):
        precision = _place(taps, device, choice.precision)
        measured = _measure(taps, pixels.image_size, precision)
    spec = EncoderSpec(
        architecture=tower.architecture,
        config=tower.config,
        activation=tower.activation,
        weights_sha256=tower.weights_sha256,
        taps=measured,
        preprocess=with_canary(pixels),
        precision=precision,
        storage_dtype=choice.storage_dtype,
    )
    return Encoder(spec, ref.names, taps)


def load_untrained(choice: EncoderChoice) -> tuple[nn.Module, int]:
    """Build the taps of a model with random weights on its device, and tell the input's side.

    A LinprobeError is raised if the model cannot be built or the device is not there.
    """
    ref = family.resolve_model(choice.model, weights=choice.weights)
    device = _device(choice.device)
    taps, side = family.families()[ref.family].untrained(ref)
    _place(taps, device, choice.precision)
    return taps, side


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


def _place(taps: nn.Module, device: torch.device, asked: Precision) -> Literal["fp32", "bf16"]:
    """Cast the weights and put them on the device; tell in which precision they are."""
    # Ampere (compute capability 8.0) was the first to multiply in bf16.
    on_gpu = device.type == "cuda"
    fast = asked == "auto" and on_gpu and torch.cuda.get_device_capability(device)[0] >= 8
    precision: Literal["fp32", "bf16"] = "bf16" if fast or asked == "bf16" else "fp32"
    if precision == "bf16":
        taps.to(torch.bfloat16)
        for module in taps.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the common base
                module.float()  # the statistics stay in float32
    taps.to(device)
    return precision


def _measure(taps: nn.Module, side: int, precision: str) -> tuple[Tap, ...]:
    """Encode one gray image: the dimensions of the taps, and proof that the weights work."""
    parameter = next(taps.parameters())
    ramp = torch.linspace(-1, 1, side * side, device=parameter.device).view(1, 1, side, side)
    with torch.inference_mode():
        features = taps(ramp.repeat(1, 3, 1, 1).to(parameter.dtype))
    for name, feature in features.items():
        if feature.ndim != 2:
            problem = f"the {name} of one image has the shape {tuple(feature.shape)}"
            hint = "linprobe takes towers that pool to one vector"
            raise LinprobeError(f"{problem}, expected (1, d)", hint=hint)
        if not bool(feature.isfinite().all()):
            hint = "is the checkpoint whole, and --model its architecture? try --precision fp32"
            problem = f"the {name} of a gray ramp has infinities or NaN, in {precision}"
            raise LinprobeError(problem, hint=hint)
    return tuple(Tap(name, feature.shape[1]) for name, feature in features.items())
