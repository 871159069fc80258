"""The encoder: a frozen tower with its preprocessing, on a device, whatever library it is of."""

from collections.abc import Mapping

import torch
from torch import nn

from linprobe.names import short_id
from linprobe_extract.encoders.precision import DTYPES
from linprobe_store.format.spec import EncoderNames, EncoderSpec, PreprocessSpec

BATCH_SIZE = {"cuda": 256, "cpu": 16}
"""Images a batch by kind of device: enough to fill it, small enough for its memory."""


class Encoder:
    """A frozen vision tower with its preprocessing, on its device.

    Parameters
    ----------
    spec : what the features are a function of, with a preprocessing. ``spec.encoder_id`` is its
        sha256: encoders of one id give the same features, but for the rounding of another device.
    names : what people call the encoder.
    taps : maps normalised pixels (b, 3, s, s), in the arithmetic of ``spec.precision``, to features
        (b, d) by tap; in evaluation mode, and on its device.
    pixels : the preprocessing, where ``spec.preprocess`` does not hold all of it.
    layout : how the grids that enter the tower lie in memory.
    precision_reason : why ``spec.precision`` is what it is, in a few words.

    Attributes
    ----------
    preprocess : how the bytes of an image become the pixels of :meth:`encode_pixels`.
    image_size : side s of the square input, in pixels.
    batch_size : images a batch that fill the device, unless its memory is small.
    device : where the tower is, and where the pixels of :meth:`encode_pixels` must be.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        names: EncoderNames,
        taps: nn.Module,
        *,
        pixels: PreprocessSpec | None = None,
        layout: torch.memory_format = torch.contiguous_format,
        precision_reason: str = "as asked",
    ) -> None:
        pixels = pixels or spec.preprocess
        if pixels is None:
            raise ValueError("an encoder that runs has a preprocessing")
        self.spec = spec
        self.names = names
        self.precision_reason = precision_reason
        self.preprocess: PreprocessSpec = pixels
        self.image_size = pixels.image_size
        self.device = next(taps.parameters(), torch.empty(0)).device
        self.batch_size = BATCH_SIZE[self.device.type]
        self._taps = taps
        self._layout = layout
        self._mean, self._std = (
            torch.tensor(channels, dtype=torch.float32, device=self.device).view(3, 1, 1)
            for channels in (pixels.mean, pixels.std)
        )

    def __repr__(self) -> str:
        taps = ", ".join(f"{tap.name} {tap.dim}" for tap in self.spec.taps)
        kind = f"{self.spec.precision} on {self.device}"
        return f"Encoder({self.names.model!r}, {short_id(self.spec.encoder_id)}: {taps}; {kind})"

    @torch.inference_mode()
    def encode_pixels(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Encode a batch of images, queued on the device's current stream.

        Parameters
        ----------
        pixels : uint8 (b, 3, s, s) on :attr:`device`, RGB in 0..255, preprocessed; any strides. Or
            what a transform of one's own gives.

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
        What a transform of one's own gives is only cast.
        """
        if self.preprocess.path == "own":
            is_float = pixels.is_floating_point()
            return pixels.to(DTYPES[self.spec.precision]) if is_float else pixels
        if self.spec.precision == "bf16":
            scale = 1 / (255 * self._std)
            return torch.addcmul(-self._mean / self._std, pixels, scale).to(torch.bfloat16)
        normalised = pixels.float().div_(255).sub_(self._mean).div_(self._std)
        return normalised.half() if self.spec.precision == "fp16" else normalised
