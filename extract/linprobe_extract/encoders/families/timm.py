"""timm models up to their classifier as encoders: the only file that imports timm."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linprobe.errors import LinprobeError
from linprobe_extract.encoders.family import ModelRef, closest, names_of
from linprobe_store.format.spec import PreprocessSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import nn

    from linprobe_extract.encoders.tower import LoadedTower
    from linprobe_extract.pixels.canary import ReferenceTransform

prefix = "timm:"
libraries = ("timm",)

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_RESIZE_MODES = {"center": "shortest", "squash": "squash", "border": "longest"}
"""timm's crop modes in open_clip's words."""


def names() -> Mapping[str, str]:
    """List nothing: timm's thousand names need an import of seconds."""
    return {}


def resolve(name: str, weights: Path | None) -> ModelRef:
    """Take any name: whether timm has it shows when it is loaded."""
    return ModelRef("timm", name.removeprefix(prefix), names_of(name, name, weights), weights)


def suggest(name: str) -> str:
    """Name of a model of timm without its prefix, found in its sources: an import takes seconds."""
    architecture = name.partition(".")[0]
    spec = find_spec("timm") if _NAME.fullmatch(architecture) else None
    if spec is None or spec.origin is None:
        return ""
    models = (Path(spec.origin).parent / "models").glob("*.py")
    says = f"\ndef {architecture}(pretrained"
    return f"{prefix}{name}" if any(says in path.read_text("utf-8") for path in models) else ""


def load(ref: ModelRef) -> "LoadedTower":
    """Build a model without its classifier and load its weights.

    A LinprobeError is raised if timm does not know the name (the hint has the closest), the
    download failed, the checkpoint does not fit, or linprobe does not know the preprocessing.
    """
    from linprobe_extract.encoders import tokens, tower, weights

    if ref.weights is None:
        with weights.downloading(f"the weights of timm:{ref.architecture}"):
            model = _create(ref, pretrained=True)
    else:
        model = _create(ref)
        state = weights.read_checkpoint(ref.weights)
        renamed = ref.rename(state) if ref.rename is not None else {}
        state = {renamed.get(key, key): tensor for key, tensor in state.items()}
        classifier = model.pretrained_cfg.get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else classifier
        left_out = tuple(f"{head}." for head in heads)
        kept = {key: tensor for key, tensor in state.items() if not key.startswith(left_out)}
        weights.load_weights(model, kept, str(ref.weights))
    model = model.float().eval()
    data = _data_config(model)
    more, n_blocks = tokens.taps_of_timm(model)
    return tower.LoadedTower(
        taps=tower.PooledTaps(model),
        architecture=f"timm:{ref.architecture.partition('.')[0]}",
        config={},
        activation=tower.effective_activation(model),
        weights_sha256=weights.digest_weights(model),
        preprocess=_preprocess_spec(data),
        reference=_reference(data),
        more=more,
        n_blocks=n_blocks,
    )


def untrained(ref: ModelRef) -> "tuple[nn.Module, int]":
    """Build a model with random weights, and tell the side of its square input in pixels."""
    from linprobe_extract.encoders.tower import PooledTaps

    model = _create(ref).eval()
    return PooledTaps(model), int(_data_config(model)["input_size"][-1])


def _create(ref: ModelRef, *, pretrained: bool = False) -> Any:
    import timm

    if not timm.is_model(ref.architecture):
        known = [f"{prefix}{name}" for name in timm.list_models()]
        otherwise = "python -c 'import timm; print(timm.list_models())' lists the names"
        hint = closest(f"{prefix}{ref.architecture}", known, otherwise=otherwise)
        raise LinprobeError(f"timm {timm.__version__} has no model {ref.architecture!r}", hint=hint)
    return timm.create_model(ref.architecture, pretrained=pretrained, num_classes=0)


def _data_config(model: Any) -> Mapping[str, Any]:
    from timm.data.config import resolve_model_data_config

    config: Mapping[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    return config


def _preprocess_spec(data: Mapping[str, Any]) -> PreprocessSpec:
    channels, height, width = data["input_size"]
    mode, mean, std = data["crop_mode"], data["mean"], data["std"]
    fills = {round(255 * value) for value in mean} if mode == "border" else {0}
    if channels != 3 or height != width or mode not in _RESIZE_MODES or len(fills) != 1:
        problem = f"unsupported preprocessing: input {channels}x{height}x{width}, crop mode {mode}"
        raise LinprobeError(problem, hint="linprobe extracts from square RGB inputs")
    return PreprocessSpec(
        image_size=height,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        interpolation=data["interpolation"],
        resize_mode=_RESIZE_MODES[mode],
        fill_color=fills.pop(),
        crop_pct=float(data["crop_pct"]),
        path="exact",
        canary="",
        rgb_first=True,
    )


def _reference(data: Mapping[str, Any]) -> "ReferenceTransform":
    """The evaluation transform of timm itself, up to its uint8 pixels."""
    from timm.data.transforms_factory import create_transform

    transform = create_transform(**data, is_training=False, normalize=False)

    def pixels(image: "Image.Image") -> "NDArray[np.uint8]":
        return np.asarray(transform(image.convert("RGB"))).transpose(1, 2, 0)

    return pixels
