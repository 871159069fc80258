"""Vision towers of transformers: tiny ones with random weights, saved to folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from encoder_factories import randomise
from image_factories import picture
from PIL import Image

from linprobe import Encoder
from linprobe.errors import LinprobeError
from linprobe_extract.encoders.family import EncoderChoice, resolve_model
from linprobe_extract.encoders.loading import load_untrained
from linprobe_extract.run.memo import choice_key

_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
_TEXT |= {"num_attention_heads": 2, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}
_SQUARE = {"size": {"height": 32, "width": 32}}
_CROPPED = {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}}


def _clip() -> Any:  # noqa: ANN401
    vision = _SIZES | {"projection_dim": 12}
    config = transformers.CLIPConfig(text_config=_TEXT, vision_config=vision, projection_dim=12)
    return transformers.CLIPModel(config)


def _siglip() -> Any:  # noqa: ANN401
    text = _TEXT | {"pad_token_id": 1}
    return transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config=_SIZES)
    )


def _of(name: str, **options: Any) -> Callable[[], Any]:  # noqa: ANN401
    def made() -> Any:  # noqa: ANN401
        config = getattr(transformers, f"{name}Config")(**_SIZES, **options)
        return getattr(transformers, f"{name}Model")(config)

    return made


MODELS: dict[str, tuple[Callable[[], Any], str, dict[str, Any], int]] = {
    "clip": (_clip, "CLIPImageProcessor", _CROPPED, 1),
    "siglip": (_siglip, "SiglipImageProcessor", _SQUARE, 0),
    "dinov2": (_of("Dinov2"), "BitImageProcessor", _CROPPED, 1),
    "dinov2 with registers": (
        _of("Dinov2WithRegisters", num_register_tokens=2), "BitImageProcessor", _CROPPED, 3
    ),
    "dinov3": (_of("DINOv3ViT", num_register_tokens=2), "DINOv3ViTImageProcessor", _SQUARE, 3),
    "vit-mae": (_of("ViTMAE"), "ViTImageProcessor", _SQUARE, 1),
    "i-jepa": (_of("IJepa"), "ViTImageProcessor", _SQUARE, 0),
    "vit": (_of("ViT"), "ViTImageProcessor", _SQUARE, 1),
}  # fmt: skip
"""What makes one, its image processor, and its tokens before those of patches."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a kind of model, made when it is first asked for."""
    folders: dict[str, Path] = {}
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    def folder(kind: str) -> Path:
        if kind not in folders:
            make, processor, settings, _ = MODELS[kind]
            torch.manual_seed(0)
            model = make().eval()
            randomise(model)
            folders[kind] = tmp_path_factory.mktemp("hf") / kind.replace(" ", "-")
            model.save_pretrained(folders[kind])
            getattr(transformers, processor)(**settings).save_pretrained(folders[kind])
        return folders[kind]

    return folder


def _whole(folder: Path) -> Any:  # noqa: ANN401
    """The vision tower as a program of transformers' own loads it."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    if kind == "clip":
        return transformers.CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    if kind == "siglip":
        return transformers.SiglipVisionModel.from_pretrained(folder).eval()
    options = {"mask_ratio": 0.0} if kind == "vit_mae" else {}
    return transformers.AutoModel.from_pretrained(folder, **options).eval()


@pytest.mark.parametrize("kind", MODELS)
def test_taps_are_the_hidden_states_that_transformers_gives(
    kind: str, saved: Callable[[str], Path]
) -> None:
    folder, n_prefix = saved(kind), MODELS[kind][3]
    taps = ["embedding", "patch_mean", *(["cls", "last4"] if n_prefix else [])]
    encoder = Encoder(f"hf:{folder}", device="cpu", precision="fp32", preprocess="exact", taps=taps)
    model = _whole(folder)
    image = picture(97, 61)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(images=image, return_tensors="pt")
    if kind == "vit-mae":
        inputs["noise"] = torch.arange(16.0)[None]
    with torch.inference_mode():
        out = model(**inputs, output_hidden_states=True)
        last = out.last_hidden_state
        if kind == "clip":
            last = model.vision_model.post_layernorm(last)
    features, _ = encoder.encode([image])
    embedding = {"clip": getattr(out, "image_embeds", None), "i-jepa": last.mean(dim=1)}
    pooled = out.pooler_output if kind == "siglip" else last[:, 0]

    def close(tap: str, expected: torch.Tensor) -> None:
        got = features[tap].astype(np.float32)
        np.testing.assert_allclose(got, expected.numpy(), rtol=2e-3, atol=2e-3)

    close("embedding", embedding.get(kind, pooled))
    close("patch_mean", last[:, n_prefix:].mean(dim=1))
    if n_prefix:
        close("cls", last[:, 0])
        for number in range(2, 6):
            close(f"block-{number}", out.hidden_states[number][:, 0])
    else:
        with pytest.raises(LinprobeError, match="no tap 'block-5'"):
            Encoder(f"hf:{folder}", device="cpu", taps=["block-5"])


def test_clips_pre_projection_is_its_pooled_output(saved: Callable[[str], Path]) -> None:
    encoder = Encoder(f"hf:{saved('clip')}", device="cpu", precision="fp32")
    model = _whole(saved("clip"))
    features, _ = encoder.encode([Image.new("RGB", (40, 30), "teal")])
    weight = model.visual_projection.weight.detach().numpy()
    projected = features["pre_projection"].astype(np.float32) @ weight.T

    assert [tap.name for tap in encoder.spec.taps] == ["embedding", "pre_projection"]
    np.testing.assert_allclose(projected, features["embedding"], rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "vit-mae", "dinov3"])
@pytest.mark.parametrize("size", [(97, 61), (61, 98), (37, 38), (200, 51)])
def test_pixels_are_those_of_the_models_image_processor(
    kind: str, size: tuple[int, int], saved: Callable[[str], Path]
) -> None:
    """Odd sizes: halves of a pixel beside the crop are rounded as the processor rounds them."""
    encoder = Encoder(f"hf:{saved(kind)}", device="cpu", precision="fp32", preprocess="exact")
    processor = transformers.AutoImageProcessor.from_pretrained(saved(kind), backend="pil")
    image = picture(*size)
    expected = processor(images=image, return_tensors="pt")["pixel_values"]
    seen: list[torch.Tensor] = []
    encoder._taps.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder.encode([image])

    torch.testing.assert_close(seen[0], expected, rtol=0, atol=2e-6)
    assert encoder.spec.preprocess is not None
    assert encoder.spec.preprocess.path == ("own" if kind == "dinov3" else "exact")


def test_the_identity_is_that_of_the_content_and_not_of_the_folder(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    def spec(folder: Path) -> Any:  # noqa: ANN401
        return Encoder(f"hf:{folder}", device="cpu", precision="fp32").spec

    copy = tmp_path / "copy"
    model = _whole(saved("dinov2"))
    model.save_pretrained(copy)
    settings = json.loads((saved("dinov2") / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    before = spec(saved("dinov2"))
    assert spec(copy) == before
    (copy / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 2}))
    assert spec(copy).preprocess != before.preprocess
    with torch.no_grad():
        model.layernorm.bias[0] += 1e-3
    model.save_pretrained(copy)
    assert spec(copy).weights_sha256 != before.weights_sha256


def test_a_folder_that_changed_is_loaded_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    choice = EncoderChoice(f"hf:{tmp_path}")
    before = choice_key(choice)
    assert choice_key(choice) == before
    (tmp_path / "config.json").write_text("{ }")
    assert choice_key(choice) != before


def test_weights_that_are_not_there_are_named_and_never_made_up(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((saved("dinov2") / name).read_text())
    state = load_file(saved("dinov2") / "model.safetensors")
    state.pop("encoder.layer.1.norm1.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LinprobeError, match=r"lacks 1 weights .*layer\.1\.norm1\.weight"):
        Encoder(f"hf:{tmp_path}", device="cpu")


def test_what_is_no_vision_tower_is_refused_with_those_that_are(tmp_path: Path) -> None:
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(LinprobeError, match="is a bert") as refusal:
        Encoder(f"hf:{tmp_path}", device="cpu")
    assert "dinov3_vit" in refusal.value.hint
    with pytest.raises(LinprobeError, match="no model of transformers in"):
        resolve_model("hf:./no-such-folder")


def test_a_model_that_is_not_cached_is_told_once_without_a_network(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("linprobe_extract.hub._reachable", lambda: False)
    with pytest.raises(LinprobeError, match="cannot download hf:nobody/nothing") as refusal:
        Encoder("hf:nobody/nothing", device="cpu")
    assert refusal.value.hint.endswith("--model hf:./FOLDER")
    assert capfd.readouterr() == ("", "")


def test_loading_prints_nothing(
    saved: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = saved("vit")
    transformers.utils.logging.enable_progress_bar()
    capfd.readouterr()
    Encoder(f"hf:{folder}", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()


def test_an_untrained_tower_has_the_shapes_of_the_loaded_one(saved: Callable[[str], Path]) -> None:
    untrained = load_untrained(EncoderChoice(f"hf:{saved('clip')}", device="cpu", precision="fp32"))
    with torch.inference_mode():
        shapes = {name: tuple(f.shape[1:]) for name, f in untrained.taps(untrained.pixels).items()}
    assert shapes == {"embedding": (12,), "pre_projection": (32,)}
