"""Files, folders and downloads: what fits is loaded, what does not says why."""

import difflib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from encoder_factories import CONFIGS, load_small, make_model, save_weights
from huggingface_hub import constants
from safetensors.torch import save_file

from linprobe import Encoder
from linprobe.errors import LinprobeError
from linprobe_extract import hub
from linprobe_extract.encoders.weights import read_checkpoint


def no_network(*_args: object, **_options: object) -> None:
    """Fail as a download without a network does."""
    raise OSError("Name or service not known\nand more")


@pytest.mark.parametrize(
    ("name", "function", "hint"),
    [
        ("ViT-B/16", "open_clip.download_pretrained", "--weights FILE"),
        (
            "hf-hub:org/repo",
            "linprobe_extract.encoders.families.open_clip.download_pretrained_from_hf",
            "--model local-dir:FOLDER",
        ),
        ("timm:test_vit", "timm.create_model", "--weights FILE"),
    ],
)
def test_a_failed_download_says_the_way_without_a_network(
    name: str, function: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(hub, "_reachable", lambda: True)
    monkeypatch.setattr(function, no_network)
    with pytest.raises(
        LinprobeError, match=r"cannot download .*Name or service not known$"
    ) as raised:
        Encoder(name, device="cpu")
    assert hint in raised.value.hint


def test_an_unreachable_hub_is_read_from_its_cache_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("socket.create_connection", no_network)
    before = constants.HF_HUB_OFFLINE
    with hub.cache_alone_if_unreachable():
        assert constants.HF_HUB_OFFLINE
    assert before == constants.HF_HUB_OFFLINE

    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "proxy:3128"})
    with hub.cache_alone_if_unreachable():
        assert before == constants.HF_HUB_OFFLINE


def test_a_local_folder_is_loaded_as_open_clip_writes_it(tmp_path: Path) -> None:
    model = make_model(tmp_path, "vit")
    folder = tmp_path / "My-Model"
    folder.mkdir()
    config = {"model_cfg": CONFIGS["vit"], "preprocess_cfg": {"resize_mode": "squash", "mean": 0.5}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_weights(model.model, folder / "open_clip_model.safetensors")
    save_weights(model.model, folder / "older.safetensors")
    encoder = Encoder(f"local-dir:{folder}", device="cpu", precision="fp32")

    assert encoder.names.slug == "my-model"
    assert encoder.preprocess.resize_mode == "squash"
    assert encoder.preprocess.mean == (0.5, 0.5, 0.5)

    (folder / "open_clip_model.safetensors").rename(folder / "newer.safetensors")
    with pytest.raises(LinprobeError, match="holds 2 checkpoints"):
        Encoder(f"local-dir:{folder}", device="cpu")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(LinprobeError, match="holds no checkpoint"):
        Encoder(f"local-dir:{folder}", device="cpu")
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(LinprobeError, match=r"open_clip_config\.json: missing"):
        Encoder(f"local-dir:{folder}", device="cpu", precision="fp32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"width": 3}, "is not a model configuration of open_clip"),
        (lambda c: [c], "Expected `object`, got `array`"),
        (lambda c: c | {"vision_cfg": {"depth": 3}}, "cannot build this model: .*depth"),
        (
            lambda c: c | {"vision_cfg": c["vision_cfg"] | {"image_size": [32, 64]}},
            "not square: .*32, 64",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(
    tmp_path: Path, change: Callable[[dict[str, object]], object], message: str
) -> None:
    model = make_model(tmp_path, "vit")
    config = tmp_path / "changed.json"
    config.write_text(json.dumps(change(dict(CONFIGS["vit"]))))
    if "not square" in message:
        wide = open_clip.model.CLIP(**json.loads(config.read_text()))
        save_weights(wide, tmp_path / "wide.pt")
        model = replace(model, weights=tmp_path / "wide.pt")

    with pytest.raises(LinprobeError, match=message):
        load_small(replace(model, config=config))


@pytest.mark.parametrize(
    ("part", "setting", "message"),
    [
        ("vision_cfg", {"timm_model_name": "hf-hub:a-stranger/model"}, "expected a name of timm's"),
        ("vision_cfg", {"timm_model_name": "local-dir:/etc"}, "expected a name of timm's own"),
        ("vision_cfg", {"timm_model_name": ["resnet18"]}, "expected a name of timm's own"),
        ("vision_cfg", {"layers": 10**9}, "expected whole numbers up to 1,000"),
        ("vision_cfg", {"head_width": 0}, "cannot build this model"),
        ("vision_cfg", {"image_size": {}}, "cannot build this model"),
        ("preprocess_cfg", {"mean": "abc"}, "cannot build this model"),
        ("preprocess_cfg", {"std": []}, "cannot build this model"),
        ("preprocess_cfg", {"mode": "L"}, "cannot build this model"),
    ],
)
def test_a_configuration_of_a_stranger_is_refused_and_reads_nothing_else(
    tmp_path: Path,
    part: str,
    setting: dict[str, object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model(tmp_path, "vit")
    content = {"model_cfg": dict(CONFIGS["vit"]), "preprocess_cfg": {}}
    changed = content["model_cfg"] if part == "vision_cfg" else content
    changed[part] = {**changed[part], **setting}
    (tmp_path / "strange.json").write_text(json.dumps(content))
    monkeypatch.setattr("socket.socket.connect", no_network)

    with pytest.raises(LinprobeError, match=message):
        load_small(replace(model, config=tmp_path / "strange.json"))


def test_a_configuration_downloads_no_weights_and_no_text_tower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path, "timm-linear")
    content = json.loads(model.config.read_text())
    content["vision_cfg"]["timm_model_pretrained"] = True
    content["text_cfg"] = {"hf_model_name": "a-stranger/code", "hf_model_pretrained": True}
    (tmp_path / "asking.json").write_text(json.dumps(content))
    asked: list[object] = []
    create = timm.create_model

    def recorded(name: str, **options: Any) -> object:  # noqa: ANN401 - timm's own
        asked.append(options["pretrained"])
        return create(name, **options)

    monkeypatch.setattr("timm.create_model", recorded)
    monkeypatch.setattr("socket.socket.connect", no_network)
    load_small(replace(model, config=tmp_path / "asking.json"))

    assert asked == [False]


def test_a_checkpoint_that_does_not_fit_names_the_keys(tmp_path: Path) -> None:
    model = make_model(tmp_path, "vit")
    state = {k: v for k, v in model.model.state_dict().items() if k != "visual.ln_post.bias"}
    state |= {"visual.extra": torch.zeros(1), "visual.proj": torch.zeros(64, 25)}
    state |= {f"visual.more_{i}": torch.zeros(1) for i in range(9)}
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "other.safetensors")

    with pytest.raises(LinprobeError) as raised:
        load_small(replace(model, weights=tmp_path / "other.safetensors"))
    message = raised.value.message
    assert "missing: ln_post.bias" in message
    assert "unexpected: extra, more_0, more_1 and 7 more" in message
    assert "proj is (64, 25) in the file and (64, 24) in the model" in message
    assert "other.safetensors does not fit" in message


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", bytes(4096), b"PK\x03\x04" + bytes(90)]
)
def test_a_file_that_is_no_checkpoint_is_refused(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    model = make_model(tmp_path, "vit")
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(content)

    with pytest.raises(LinprobeError, match="not a readable checkpoint"):
        load_small(replace(model, weights=broken))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    model = make_model(tmp_path, "vit")
    torch.save({"state_dict": {}, "differ": difflib.Differ()}, tmp_path / "code.pt")

    with pytest.raises(LinprobeError, match="not a readable checkpoint"):
        load_small(replace(model, weights=tmp_path / "code.pt"))


def test_a_checkpoint_that_is_a_list_or_has_no_vision_tower_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path, "vit")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")

    with pytest.raises(LinprobeError, match="a list is not a state dict"):
        load_small(replace(model, weights=tmp_path / "list.pt"))
    with pytest.raises(LinprobeError, match="none of its 1 keys begins with visual"):
        load_small(replace(model, weights=tmp_path / "other.pt"))


def test_weights_that_give_no_finite_features_are_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path, "vit")
    model.model.visual.proj.data[3, 4] = float("nan")
    save_weights(model.model, tmp_path / "nan.pt")

    with pytest.raises(LinprobeError, match="embedding of built-in images has infinities or NaN"):
        load_small(replace(model, weights=tmp_path / "nan.pt"))


def test_a_text_and_a_pickle_of_code_are_refused_without_the_advice_to_run_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.pt").write_text("hello\n")
    torch.save({"state_dict": Path}, tmp_path / "b.pt")
    for name, why in (("a.pt", "neither a zip archive nor a pickle"), ("b.pt", "is not run")):
        with pytest.raises(LinprobeError, match=why) as caught:
            read_checkpoint(tmp_path / name)
        assert "weights_only" not in f"{caught.value.message} {caught.value.hint}"
