"""A module of one's own with its transform, as a user writes one: for ``--encoder``."""

import numpy as np
import torch
from PIL import Image
from torch import nn


class Colours(nn.Module):
    """Means of patches, mixed by fixed random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3 * 16, 6)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for tensor in self.mix.parameters():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features by tap, of pixels (b, 3, 12, 12)."""
        patches = nn.functional.avg_pool2d(pixels, 3).flatten(1)
        return {"embedding": self.mix(patches), "patches": patches}


def shrink(image: Image.Image) -> torch.Tensor:
    """Pixels (3, 12, 12) in -1..1."""
    pixels = np.asarray(image.resize((12, 12)), np.float32) / 127.5 - 1
    return torch.from_numpy(pixels).permute(2, 0, 1)


def colours() -> tuple[nn.Module, object]:
    """What ``--encoder own_encoder:colours`` loads."""
    return Colours(), shrink


def wrong() -> nn.Module:
    """A function that forgets its transform."""
    return Colours()


def broken() -> tuple[nn.Module, object]:
    """A function that fails."""
    raise RuntimeError("no weights here")
