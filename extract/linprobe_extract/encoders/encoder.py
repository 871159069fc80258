"""The encoder: a frozen tower with its preprocessing, behind one small contract.

It knows no library of models: a family loads the tower (:mod:`linprobe_extract.encoders.family`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, Protocol

import torch
from torch import nn

from linprobe.errors import LinprobeError
from linprobe_extract.encoders.family import ModelRef, Precision, PreprocessPath, families
from linprobe_extract.pixels.canary import check_preprocess, with_canary
from linprobe_extract.pixels.preprocess import FAST_INTERPOLATIONS
from linprobe_store.format.spec import EncoderNames, EncoderSpec, PreprocessSpec, StorageDtype, Tap


class Encoder(Protocol):
    """What the pipeline needs of an encoder."""

    @property
    def spec(self) -> EncoderSpec:
        """What the features are a function of."""

    @property
    def names(self) -> EncoderNames:
        """What people call it."""

    @property
    def preprocess(self) -> PreprocessSpec:
        """How bytes become the pixels of :meth:`encode`: ``spec.preprocess``, never None."""

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""

    @property
    def device(self) -> torch.device:
        """Where the tower is, and where the pixels must be."""

    def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Encode a batch.

        Parameters
        ----------
        pixels : uint8 (b, 3, s, s) on :attr:`device`, any strides, as preprocessed.

        Returns
        -------
        Per tap of ``spec.taps``, in that order, float32 features (b, d) on the device,
        un-normalised. Nothing waits for the device: work is queued on the current stream.
        """


class TowerEncoder:
    """An :class:`Encoder` around a loaded tower; made by :func:`load_encoder`."""

    def __init__(self, spec: EncoderSpec, names: EncoderNames, taps: nn.Module) -> None:
        if spec.preprocess is None:
            raise ValueError("an encoder that runs has a preprocessing")
        self.spec = spec
        self.names = names
        self.preprocess = spec.preprocess
        self.image_size = spec.preprocess.image_size
        self._taps = taps
        self.device = next(taps.parameters()).device
        self._mean = _channels(self.preprocess.mean, self.device)
        self._std = _channels(self.preprocess.std, self.device)
        self._bf16 = spec.precision == "bf16"

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Encode a batch; see :meth:`Encoder.encode`."""
        # Kernels for channels-last memory round otherwise: the layout of a buffer is no choice.
        features: Mapping[str, torch.Tensor] = self._taps(self._normalised(pixels.contiguous()))
        return {tap.name: features[tap.name].float() for tap in self.spec.taps}

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale to [0, 1], subtract the mean, divide by the standard deviation.

        In fp32, in the order of torchvision's ``ToTensor`` and ``Normalize``, bit for bit. For
        bf16 as one multiply-add over the batch, which equals that order after rounding to bf16.
        """
        if self._bf16:
            scale = 1 / (255 * self._std)
            return torch.addcmul(-self._mean / self._std, pixels, scale).to(torch.bfloat16)
        return pixels.float().div_(255).sub_(self._mean).div_(self._std)


def load_encoder(
    ref: ModelRef,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    preprocess: PreprocessPath = "fast",
    storage_dtype: StorageDtype = "float16",
) -> Encoder:
    """Load a model, prove its preprocessing, and put it on a device.

    Parameters
    ----------
    ref : from :func:`linprobe_extract.encoders.family.resolve_model`.
    device : ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, or ``cuda:N``.
    precision : ``auto`` is bf16 on GPUs that compute in it, fp32 elsewhere.
    preprocess : which path images take; part of the identity.
    storage_dtype : what the features will be stored in; part of the identity.

    Raises
    ------
    LinprobeError : the model cannot be loaded, the device is not there, the preprocessing differs
        from the model's own, or the tower gives no finite feature vectors.
    """
    place = _device(device)
    tower = families()[ref.family].load(ref)
    pixels = replace(tower.preprocess, path=preprocess)
    if preprocess == "fast" and pixels.interpolation not in FAST_INTERPOLATIONS:
        raise LinprobeError(
            f"the fast path cannot resize with {pixels.interpolation}", hint="--preprocess exact"
        )
    check_preprocess(pixels, tower.reference)
    arithmetic = _precision(precision, place)
    # cuDNN would round the operands of fp32 convolutions to TF32's 10 bits of mantissa.
    torch.backends.cudnn.allow_tf32 = False
    taps = _cast(tower.taps.eval(), arithmetic).to(place)
    spec = EncoderSpec(
        architecture=tower.architecture,
        config=tower.config,
        activation=tower.activation,
        weights_sha256=tower.weights_sha256,
        taps=(),
        preprocess=with_canary(pixels),
        precision=arithmetic,
        storage_dtype=storage_dtype,
    )
    return TowerEncoder(replace(spec, taps=_measure(taps, spec)), ref.names, taps)


def load_untrained(ref: ModelRef, *, device: str = "auto") -> tuple[nn.Module, int]:
    """Build a model's tower with random weights on a device, in the precision used there.

    Returns
    -------
    The tower, from normalised pixels (b, 3, s, s) to features by tap; and s.

    Raises
    ------
    LinprobeError : the model cannot be built, or the device is not there.
    """
    place = _device(device)
    taps, side = families()[ref.family].untrained(ref)
    return _cast(taps, _precision("auto", place)).to(place), side


def _device(name: str) -> torch.device:
    """Resolve and check a device name."""
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not (
        available and (device.index or 0) < torch.cuda.device_count()
    ):
        found = torch.cuda.device_count() if available else 0
        raise LinprobeError(
            f"device {name} asked for; torch {torch.__version__} sees {found} CUDA devices",
            hint="--device cpu, or linprobe doctor",
        )
    return device


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


def _measure(taps: nn.Module, spec: EncoderSpec) -> tuple[Tap, ...]:
    """Encode one gray image: the dimensions of the taps, and proof that the weights work."""
    assert spec.preprocess is not None
    parameter = next(taps.parameters())
    side = spec.preprocess.image_size
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
                f"the {name} of a gray ramp has infinities or NaN, in {spec.precision}",
                hint="is the checkpoint whole, and --model its architecture? try --precision fp32",
            )
    return tuple(Tap(name, feature.shape[1]) for name, feature in features.items())


def _channels(values: tuple[float, float, float], device: torch.device) -> torch.Tensor:
    """Per-channel constants as (3, 1, 1) float32."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
