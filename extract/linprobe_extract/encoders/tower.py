"""What an adapter gives: a frozen vision tower, and all that identifies it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from linprobe.records import JsonValue
from linprobe_extract.pixels.canary import ReferenceTransform
from linprobe_store.format.spec import PreprocessSpec


@dataclass(frozen=True)
class LoadedTower:
    """A vision tower with its weights, on the CPU in float32, in evaluation mode."""

    taps: nn.Module
    """Maps normalised pixels (b, 3, s, s) to ``dict[str, Tensor]`` of features (b, d) per tap,
    un-normalised, in one pass; the order of the taps is fixed."""
    architecture: str
    """Library and kind, such as ``open_clip:VisionTransformer``."""
    config: Mapping[str, JsonValue]
    """The vision configuration without the library's defaults, so that an upgrade which adds an
    option does not change the identity."""
    activation: str
    """Effective activation, read off the modules (:func:`effective_activation`)."""
    weights_sha256: str
    """Digest of the whole tower as loaded (``weights.digest_weights``)."""
    preprocess: PreprocessSpec
    """As the model's configuration says; its path is ``exact`` and its canary empty."""
    reference: ReferenceTransform
    """The library's own transform, against which ours is checked."""


def effective_activation(module: nn.Module) -> str:
    """Name the activations that a module really uses, sorted, such as ``quick_gelu``.

    An open_clip architecture and its ``-quickgelu`` twin have the same weights and other features;
    only the modules tell. Activations are the childless, parameterless modules that live in an
    activation module of torch or timm, and open_clip's QuickGELU.
    """
    names = {_activation_name(m) for m in module.modules() if _is_activation(m)}
    return "+".join(sorted(names)) or "none"


def _is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation function."""
    leaf = next(module.children(), None) is None and next(module.parameters(), None) is None
    home = type(module).__module__
    known = "activation" in home and not isinstance(module, nn.Softmax)  # attention's, not ours
    return leaf and (known or type(module).__name__ == "QuickGELU")


def _activation_name(module: nn.Module) -> str:
    """``quick_gelu``, ``gelu_tanh`` for the tanh approximation, else the class in lower case."""
    name = type(module).__name__
    if name == "GELUTanh" or getattr(module, "approximate", "") == "tanh":
        return "gelu_tanh"
    return "quick_gelu" if name == "QuickGELU" else name.lower()
