"""open_clip towers, whose taps equal the full model's: the only file that imports open_clip."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from open_clip.modified_resnet import ModifiedResNet
from open_clip.pretrained import download_pretrained_from_hf
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import nn
from torchvision.transforms import Normalize, ToTensor

from linprobe.errors import LinprobeError
from linprobe.records import JsonValue, read
from linprobe_extract.encoders import tokens, tower, weights
from linprobe_extract.encoders.family import ModelRef
from linprobe_extract.pixels.canary import ReferenceTransform
from linprobe_store.format.spec import PreprocessSpec

_IDLE = {"patch_dropout", "timm_drop", "timm_drop_path", "timm_model_pretrained", "output_tokens"}
"""Vision settings that change nothing in evaluation mode."""
_MAX_LAYERS = 1000
"""Of a model, or of a stage of one; those of the largest ViT are 56."""
_PLAIN_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class _Config:
    model: Mapping[str, Any]
    """open_clip's ``model_cfg``."""
    preprocess: Mapping[str, Any]
    """Overlay over open_clip's default preprocessing."""
    quick_gelu: bool
    """Whether the weights were trained with QuickGELU, as all of OpenAI's were."""


def load_tower(ref: ModelRef) -> tower.LoadedTower:
    """Build the vision tower of an open_clip model and load its weights.

    A LinprobeError is raised if a download failed, the configuration is not open_clip's, the
    checkpoint does not fit, or the activation is not the one asked for.
    """
    config = _read_config(ref)
    visual = _load_visual(config, ref.weights or _find_weights(ref))
    activation = tower.effective_activation(visual)
    if config.quick_gelu and isinstance(visual, VisionTransformer) and activation != "quick_gelu":
        raise LinprobeError(
            f"{ref.names.model} was trained with quick_gelu, but this open_clip built {activation}",
            hint="constraints.txt lists the tested version of open_clip_torch",
        )
    overlay = {**config.preprocess, "size": visual.image_size}
    with _building():
        transform = PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), overlay))
        pixels, reference = _preprocess_spec(transform), _reference(transform)
    more, n_blocks = _more_taps(visual)
    return tower.LoadedTower(
        taps=_with_taps(visual),
        architecture=f"open_clip:{type(visual).__name__}",
        config={"embed_dim": config.model["embed_dim"], "vision_cfg": _stated(config)},
        activation=activation,
        weights_sha256=weights.digest_weights(visual),
        preprocess=pixels,
        reference=reference,
        more=more,
        n_blocks=n_blocks,
    )


def untrained_tower(ref: ModelRef) -> tuple[nn.Module, int]:
    """Build the tower of a model with random weights, and tell the side of its square input."""
    visual = _build_visual(_read_config(ref), "cpu").eval()
    size = visual.image_size
    return _with_taps(visual), int(size if isinstance(size, int) else size[0])


def _read_config(ref: ModelRef) -> _Config:
    """Find the configuration of a model: built in, in a file, in a folder or on the hub."""
    name = ref.architecture
    if name.startswith("hf-hub:"):
        return _from_json(_from_hub(name, "open_clip_config.json"))
    if name.startswith("local-dir:"):
        return _from_json(Path(name.removeprefix("local-dir:")) / "open_clip_config.json")
    if name.endswith(".json"):
        return _from_json(Path(name))
    model = open_clip.get_model_config(name)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if ref.pretrained is not None:
        tag = open_clip.get_pretrained_cfg(name, ref.pretrained)
        said = tag.get("quick_gelu") or model.get("quick_gelu")
        return _Config(model, tag, ref.pretrained == "openai" or bool(said))
    overlays = [merge_preprocess_dict({}, open_clip.get_pretrained_cfg(name, tag)) for tag in tags]
    agreed = overlays and all(overlay == overlays[0] for overlay in overlays)
    # A checkpoint of one's own says nothing of its preprocessing: it is taken to be that of all
    # published weights of its architecture, if they agree (SigLIP's differs from the default).
    return _Config(model, overlays[0] if agreed else {}, bool(model.get("quick_gelu")))


def _from_json(path: Path) -> _Config:
    """Read a model configuration, bare or as ``open_clip_config.json`` wraps it."""
    hint = "a local-dir: folder holds open_clip_config.json and one checkpoint"
    content = read(dict[str, Any], path, error=LinprobeError, hint=hint)
    model = content.get("model_cfg", content)
    if not isinstance(model, dict) or not {"embed_dim", "vision_cfg"} <= model.keys():
        problem = f"{path} is not a model configuration of open_clip: no embed_dim and vision_cfg"
        hint = "it has the form of the files in open_clip/model_configs"
        raise LinprobeError(problem, hint=hint)
    preprocess, vision = content.get("preprocess_cfg", {}), model["vision_cfg"]
    if not isinstance(vision, dict) or not isinstance(preprocess, dict):
        problem = f"{path}: vision_cfg and preprocess_cfg, expected objects, found something else"
        raise LinprobeError(problem, hint=hint)
    if not _PLAIN_NAME.fullmatch(str(vision.get("timm_model_name"))):
        # timm would read "hf-hub:..." from the network and "local-dir:..." from anywhere.
        problem = f"{path}: expected a name of timm's own, found {vision['timm_model_name']!r}"
        raise LinprobeError(problem, hint="--model timm:NAME, or correct the configuration")
    layers = vision.get("layers", 1)
    counts = layers if isinstance(layers, list) else [layers]
    if not all(isinstance(count, int) and 0 < count <= _MAX_LAYERS for count in counts):
        problem = f"{path}: layers {str(layers)[:80]}, expected whole numbers up to {_MAX_LAYERS:,}"
        raise LinprobeError(problem, hint=hint)
    return _Config(model, preprocess, bool(model.get("quick_gelu")))


def _find_weights(ref: ModelRef) -> Path:
    name = ref.architecture
    if name.startswith("local-dir:"):
        return weights.find_checkpoint(Path(name.removeprefix("local-dir:")))
    if name.startswith("hf-hub:"):
        return _from_hub(name, None)
    tag = open_clip.get_pretrained_cfg(name, ref.pretrained)
    with weights.downloading(f"the weights of {ref.names.model}"):
        return Path(open_clip.download_pretrained(tag))


def _from_hub(name: str, filename: str | None) -> Path:
    offline = "without a network, copy the repository and use --model local-dir:FOLDER"
    with weights.downloading(f"{filename or 'the weights'} of {name}", hint=offline):
        return Path(download_pretrained_from_hf(name.removeprefix("hf-hub:"), filename=filename))


def _load_visual(config: _Config, checkpoint: Path) -> Any:
    state = weights.read_checkpoint(checkpoint)
    names = [name for name in state if name.startswith("visual.")]
    if not names:
        problem = f"none of its {len(state)} keys begins with visual."
        raise LinprobeError(
            f"{checkpoint} holds no open_clip vision tower: {problem}",
            hint="--weights takes a checkpoint of the whole open_clip model",
        )
    # timm computes buffers while it builds that no checkpoint holds.
    on_meta = not config.model["vision_cfg"].get("timm_model_name")
    visual = _build_visual(config, "meta" if on_meta else "cpu")
    part = {name.removeprefix("visual."): state[name] for name in names}
    weights.load_weights(visual, part, str(checkpoint))
    return visual.eval()


def _build_visual(config: _Config, device: str) -> Any:
    with _building(), torch.device(device):
        # All weights come from the checkpoint: what a configuration asks to download is idle.
        settings = {**config.model["vision_cfg"], "timm_model_pretrained": False}
        vision = CLIPVisionCfg(**settings)
        visual = _build_vision_tower(config.model["embed_dim"], vision, config.quick_gelu)
    visual.output_tokens = False  # CoCa's caption tokens are no feature
    return visual


@contextmanager
def _building() -> Iterator[None]:
    """Inside, the library is given the settings of a configuration, which may be anything."""
    try:
        yield
    except LinprobeError:
        raise
    except Exception as error:  # it checks none of them: any error means that one is wrong
        problem = f"open_clip {open_clip.__version__} cannot build this model"
        hint = "a newer open_clip_torch or timm may know it"
        raise LinprobeError(f"{problem}: {weights.first_line(error)}", hint=hint) from error


def _with_taps(visual: Any) -> nn.Module:
    """Wrap a tower by where its projection stands."""
    if isinstance(visual, VisionTransformer):
        proj, visual.proj = visual.proj, None
        return tower.ParameterTaps(visual, proj)
    if isinstance(visual, ModifiedResNet):
        pool, visual.attnpool = visual.attnpool, nn.Identity()
        return tower.AttentionPoolTaps(visual, pool)
    last = None
    if isinstance(visual, TimmModel):  # in open_clip's head, or the trunk's own classifier
        last = visual.head[-1] if len(visual.head) else visual.trunk.get_classifier()
    return tower.LinearTaps(visual, last if isinstance(last, nn.Linear) else None)


def _more_taps(visual: Any) -> tuple[tuple[str, ...], int]:
    if isinstance(visual, TimmModel):
        return tokens.taps_of_timm(visual.trunk)
    if not isinstance(visual, VisionTransformer):
        return (), 0
    n_blocks, has_norm = visual.transformer.layers, visual.attn_pool is None
    return tokens.token_taps(n_blocks, has_class=True, has_norm=has_norm), n_blocks


def _stated(config: _Config) -> dict[str, JsonValue]:
    """The vision settings without defaults and without what is idle in evaluation."""
    vision = asdict(CLIPVisionCfg(**config.model["vision_cfg"]))
    defaults = {field.name: field.default for field in fields(CLIPVisionCfg)}
    return {k: v for k, v in vision.items() if v != defaults[k] and k not in _IDLE}


def _preprocess_spec(transform: PreprocessCfg) -> PreprocessSpec:
    size = transform.size if isinstance(transform.size, int) else transform.size[0]
    if transform.size not in (size, (size, size), [size, size]):
        problem = f"the input of this model is not square: {transform.size}"
        raise LinprobeError(problem, hint="linprobe extracts from square inputs only")
    mean, std = transform.mean, transform.std
    # A configuration may give the values of the channels as one number.
    means = (mean,) * 3 if isinstance(mean, int | float) else mean
    stds = (std,) * 3 if isinstance(std, int | float) else std
    return PreprocessSpec(
        image_size=size,
        mean=(float(means[0]), float(means[1]), float(means[2])),
        std=(float(stds[0]), float(stds[1]), float(stds[2])),
        interpolation="bilinear" if transform.interpolation == "bilinear" else "bicubic",
        resize_mode=transform.resize_mode,
        fill_color=transform.fill_color,
        crop_pct=1.0,
        path="exact",
        canary="",
    )


def _reference(transform: PreprocessCfg) -> ReferenceTransform:
    """open_clip's own transform, up to its uint8 pixels."""
    *steps, to_tensor, normalize = image_transform_v2(transform, is_train=False).transforms
    if not (isinstance(to_tensor, ToTensor) and isinstance(normalize, Normalize)):
        hint = "constraints.txt lists the tested version of open_clip_torch"
        problem = f"open_clip {open_clip.__version__} ends its transform in another way"
        raise LinprobeError(problem, hint=hint)

    def pixels(image: Image.Image) -> NDArray[np.uint8]:
        for step in steps:
            image = step(image)
        return np.asarray(image)

    return pixels
