"""An encoder id is a function of weights, activation, pixels and arithmetic, of nothing else."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import open_clip
import torch
from encoder_factories import (
    load_small,
    make_model,
    save_weights,
)
from safetensors.torch import save_file

from linprobe import Encoder
from linprobe_extract.encoders.weights import digest_weights
from linprobe_extract.pixels.canary import with_canary


def test_the_same_weights_have_the_same_id_in_every_format(tmp_path: Path) -> None:
    """.safetensors, .pt, a training checkpoint, a TorchScript archive; under any file name."""
    model = make_model(tmp_path, "vit-quickgelu")
    state = model.model.state_dict()
    save_weights(model.model, tmp_path / "plain.pt")
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": parallel, "optimizer": {}}, tmp_path / "epoch_3.pt")
    save_archive(model.model.visual, tmp_path / "archive.pt")
    files = [model.weights, *(tmp_path / f for f in ("plain.pt", "epoch_3.pt", "archive.pt"))]

    ids = {load_small(replace(model, weights=file)).spec.encoder_id for file in files}
    assert len(ids) == 1


def save_archive(visual: torch.nn.Module, path: Path) -> None:
    """Save a vision tower as OpenAI does: traced, below the name ``visual``."""

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = visual

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.visual(pixels)
            return features

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Whole(), torch.zeros(1, 3, 32, 32), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, path)


def test_half_precision_weights_are_loaded_as_float32(tmp_path: Path) -> None:
    """OpenAI's archives are half precision, the hub's copies of them are not."""
    model = make_model(tmp_path, "vit")
    rounded = {k: v.half() for k, v in model.model.state_dict().items()}
    save_file(rounded, tmp_path / "half.safetensors")
    save_file({k: v.float() for k, v in rounded.items()}, tmp_path / "float.safetensors")
    half, full = (
        load_small(replace(model, weights=tmp_path / f"{name}.safetensors"))
        for name in ("half", "float")
    )

    assert half.spec.encoder_id == full.spec.encoder_id
    assert half.spec.encoder_id != load_small(model).spec.encoder_id


def test_every_choice_that_changes_features_changes_the_id(tmp_path: Path) -> None:
    model = make_model(tmp_path, "vit")
    twin = make_model(tmp_path, "vit-quickgelu")
    other = make_model(tmp_path, "vit", seed=1)
    encoders = [
        load_small(model),
        load_small(other),
        load_small(replace(twin, weights=model.weights)),
        load_small(model, preprocess="exact"),
        load_small(model, precision="bf16"),
        load_small(model, storage_dtype="float32"),
    ]

    assert encoders[0].spec.weights_sha256 == encoders[2].spec.weights_sha256
    assert {e.spec.activation for e in encoders} == {"gelu", "quick_gelu"}
    assert len({e.spec.encoder_id for e in encoders}) == len(encoders)
    assert load_small(model).spec.encoder_id == encoders[0].spec.encoder_id


def test_the_id_is_of_the_effective_configuration_not_of_its_spelling(tmp_path: Path) -> None:
    """A JSON that states open_clip's defaults is the model of one that leaves them out."""
    model = make_model(tmp_path, "vit")
    told = open_clip.get_model_config(model.config.stem)
    told["vision_cfg"] |= {"mlp_ratio": 4.0, "pool_type": "tok", "patch_dropout": 0.5}
    spelt = tmp_path / "another-name.json"
    spelt.write_text(json.dumps(told))

    one, other = load_small(model), load_small(replace(model, config=spelt))
    assert one.spec.encoder_id == other.spec.encoder_id
    assert one.names != other.names
    assert one.spec.config == {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 64,
            "head_width": 16,
            "patch_size": 8,
        },
    }


def test_the_canary_in_the_spec_is_this_machines() -> None:
    encoder = Encoder("demo", device="cpu")

    assert with_canary(encoder.preprocess) == encoder.preprocess


def test_the_digest_of_weights_sees_names_shapes_dtypes_and_bytes_but_no_order() -> None:
    def digest(**tensors: torch.Tensor) -> str:
        module = torch.nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return digest_weights(module)

    a, b = torch.arange(6.0), torch.ones(2, 3)
    assert digest(a=a, b=b) == digest(b=b, a=a)
    assert digest(a=a, b=b) == digest(a=a.clone(), b=b.T.contiguous().T)
    others = [
        digest(a=a, c=b),
        digest(a=a.view(2, 3), b=b),
        digest(a=a.double(), b=b),
        digest(a=-a, b=b),
        digest(a=b, b=a),
        digest(a=a),
    ]
    assert len({digest(a=a, b=b), *others}) == len(others) + 1
