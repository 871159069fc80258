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
    """Without the library's defaults: an upgrade that adds an option changes no identity."""
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
    names = set()
    for each in module.modules():
        kind = type(each)
        leaf = next(each.children(), None) is None and next(each.parameters(), None) is None
        if not leaf or isinstance(each, nn.Softmax):  # which is attention's
            continue
        if kind.__name__ == "QuickGELU":
            names.add("quick_gelu")
        elif "activation" in kind.__module__:
            tanh = kind.__name__ == "GELUTanh" or getattr(each, "approximate", "") == "tanh"
            names.add("gelu_tanh" if tanh else kind.__name__.lower())
    return "+".join(sorted(names)) or "none"
