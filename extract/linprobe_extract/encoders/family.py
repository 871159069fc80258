"""Encoder families, and the names of models: what a person types, resolved to what is loaded.

========================  =====================================================================
``demo``                  EfficientNet-Lite0 from a Python package: works offline
``timm:NAME``             any timm model, such as ``timm:vit_base_patch14_dinov2.lvd142m``
``ViT-B/16``, ``RN50``    OpenAI's weights, QuickGELU on (the names of the CLIP paper)
``ARCH:TAG``              any pair of open_clip, such as ``ViT-B-16:laion2b_s34b_b88k``
``ARCH``, ``PATH.json``   an architecture of open_clip or of your own (in the form of open_clip's
                          ``model_configs``), with ``--weights FILE``
``hf-hub:ORG/REPO``       an open_clip model on the Hugging Face hub
``local-dir:PATH``        a folder with ``open_clip_config.json`` and a checkpoint
``hf:ORG/NAME``           a vision tower of transformers on the Hugging Face hub: CLIP, SigLIP,
                          DINOv2 and v3, ViT, ViT-MAE, I-JEPA; ``hf:./FOLDER`` one on disk
``py:PACKAGE.MODULE:F``   a module of your own with its transform, which F() returns; so does
                          ``py:NAME``, an entry point of the group ``linprobe.modules``
========================  =====================================================================

``--weights FILE`` replaces the download for any of them. Nothing here imports torch.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast, get_args

from linprobe.errors import ExtractError, LinprobeError
from linprobe.machine import Device
from linprobe.plugins import installed, refused
from linprobe.terminal import command
from linprobe_store.format.spec import EncoderNames, StorageDtype

if TYPE_CHECKING:
    from torch import nn

    from linprobe_extract.encoders.tower import LoadedTower

GROUP = "linprobe.encoders"
"""Entry points of this group are encoder families of other packages, called by their names."""
BUILT_IN = {
    "demo": "demo",
    "timm": "timm",
    "transformers": "transformers",
    "own": "own",
    "open_clip": "open_clip_names",
}
"""Our families, with their modules in the room ``families``."""
_LIBRARIES = ("linprobe", "numpy", "torch", "torchvision", "pillow", "simplejpeg")
"""Distributions that the pixels and the forward pass of every family depend on."""
WITH = "+"
"""Between the name of a model and that of one's own checkpoint: ``ViT-B/32+mine.pt``."""
Arithmetic = Literal["fp32", "bf16", "fp16"]
"""What a forward pass computes in; part of an encoder's identity."""
Precision = Literal["fp32", "bf16", "fp16", "auto"]
"""What is asked for; ``auto`` is a rule (``precision.plan_precision``)."""
PreprocessPath = Literal["fast", "exact", "nvjpeg"]
"""``exact`` is the model's own transform, bit for bit; ``fast`` decodes JPEGs faster, ``nvjpeg`` on
the GPU."""


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
    taps: tuple[str, ...] = ()
    """Points of the tower that features are taken from; part of the identity. () means what the
    model gives: ``embedding``, and ``pre_projection`` where it has one."""

    def __post_init__(self) -> None:
        allowed = {
            "device": get_args(Device),
            "precision": get_args(Precision),
            "preprocess": get_args(PreprocessPath),
            "storage_dtype": get_args(StorageDtype),
        }
        for name, values in allowed.items():
            if (value := getattr(self, name)) not in values:
                what = f"{name} {value!r}; expected one of {', '.join(values)}"
                raise ExtractError(what, hint=f"leave {name} out, or give {values[0]!r}")


@dataclass(frozen=True)
class ModelRef:
    """What to load, before anything is read or downloaded."""

    family: str
    """Name of the family that loads it."""
    architecture: str
    """Name in that family; for open_clip also ``hf-hub:``, ``local-dir:`` or a JSON file."""
    names: EncoderNames
    """What people call it."""
    weights: Path | None = None
    """Checkpoint on disk in place of a download; an existing file."""
    pretrained: str | None = None
    """Tag of published weights, where the architecture alone does not tell them."""
    rename: Callable[[Collection[str]], Mapping[str, str]] | None = None
    """Gives the architecture's names of those tensors that a checkpoint calls otherwise."""


class Family(Protocol):
    """A library of encoders: a module, or any object, that has these.

    A package adds its own by an entry point of :data:`GROUP` that leads to one. Its library, and
    torch, are imported inside ``load`` and ``untrained`` alone: other commands start at once. All
    functions raise LinprobeError for what a person can mend.
    """

    @property
    def prefix(self) -> str:
        """How its names begin, such as ``timm:``; that of another package ends in a colon."""

    @property
    def libraries(self) -> Sequence[str]:
        """Distributions whose version may change its features: remembered, recorded, not hashed."""

    def names(self) -> Mapping[str, str]:
        """List the names that can be listed, each with the origin of its weights in a word."""

    def resolve(self, name: str, weights: Path | None) -> ModelRef | None:
        """Resolve a name that begins with the prefix, without torch or a network; None: not ours.

        ``weights`` is a checkpoint to load in place of the model's own, an existing file.
        """

    def load(self, ref: ModelRef) -> "LoadedTower":
        """Build the vision tower and load its weights: on the CPU, in float32, for evaluation."""

    def untrained(self, ref: ModelRef) -> "tuple[nn.Module, int]":
        """Build ``LoadedTower.taps`` with random weights; also the input's side in pixels."""


@cache
def families() -> Mapping[str, Family]:
    """Every family by its name, in the order in which they are asked for a model.

    Ours come before those of other packages, but open_clip, whose names have no prefix, is last:
    what is installed changes the meaning of no name of ours.

    Raises
    ------
    LinprobeError : a family of another package cannot be imported, or has no prefix.
    """
    package = __name__.rpartition(".")[0]
    modules = {name: f"{package}.families.{module}" for name, module in BUILT_IN.items()}
    every = {name: cast("Family", import_module(module)) for name, module in modules.items()}
    for entry, family in installed(GROUP):
        prefix = getattr(family, "prefix", None)
        if entry.name in every:
            raise refused(entry, "linprobe has a family of this name")
        if not isinstance(prefix, str) or not prefix.endswith(":"):
            raise refused(entry, f"expected a prefix with a colon, found {prefix!r}")
        every[entry.name] = cast("Family", family)
    return dict(sorted(every.items(), key=lambda item: not item[1].prefix))


def libraries() -> dict[str, str]:
    """Versions of the installed distributions that features can depend on, by name."""
    versions = {}
    for name in chain(_LIBRARIES, *(family.libraries for family in families().values())):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def known_models() -> dict[str, str]:
    """Every name that can be listed, with its origin; ``hf-hub:`` and ``timm:`` names cannot."""
    return {name: origin for each in families().values() for name, origin in each.names().items()}


def resolve_model(name: str, *, weights: Path | None = None) -> ModelRef:
    """Resolve a model name of the table above, as far as that needs no torch and no network.

    Raises
    ------
    LinprobeError : the name is unknown (the hint has the closest), needs weights that are not
        given, its package is missing, or ``weights`` is not a file.
    """
    if weights is not None and not weights.is_file():
        hint = "--weights FILE takes .pt or .safetensors"
        raise LinprobeError(f"the weights are not a file: {weights}", hint=hint)
    for family in families().values():
        ref = family.resolve(name, weights) if name.startswith(family.prefix) else None
        if ref is not None:
            return ref
    known = list(known_models())
    # An architecture is a name too, with a checkpoint of one's own.
    known += {name.partition(":")[0] for name in families()["open_clip"].names()}
    is_misspelt = name.lower() in {text.lower() for text in known}
    for family in reversed([*families().values()]):
        suggest = getattr(family, "suggest", None)  # of ours, for names that people have elsewhere
        if suggest is not None and not is_misspelt and (meant := suggest(name)):
            raise LinprobeError(f"unknown model: {name}", hint=f"did you mean {meant}?")
    raise LinprobeError(f"unknown model: {name}", hint=closest(name, known))


def closest(name: str, candidates: Iterable[str], *, otherwise: str = "") -> str:
    """Write the hint that names the candidates closest to a misspelt name, or ``otherwise``."""
    by_lower_case = {text.lower(): text for text in candidates}
    matches = difflib.get_close_matches(name.lower(), by_lower_case, n=3, cutoff=0.5)
    if not matches:
        return otherwise or f"{command('models')} lists the names"
    return f"did you mean {', '.join(by_lower_case[match] for match in matches)}?"


def typed(model: str) -> tuple[str, str]:
    """The name as it was typed, and the checkpoint that :func:`names_of` named; "" for none."""
    name, _, checkpoint = model.rpartition(WITH)
    return (name, checkpoint) if name else (model, "")


def names_of(name: str, text: str, weights: Path | None = None) -> EncoderNames:
    """Name an encoder as it was typed; with one's own checkpoint, both name and slug say which.

    ``text`` is what the slug is made of.
    """
    if weights is not None:
        name = f"{name}{WITH}{weights.name.replace(WITH, '-')}"
        text = f"{text}-{weights.stem}"
    return EncoderNames(name, re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-"))
