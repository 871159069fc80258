"""The encoder: a frozen tower with its preprocessing. It knows no library of models."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from linprobe.machine import Device
from linprobe_extract.encoders.family import EncoderChoice, Precision, PreprocessPath
from linprobe_store.format.spec import EncoderNames, EncoderSpec, PreprocessSpec, StorageDtype

BATCH_SIZE = {"cuda": 256, "cpu": 16}
"""Images a batch by kind of device: enough to fill it, small enough for its memory."""


class Encoder:
    """A frozen vision tower with its preprocessing, on a device; made by :meth:`load`.

    Parameters
    ----------
    spec : EncoderSpec
        What the features are a function of; it has a preprocessing.
    names : EncoderNames
        What people call the encoder.
    taps : torch.nn.Module
        Maps normalised pixels (b, 3, s, s), in the arithmetic of ``spec.precision``, to features
        (b, d) by tap; in evaluation mode, and on its device.

    Attributes
    ----------
    spec : EncoderSpec
        As given. ``spec.encoder_id`` is its sha256: encoders of one id give the same features, but
        for the rounding of another device.
    names : EncoderNames
        As given: ``names.model`` and ``names.slug``.
    preprocess : PreprocessSpec
        How the bytes of an image become the pixels of :meth:`encode`: ``spec.preprocess``.
    image_size : int
        Side s of the square input, in pixels.
    batch_size : int
        Images a batch that fill the device, unless its memory is small.
    device : torch.device
        Where the tower is, and where the pixels of :meth:`encode` must be.
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
        self._mean = _channels(self.preprocess.mean, self.device)
        self._std = _channels(self.preprocess.std, self.device)

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
        model : str
            ``demo``, ``ViT-B/16``, ``ARCH:TAG``, ``timm:NAME``, ``hf-hub:ORG/REPO``, ...; see
            :mod:`linprobe_extract.encoders.family`.
        weights : Path or str, optional
            Checkpoint to load in place of the model's own, which is downloaded where need be.
        device : {"auto", "cuda", "cpu"}
            Where to run; ``auto`` is CUDA where there is such a device.
        precision : {"auto", "fp32", "bf16"}
            Arithmetic of the forward pass; ``auto`` is bf16 on GPUs that compute in it, fp32
            elsewhere. Part of the identity.
        preprocess : {"fast", "exact"}
            ``exact`` is the model's own transform, bit for bit; ``fast`` is within 4 gray levels
            of it, at a third of its cost. Part of the identity.
        storage_dtype : {"float16", "float32"}
            What features are stored in. Part of the identity.

        Returns
        -------
        Encoder

        Raises
        ------
        LinprobeError
            The model is unknown or cannot be loaded, the device is not there, the preprocessing
            differs from the model's own, or the tower gives no finite feature vectors.
        """
        from linprobe_extract.encoders.load import load

        checkpoint = None if weights is None else Path(weights)
        return load(EncoderChoice(model, checkpoint, device, precision, preprocess, storage_dtype))

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Encode a batch of images.

        Nothing waits for the device: the work is queued on the current stream.

        Parameters
        ----------
        pixels : torch.Tensor
            uint8 (b, 3, s, s) on :attr:`device`, RGB in 0..255, preprocessed; any strides.

        Returns
        -------
        Mapping[str, torch.Tensor]
            By tap, in the order of ``spec.taps``: float32 features (b, d) on the device,
            un-normalised.
        """
        # Kernels for channels-last memory round otherwise: the layout of a buffer is no choice.
        features: Mapping[str, torch.Tensor] = self._taps(self._normalised(pixels.contiguous()))
        return {tap.name: features[tap.name].float() for tap in self.spec.taps}

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale to [0, 1], subtract the mean, divide by the standard deviation.

        In fp32, in the order of torchvision's ``ToTensor`` and ``Normalize``, bit for bit. For
        bf16 as one multiply-add over the batch, which equals that order after rounding to bf16.
        """
        if self.spec.precision == "bf16":
            scale = 1 / (255 * self._std)
            return torch.addcmul(-self._mean / self._std, pixels, scale).to(torch.bfloat16)
        return pixels.float().div_(255).sub_(self._mean).div_(self._std)


def _channels(values: tuple[float, float, float], device: torch.device) -> torch.Tensor:
    """Per-channel constants as (3, 1, 1) float32."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
