"""Vision towers of transformers as encoders: the only file that imports transformers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linprobe.errors import LinprobeError
from linprobe.records import JsonValue
from linprobe_extract.encoders.family import ModelRef, names_of

if TYPE_CHECKING:
    from torch import nn

    from linprobe_extract.encoders.tower import LoadedTower

prefix = "hf:"
libraries = ("transformers",)


@dataclass(frozen=True)
class _Kind:
    """How a kind of model is built and read."""

    name: str
    """Of its class."""
    pool: str
    """Where its embedding is: an attribute of what it returns, ``cls`` or ``patch_mean``."""
    has_class: bool = True
    """Whether its first token is a class token."""
    options: tuple[tuple[str, object], ...] = ()
    """For its construction."""


_UNPOOLED = (("add_pooling_layer", False),)
_CLIP = _Kind("CLIPVisionModelWithProjection", "image_embeds")
_SIGLIP = _Kind("SiglipVisionModel", "pooler_output", has_class=False)
_KINDS: Mapping[str, _Kind] = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "dinov2": _Kind("Dinov2Model", "cls"),
    "dinov2_with_registers": _Kind("Dinov2WithRegistersModel", "cls"),
    "dinov3_vit": _Kind("DINOv3ViTModel", "cls"),
    "ijepa": _Kind("IJepaModel", "patch_mean", has_class=False, options=_UNPOOLED),
    "vit": _Kind("ViTModel", "cls", options=_UNPOOLED),
    "vit_mae": _Kind("ViTMAEModel", "cls"),
}
"""By the ``model_type`` of a configuration."""
_IDLE = re.compile(
    r"transformers_version|architectures|model_type|(torch_)?dtype|_?name_or_path|.*dropout.*|"
    r"initializer_.*|drop_path_rate|decoder_.*|mask_ratio|norm_pix_loss|.*use_cache|return_dict|stage_names|"
    r"out_features|out_indices|pooler_.*"
)
"""Settings that change nothing of the features, or that the identity has elsewhere."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def names() -> Mapping[str, str]:
    """List nothing: what is on the hub cannot be listed."""
    return {}


def resolve(name: str, weights: Path | None) -> ModelRef:
    """Take ``ORG/NAME`` of the hub, and folders, which begin with ``.``, ``/`` or ``~``."""
    source = name.removeprefix(prefix)
    if weights is not None:
        hint = f"copy the repository, put the weights there, and use --model {prefix}./FOLDER"
        raise LinprobeError(f"{name} has its weights in its folder", hint=hint)
    if not source.startswith((".", "/", "~")):
        return ModelRef("transformers", source, names_of(name, source))
    folder = Path(source).expanduser()
    if not (folder / "config.json").is_file():
        hint = "a folder of save_pretrained has config.json, weights, preprocessor_config.json"
        raise LinprobeError(f"no model of transformers in '{folder}'", hint=hint)
    return ModelRef("transformers", str(folder), names_of(name, folder.resolve().name))


def suggest(name: str) -> str:
    """A name of the hub without a prefix; "" for others."""
    if not _HUB_NAME.fullmatch(name) or Path(name).exists():
        return ""
    return f"{prefix}{name}, in transformers, or hf-hub:{name}, in open_clip"


def load(ref: ModelRef) -> "LoadedTower":
    """Build the vision tower of a model and load its weights.

    A LinprobeError is raised if it cannot be downloaded and is not in the cache, is of another
    kind, lacks weights, or its preprocessing is of no use here.
    """
    from linprobe_extract.encoders import tokens, tower, weights
    from linprobe_extract.encoders.families.transformers_pixels import pixels_of

    with _reading(ref):
        kind, config = _configured(ref)
        model, report = _class(kind).from_pretrained(
            ref.architecture, config=config, output_loading_info=True, **_options(kind)
        )
        processor = _processor(ref)
    lost = sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])})
    if lost:
        problem = f"{ref.names.model} lacks {len(lost)} weights of {kind.name}, such as {lost[0]}"
        raise LinprobeError(problem, hint="is the repository that of a whole vision model?")
    model = model.float().eval()
    pixels, reference = pixels_of(processor)
    n_blocks = int(config.num_hidden_layers)
    return tower.LoadedTower(
        taps=_taps(model, kind),
        architecture=f"transformers:{kind.name}",
        config=_stated(config),
        activation=tower.effective_activation(model),
        weights_sha256=weights.digest_weights(model),
        preprocess=pixels,
        reference=reference,
        more=tokens.token_taps(n_blocks, has_class=kind.has_class),
        n_blocks=n_blocks if kind.has_class else 0,
    )


def untrained(ref: ModelRef) -> "tuple[nn.Module, int]":
    """Build the vision tower of a model with random weights, and tell the side of its input."""
    with _reading(ref):
        kind, config = _configured(ref)
    model = _class(kind)(config, **dict(kind.options)).eval()
    return _taps(model, kind), int(config.image_size)


@contextmanager
def _reading(ref: ModelRef) -> Iterator[None]:
    """Inside, files are read from the folder, the hub or its cache; no bar nor table is printed."""
    from transformers.utils import logging

    from linprobe_extract.encoders import weights

    offline = "without a network, copy the repository and use --model hf:./FOLDER"
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with weights.downloading(ref.names.model, hint=offline):
            yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()


def _configured(ref: ModelRef) -> tuple[_Kind, Any]:
    """The kind of a model, and the configuration of its vision tower."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(ref.architecture)
    kind = _KINDS.get(config.model_type)
    if kind is None:
        known = ", ".join(_KINDS)
        problem = f"{ref.names.model} is a {config.model_type}, which is no vision tower known here"
        hint = f"known are {known}; a module of your own: --encoder package.module:factory"
        raise LinprobeError(problem, hint=hint)
    if config.architectures == ["CLIPVisionModel"]:
        kind = _Kind("CLIPVisionModel", "pooler_output")
    vision = getattr(config, "vision_config", config)
    if hasattr(config, "projection_dim"):
        vision.projection_dim = config.projection_dim
    if kind.name == "ViTMAEModel":
        vision.mask_ratio = 0.0  # every patch is seen
    return kind, vision


def _stated(config: Any) -> dict[str, JsonValue]:
    """The settings without defaults and without what is idle in evaluation."""
    defaults = type(config)().to_dict()
    settings = config.to_dict().items()
    return {k: v for k, v in settings if v != defaults.get(k) and not _IDLE.fullmatch(k)}


def _options(kind: _Kind) -> dict[str, object]:
    import torch

    return {"dtype": torch.float32, **dict(kind.options)}


def _class(kind: _Kind) -> Any:
    import transformers

    return getattr(transformers, kind.name)


def _processor(ref: ModelRef) -> Any:
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(ref.architecture, backend="pil")


def _taps(model: Any, kind: _Kind) -> "nn.Module":
    import torch
    from torch import nn

    from linprobe_extract.encoders.tokens import Tokens

    # CLIP's alone are not normed when they leave the model.
    clip = getattr(model, "vision_model", model) if kind.name.startswith("CLIP") else None
    norm = nn.Identity() if clip is None else clip.post_layernorm
    n_prefix = int(kind.has_class) + getattr(model.config, "num_register_tokens", 0)

    class VisionTaps(nn.Module):
        """A vision tower of transformers."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            """Run the tower."""
            return self._own(self._run(pixels))

        def tokens(self, pixels: torch.Tensor, blocks: Sequence[int]) -> Tokens:
            """Run the tower by the library's API for hidden states, of which the first enters."""
            out = self._run(pixels, output_hidden_states=True)
            normed = norm(_sequence(out))
            return Tokens(
                self._own(out),
                normed[:, 0] if kind.has_class else None,
                normed[:, n_prefix:],
                [out.hidden_states[number + 1][:, 0] for number in blocks],
            )

        def _run(self, pixels: torch.Tensor, **options: object) -> Any:
            if kind.name == "ViTMAEModel":  # patches in their order, none left out
                n_patches = (pixels.shape[-1] // model.config.patch_size) ** 2
                order = torch.arange(n_patches, device=pixels.device, dtype=torch.float32)
                options["noise"] = order.expand(len(pixels), -1)
            return self.model(pixel_values=pixels, **options)

        def _own(self, out: Any) -> dict[str, torch.Tensor]:
            if kind.pool == "cls":
                return {"embedding": out.last_hidden_state[:, 0]}
            if kind.pool == "patch_mean":
                return {"embedding": out.last_hidden_state.mean(dim=1)}
            taps = {"embedding": getattr(out, kind.pool)}
            if kind.pool == "image_embeds":
                taps["pre_projection"] = norm(_sequence(out)[:, 0])
            return taps

    return VisionTaps()


def _sequence(out: Any) -> Any:
    return out.last_hidden_state
