"""A loaded encoder gives, bit for bit, what the library's whole model gives."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from encoder_factories import CONFIGS, SmallModel, load_small, make_model, random_pixels
from linprobe_extract.encoder import Encoder

SmallModels = Callable[[str], tuple[SmallModel, Encoder]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallModels:
    """A small model of each kind with its encoder, made once."""
    folder: Path = tmp_path_factory.mktemp("models")

    @cache
    def made(kind: str) -> tuple[SmallModel, Encoder]:
        model = make_model(folder, kind)
        return model, load_small(model)

    return made


def reference_input(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """What torchvision's ToTensor and Normalize make of the pixels."""
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (encoder.preprocess.mean, encoder.preprocess.std)
    )
    return (pixels.float() / 255 - mean) / std


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_tower_alone_gives_exactly_what_encode_image_gives(
    small: SmallModels, kind: str
) -> None:
    model, encoder = small(kind)
    pixels = random_pixels(3, encoder.image_size)

    with torch.inference_mode():
        expected = model.model.encode_image(reference_input(encoder, pixels), normalize=False)
    assert torch.equal(encoder.encode(pixels)["embedding"], expected)
