"""Small open_clip and timm models with seeded random weights, saved as checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import open_clip
import torch
from safetensors.torch import save_file
from torchvision.transforms import Normalize, ToTensor

from linprobe import Encoder as PublicEncoder
from linprobe_extract.encoders.encoder import Encoder

ModelConfig: TypeAlias = dict[str, Any]
"""open_clip's ``model_cfg``: what a JSON file in its ``model_configs`` folder holds."""

_TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
_VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}

CONFIGS: Mapping[str, ModelConfig] = {
    "vit": {"embed_dim": 24, "vision_cfg": _VIT, "text_cfg": _TEXT},
    "vit-quickgelu": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": _VIT, "text_cfg": _TEXT},
    "vit-avg": {
        "embed_dim": 24,
        "vision_cfg": _VIT | {"pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": _TEXT,
    },
    "coca": {
        "embed_dim": 32,
        "custom_text": True,
        "vision_cfg": _VIT
        | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "text_cfg": _TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": _TEXT | {"attn_pooler_heads": 4},
    },
    "resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": _TEXT,
    },
    "timm-linear": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 160,
        },
        "text_cfg": _TEXT,
    },
    "timm-head": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "test_efficientnet",
            "timm_pool": "avg",
            "timm_proj": None,
            "image_size": 160,
        },
        "text_cfg": _TEXT,
    },
    "siglip": {
        "embed_dim": 64,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_pool": "map",
            "timm_proj": "none",
            "image_size": 160,
        },
        "text_cfg": _TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
}
"""One architecture per kind of vision tower."""


@dataclass(frozen=True)
class SmallModel:
    """An open_clip model on disk and in memory."""

    config: Path
    """JSON file for ``--model``."""
    weights: Path
    """Checkpoint for ``--weights``."""
    model: Any
    """The whole model, text tower included, as ``open_clip.create_model`` makes it."""


def make_model(
    folder: Path, kind: str, *, seed: int = 0, suffix: str = ".safetensors"
) -> SmallModel:
    """Build a small model with random weights and save it in ``folder``."""
    config = folder / f"linprobe-test-{kind}.json"
    config.write_text(json.dumps(CONFIGS[kind]))
    open_clip.add_model_config(config)
    torch.manual_seed(seed)
    model = open_clip.create_model(config.stem).eval()
    randomise(model)
    weights = folder / f"{kind}-{seed}{suffix}"
    save_weights(model, weights)
    return SmallModel(config, weights, model)


def randomise(model: torch.nn.Module) -> None:
    """Replace zeros and ones of an initialisation, which would hide a tensor that is not used."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.1 * torch.randn_like(tensor)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Save the state dict of a whole model; the suffix chooses the format."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def load_small(small: SmallModel, **options: Any) -> PublicEncoder:  # noqa: ANN401 - passed through
    """Load a small model as a user with ``--model FILE.json --weights FILE`` does, on the CPU.

    In fp32 unless told otherwise: ``auto`` is another precision on another machine.
    """
    options = {"precision": "fp32", "device": "cpu"} | options
    return PublicEncoder(str(small.config), weights=small.weights, **options)


def random_pixels(n: int, side: int, seed: int = 0) -> torch.Tensor:
    """Seeded uint8 pixels (n, 3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def normalised(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """What torchvision's ToTensor and Normalize make of uint8 pixels (b, 3, s, s)."""
    normalize = Normalize(encoder.preprocess.mean, encoder.preprocess.std)
    images = [ToTensor()(image.permute(1, 2, 0).numpy()) for image in pixels]
    return torch.stack([normalize(image) for image in images])
