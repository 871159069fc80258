"""timm models, and the offline demo encoder that is one of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from encoder_factories import (
    normalised,
    random_pixels,
    randomise,
    save_weights,
)
from image_factories import encode
from PIL import Image

from linprobe import Encoder
from linprobe_extract.encoders.family import resolve_model
from linprobe_extract.pixels.preprocess import preprocess


def test_a_timm_model_gives_its_pooled_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("test_efficientnet", num_classes=10).eval()
    randomise(model)
    save_weights(model, tmp_path / "w.safetensors")
    weights = tmp_path / "w.safetensors"
    encoder = Encoder("timm:test_efficientnet", weights=weights, device="cpu", preprocess="exact")
    pixels = random_pixels(3, encoder.image_size)

    with torch.inference_mode():
        grid = model.forward_features(normalised(encoder, pixels))
        expected = model.forward_head(grid, pre_logits=True)
    assert torch.equal(encoder.encode_pixels(pixels)["embedding"], expected)
    assert encoder.preprocess.crop_pct == 0.95
    assert encoder.preprocess.rgb_first


@pytest.mark.parametrize(
    ("image", "class_id"), [("china.jpg", 698), ("flower.jpg", 985)], ids=["palace", "daisy"]
)
def test_the_demo_encoder_sees_what_is_in_a_photo(image: str, class_id: int) -> None:
    """Strict loading would not notice two renamed layers of equal shape; ImageNet classes do."""
    from sklearn.datasets import load_sample_image

    from linprobe_extract.encoders.weights import read_checkpoint

    encoder = Encoder("demo", device="cpu", preprocess="exact")
    weights = resolve_model("demo").weights
    assert weights is not None
    state = read_checkpoint(weights)
    slot = torch.empty(1, 3, 224, 224, dtype=torch.uint8)
    preprocess(
        encoder.preprocess, encode(Image.fromarray(load_sample_image(image)), "PNG"), slot[0]
    )
    logits = encoder.encode_pixels(slot)["embedding"] @ state["_fc.weight"].T + state["_fc.bias"]

    assert int(logits.argmax()) == class_id
    assert np.isfinite(logits.numpy()).all()
