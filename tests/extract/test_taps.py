"""Taps of the tokens of a transformer: what they are, what they are called, where they are kept."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from encoder_factories import (
    SmallModel,
    load_small,
    make_model,
    normalised,
    random_pixels,
    randomise,
    save_weights,
)
from tar_factories import write_dataset
from torch import nn

from linprobe import Encoder, extract_features
from linprobe.errors import LinprobeError
from linprobe_extract.run.report import report_text
from linprobe_store.handles.store import FeatureStore

TAPS = ("embedding", "pre_projection", "cls", "patch_mean", "block-1", "block-2")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return make_model(tmp_path_factory.mktemp("vit"), "vit")


def _timm(folder: Path, name: str, **options: Any) -> tuple[Any, Path]:  # noqa: ANN401
    """A timm model with random weights, and its checkpoint."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **options).eval()
    randomise(model)
    save_weights(model, folder / "w.safetensors")
    return model, folder / "w.safetensors"


def test_taps_of_an_open_clip_vit_are_the_tokens_between_its_blocks(vit: SmallModel) -> None:
    encoder = load_small(vit, preprocess="exact", taps=TAPS)
    pixels = random_pixels(3, encoder.image_size)
    visual = vit.model.visual
    with torch.inference_mode():
        tokens, after = visual._embeds(normalised(encoder, pixels)), []
        for block in visual.transformer.resblocks:
            tokens = block(tokens)
            after.append(tokens[:, 0])
        normed = visual.ln_post(tokens)
    features = encoder.encode_pixels(pixels)

    assert list(features) == list(TAPS)
    torch.testing.assert_close(features["cls"], normed[:, 0])
    torch.testing.assert_close(features["patch_mean"], normed[:, 1:].mean(dim=1))
    torch.testing.assert_close([features["block-1"], features["block-2"]], after)


def test_more_taps_change_nothing_of_those_of_the_model(vit: SmallModel) -> None:
    plain, more = load_small(vit, preprocess="exact"), load_small(vit, taps=TAPS)
    pixels = random_pixels(3, plain.image_size)
    ours, theirs = more.encode_pixels(pixels), plain.encode_pixels(pixels)

    assert all(torch.equal(ours[name], theirs[name]) for name in ("embedding", "pre_projection"))


def test_all_taps_are_of_one_forward_pass(vit: SmallModel) -> None:
    encoder = load_small(vit, taps=TAPS)
    seen: list[int] = []
    blocks = [m for m in encoder._taps.modules() if type(m).__name__ == "ResidualAttentionBlock"]
    for number, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, number=number: seen.append(number))
    encoder.encode_pixels(random_pixels(2, encoder.image_size))

    assert seen == [0, 1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_vit", {}),
        ("test_vit", {"reg_tokens": 2}),
        ("test_vit", {"class_token": False, "global_pool": "avg", "fc_norm": False}),
    ],
    ids=["class token", "with registers", "without class token"],
)
def test_taps_of_a_timm_vit_are_its_own_intermediates(
    name: str,
    options: Any,  # noqa: ANN401 - passed through
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, weights = _timm(tmp_path, name, **options)
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **options))
    n_prefix, n_blocks = model.num_prefix_tokens, len(model.blocks)
    taps = ["embedding", "patch_mean", *(["cls", "last4"] if n_prefix else [])]
    encoder = Encoder(f"timm:{name}", weights=weights, device="cpu", precision="fp32", taps=taps)
    pixels = random_pixels(2, encoder.image_size)
    with torch.inference_mode():
        normed, inside = model.forward_intermediates(
            normalised(encoder, pixels), return_prefix_tokens=n_prefix > 0, output_fmt="NLC"
        )
    features = encoder.encode_pixels(pixels)

    torch.testing.assert_close(features["patch_mean"], normed[:, n_prefix:].mean(dim=1))
    if n_prefix:
        torch.testing.assert_close(features["cls"], normed[:, 0])
        assert encoder.spec.n_blocks == n_blocks
        for number in range(n_blocks - 3, n_blocks + 1):
            _, prefix = inside[number - 1]
            torch.testing.assert_close(features[f"block-{number}"], prefix[:, 0])
    else:
        with pytest.raises(LinprobeError, match="no tap 'cls'"):
            Encoder(f"timm:{name}", weights=weights, device="cpu", taps=["cls"])


def test_taps_of_a_timm_trunk_in_open_clip_are_those_of_the_trunk(tmp_path: Path) -> None:
    small = make_model(tmp_path, "siglip")
    encoder = load_small(small, preprocess="exact", taps=("embedding", "patch_mean"))
    pixels = random_pixels(2, encoder.image_size)
    trunk: nn.Module = small.model.visual.trunk
    with torch.inference_mode():
        tokens = trunk.forward_features(normalised(encoder, pixels))  # type: ignore[operator]
        embedding = small.model.visual(normalised(encoder, pixels))
    features = encoder.encode_pixels(pixels)
    n_prefix: Any = trunk.num_prefix_tokens

    torch.testing.assert_close(features["patch_mean"], tokens[:, n_prefix:].mean(dim=1))
    assert torch.equal(features["embedding"], embedding)


def test_the_order_and_the_writing_of_taps_make_no_other_encoder(vit: SmallModel) -> None:
    plain = load_small(vit)
    assert load_small(vit, taps=("pre_projection", "embedding")).spec == plain.spec
    one = load_small(vit, taps=("cls", "embedding")).spec.encoder_id
    other = load_small(vit, taps=("embedding", "cls", "cls")).spec.encoder_id
    assert one == other != plain.spec.encoder_id


@pytest.mark.parametrize(
    ("kind", "tap", "has"),
    [
        ("vit", "block-3", "embedding, pre_projection, cls, patch_mean, block-1 to block-2"),
        ("vit", "last4", "block-1 to block-2"),
        ("coca", "cls", "embedding, pre_projection, block-1 to block-2"),
        ("resnet", "patch_mean", "it has embedding"),
        ("timm-head", "cls", "it has embedding"),
        ("siglip", "pre_projection", "it has embedding, cls, patch_mean, block-1 to block-6"),
    ],
)
def test_a_tap_that_a_model_does_not_have_is_refused_with_those_it_has(
    tmp_path: Path, kind: str, tap: str, has: str
) -> None:
    small = make_model(tmp_path, kind)
    with pytest.raises(LinprobeError, match=f"no tap '{tap}'") as refusal:
        load_small(small, taps=("embedding", tap))
    assert has in refusal.value.hint


def test_without_the_embedding_the_next_command_names_a_tap(
    vit: SmallModel, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "pets", splits={"train": [5], "test": [3]})
    report = extract_features(load_small(vit, taps=("cls", "patch_mean")), data, tmp_path / "s")

    assert "--data pets --tap cls" in report_text(report)


def test_more_taps_are_another_encoder_beside_the_one_that_stays(
    vit: SmallModel, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "pets", splits={"train": [5], "test": [3]})
    other = write_dataset(tmp_path / "cars", splits={"train": [4], "test": [3]})
    store, plain = tmp_path / "features", load_small(vit)
    extract_features(plain, data, store)
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file() and "sets" in p.parts}
    more = load_small(vit, taps=("embedding", "cls", "patch_mean", "block-2"))
    report = extract_features(more, data, store)
    extract_features(more, other, store)
    name = plain.names.model

    assert report.run is not None
    assert all(path.read_bytes() == content for path, content in before.items())
    features = FeatureStore(store)
    assert len(features.encoders()) == 2
    assert features.encoder(name, tap="embedding").encoder_id == plain.spec.encoder_id
    assert features.encoder(name, tap="cls+block-2").encoder_id == more.spec.encoder_id
    with_cars = features.encoder(name, tap="embedding", data=["cars"])
    assert with_cars.encoder_id == more.spec.encoder_id
    assert features.encoder(more.spec.encoder_id, tap="embedding").spec == more.spec
    train = features.split("train", encoder=name, dataset="pets", tap="cls+patch_mean")
    joined = np.concatenate([train.array("cls"), train.array("patch_mean")], axis=1)
    np.testing.assert_array_equal(np.concatenate([*train.blocks("cls+patch_mean")]), joined)
    np.testing.assert_array_equal(train.rows([3, 0], "cls+patch_mean"), joined[[3, 0]])
    # Nothing is stored of what is joined.
    assert {tap.name for tap in train.taps} == {"embedding", "cls", "patch_mean", "block-2"}
