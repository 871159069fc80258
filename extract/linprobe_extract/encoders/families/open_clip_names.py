"""The names of open_clip's models: its family, as far as that goes without torch."""

import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from linprobe.errors import LinprobeError
from linprobe_extract.encoders.family import ModelRef, closest, names_of

if TYPE_CHECKING:
    from torch import nn

    from linprobe_extract.encoders.tower import LoadedTower

OPENAI_MODELS = {
    **{name: name for name in ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64")},
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
"""Names of the CLIP paper, with their open_clip architectures."""

_ON_HUB = re.compile(r"(?:openai/)?clip-vit-(base|large)-patch(\d+)(-336)?")

prefix = ""
libraries = ("open_clip_torch", "timm")


def names() -> Mapping[str, str]:
    """List the paper's names, then every published pair of architecture and weights."""
    pairs = [f"{architecture}:{tag}" for architecture, tags in catalog().items() for tag in tags]
    return dict.fromkeys(OPENAI_MODELS, "OpenAI") | dict.fromkeys(pairs, "open_clip")


def resolve(name: str, weights: Path | None) -> ModelRef | None:
    """Resolve the name of an open_clip model.

    A LinprobeError says that there is no such configuration, tag (with the closest) or --weights.
    """
    if name in OPENAI_MODELS:
        architecture = OPENAI_MODELS[name]
        called = names_of(name, architecture if weights else f"{architecture}-openai", weights)
        return ModelRef("open_clip", architecture, called, weights, "openai")
    if name.startswith(("hf-hub:", "local-dir:")) or name.endswith(".json"):
        return _configured(name, weights)
    architecture, _, tag = name.partition(":")
    if architecture not in catalog():
        return None
    tags = catalog()[architecture]
    if tag and tag not in tags:
        hint = closest(name, [f"{architecture}:{known}" for known in tags])
        raise LinprobeError(f"open_clip has no weights {tag!r} for {architecture}", hint=hint)
    if tag:
        called = names_of(name, architecture if weights else f"{architecture}-{tag}", weights)
        return ModelRef("open_clip", architecture, called, weights, tag)
    if weights is None:
        hint = f"--model {architecture}:{tags[0]}, or --weights FILE" if tags else "--weights FILE"
        raise LinprobeError(f"{name} is an architecture: which weights?", hint=hint)
    return ModelRef("open_clip", architecture, names_of(name, architecture, weights), weights)


def suggest(name: str) -> str:
    """OpenAI's own models by the names that they have on the Hugging Face hub; "" for others."""
    match = _ON_HUB.fullmatch(name.lower())
    if match is None:
        return ""
    size, patch, side = match.groups()
    ours = f"ViT-{size[0].upper()}/{patch}{'@336px' if side else ''}"
    return f"{ours}, in open_clip, or hf:{name}, in transformers" if ours in OPENAI_MODELS else ""


def load(ref: ModelRef) -> "LoadedTower":
    """Build the vision tower of an open_clip model and load its weights."""
    from linprobe_extract.encoders.families.open_clip import load_tower

    return load_tower(ref)


def untrained(ref: ModelRef) -> "tuple[nn.Module, int]":
    """Build the vision tower of an open_clip model with random weights."""
    from linprobe_extract.encoders.families.open_clip import untrained_tower

    return untrained_tower(ref)


@cache
def catalog() -> Mapping[str, tuple[str, ...]]:
    """Every architecture of the installed open_clip, with the tags of its pretrained weights.

    The tags stand in its module ``pretrained``, which is imported without the package's
    ``__init__`` and without two libraries that it can spare: all those import torch, for seconds.
    Without open_clip, a ModuleNotFoundError is raised.
    """
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("open_clip is not installed", name="open_clip")
    folder = Path(spec.origin).parent
    package = ModuleType("_linprobe_open_clip")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    spared = ("safetensors.torch", "huggingface_hub")
    before = {name: sys.modules[name] for name in spared if name in sys.modules}
    sys.modules.update(dict.fromkeys(spared))  # type: ignore[arg-type]
    try:
        tables = import_module(f"{package.__name__}.pretrained")
    finally:
        for name in spared:
            del sys.modules[name]
        sys.modules.update(before)
    architectures = sorted(path.stem for path in (folder / "model_configs").glob("*.json"))
    return {name: tuple(tables.list_pretrained_tags_by_model(name)) for name in architectures}


def _configured(name: str, weights: Path | None) -> ModelRef:
    """Resolve a model whose configuration is not in open_clip itself."""
    if name.startswith(("hf-hub:", "local-dir:")):
        text = name if name.startswith("hf-hub:") else Path(name).name
        return ModelRef("open_clip", name, names_of(name, text, weights), weights)
    if not Path(name).is_file():
        raise LinprobeError(f"no such model configuration: {name}", hint="check the path")
    if weights is None:
        problem = f"{name} describes an architecture, not its weights"
        raise LinprobeError(problem, hint="add --weights FILE")
    return ModelRef("open_clip", name, names_of(name, Path(name).stem, weights), weights)
