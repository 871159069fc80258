"""A loaded encoder gives, bit for bit, what the library's whole model gives."""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import open_clip
import pytest
import torch
from encoder_factories import (
    CONFIGS,
    SmallModel,
    load_small,
    make_model,
    normalised,
    random_pixels,
)
from image_factories import encode, picture
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import Normalize, ToTensor

from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import Arithmetic, PreprocessPath
from linprobe_extract.encoders.precision import DTYPES
from linprobe_extract.pixels.preprocess import preprocess
from linprobe_store.format.spec import Tap

SmallModels = Callable[[str], tuple[SmallModel, Encoder]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallModels:
    """A small model of each kind with its encoder by the library's own arithmetic, made once."""
    folder: Path = tmp_path_factory.mktemp("models")

    @cache
    def made(kind: str) -> tuple[SmallModel, Encoder]:
        model = make_model(folder, kind)
        return model, load_small(model, preprocess="exact")

    return made


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_tower_alone_gives_exactly_what_encode_image_gives(
    small: SmallModels, kind: str
) -> None:
    model, encoder = small(kind)
    pixels = random_pixels(3, encoder.image_size)

    with torch.inference_mode():
        expected = model.model.encode_image(normalised(encoder, pixels), normalize=False)
    assert torch.equal(encoder.encode_pixels(pixels)["embedding"], expected)


@pytest.mark.parametrize("kind", ["vit", "vit-avg", "coca"])
def test_a_vits_pre_projection_is_its_pooled_output(small: SmallModels, kind: str) -> None:
    model, encoder = small(kind)
    pixels = random_pixels(3, encoder.image_size)
    visual = model.model.visual
    features = encoder.encode_pixels(pixels)

    with torch.inference_mode():
        proj, visual.proj = visual.proj, None
        pooled = visual(normalised(encoder, pixels))
        visual.proj = proj
        projected = features["pre_projection"] @ proj
    pooled = pooled[0] if isinstance(pooled, tuple) else pooled
    assert torch.equal(features["pre_projection"], pooled)
    assert torch.equal(projected, features["embedding"])


def test_a_resnets_pre_projection_is_its_attention_pooling_before_c_proj(
    small: SmallModels,
) -> None:
    """The oracle is open_clip's own pooling with an identity in place of ``c_proj``."""
    model, encoder = small("resnet")
    pixels = random_pixels(3, encoder.image_size)
    pool = model.model.visual.attnpool
    features = encoder.encode_pixels(pixels)

    with torch.inference_mode():
        projected = pool.c_proj(features["pre_projection"])
        c_proj, pool.c_proj = pool.c_proj, torch.nn.Linear(256, 256)
        pool.c_proj.weight.copy_(torch.eye(256))
        pool.c_proj.bias.zero_()
        pooled = model.model.visual(normalised(encoder, pixels))
        pool.c_proj = c_proj
    assert torch.equal(features["pre_projection"], pooled)
    torch.testing.assert_close(projected, features["embedding"])


def test_a_timm_towers_pre_projection_is_its_trunk_output(small: SmallModels) -> None:
    model, encoder = small("timm-linear")
    pixels = random_pixels(3, encoder.image_size)
    features = encoder.encode_pixels(pixels)

    with torch.inference_mode():
        trunk = model.model.visual.trunk(normalised(encoder, pixels))
        assert torch.equal(features["pre_projection"], trunk)
        assert torch.equal(model.model.visual.head(trunk), features["embedding"])


def test_a_timm_classifier_used_as_projection_is_opened_up(small: SmallModels) -> None:
    """MobileCLIP2 and EVA02 have no head of open_clip's; the trunk's own classifier projects."""
    model, encoder = small("timm-head")
    pixels = random_pixels(3, encoder.image_size)
    trunk = model.model.visual.trunk
    features = encoder.encode_pixels(pixels)

    with torch.inference_mode():
        grid = trunk.forward_features(normalised(encoder, pixels))
        assert torch.equal(features["pre_projection"], trunk.forward_head(grid, pre_logits=True))
        logits = trunk.get_classifier()(features["pre_projection"])
    assert torch.equal(logits, features["embedding"])


@pytest.mark.parametrize(
    ("kind", "taps"),
    [
        ("vit", (Tap("embedding", 24), Tap("pre_projection", 64))),
        ("coca", (Tap("embedding", 32), Tap("pre_projection", 32))),
        ("resnet", (Tap("embedding", 24), Tap("pre_projection", 256))),
        ("timm-head", (Tap("embedding", 24), Tap("pre_projection", 256))),
        ("siglip", (Tap("embedding", 64),)),
    ],
)
def test_the_spec_lists_the_taps_that_encode_gives(
    small: SmallModels, kind: str, taps: tuple[Tap, ...]
) -> None:
    _, encoder = small(kind)
    features = encoder.encode_pixels(random_pixels(2, encoder.image_size))

    assert encoder.spec.taps == taps
    assert [Tap(name, f.shape[1]) for name, f in features.items()] == list(taps)
    assert all(f.dtype == torch.float32 for f in features.values())


@pytest.mark.parametrize("kind", ["vit", "siglip"])
def test_the_exact_path_is_open_clips_whole_pipeline_bit_for_bit(
    small: SmallModels, kind: str
) -> None:
    """From the bytes of a file to the feature, with open_clip's own transform as the oracle."""
    model, encoder = small(kind)
    data = encode(picture(200, 150))
    slot = torch.empty(1, 3, encoder.image_size, encoder.image_size, dtype=torch.uint8)
    preprocess(encoder.preprocess, data, slot[0])
    transform = image_transform_v2(PreprocessCfg(size=encoder.image_size), is_train=False)

    with torch.inference_mode():
        expected = model.model.encode_image(transform(Image.open(io.BytesIO(data)))[None])
    assert torch.equal(encoder.encode_pixels(slot)["embedding"], expected)


def test_fast_features_are_within_5e_5_of_exact_ones(small: SmallModels) -> None:
    model, exact = small("vit")
    fast = load_small(model)
    slots = torch.empty(2, 20, 3, 32, 32, dtype=torch.uint8)
    for i in range(20):
        data = encode(picture(150 + 17 * i, 300 - 5 * i, seed=i))
        preprocess(fast.preprocess, data, slots[0, i])
        preprocess(exact.preprocess, data, slots[1, i])

    one, other = (e.encode_pixels(s)["embedding"] for e, s in ((fast, slots[0]), (exact, slots[1])))
    assert not torch.equal(slots[0], slots[1])
    assert float(1 - torch.cosine_similarity(one, other).min()) < 5e-5


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_normalisation_is_torchvisions_for_every_gray_level(
    small: SmallModels, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    """In fp32 bit for bit; in 16 bits equal after rounding to them. All levels, all channels."""
    _, encoder = small("vit")
    spec = replace(encoder.spec, preprocess=replace(encoder.preprocess, mean=mean, std=std))
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    expected = Normalize(mean, std)(ToTensor()(levels[0].permute(1, 2, 0).numpy()))[None]

    arithmetics: tuple[Arithmetic, ...] = ("fp32", "bf16", "fp16")
    for precision in arithmetics:
        tower = Encoder(replace(spec, precision=precision), encoder.names, torch.nn.Linear(1, 1))
        assert torch.equal(tower._normalised(levels), expected.to(DTYPES[precision]))


@pytest.mark.parametrize("path", ["exact", "fast"])
def test_pixels_may_have_any_strides(small: SmallModels, path: PreprocessPath) -> None:
    encoder = load_small(small("resnet")[0], preprocess=path)
    pixels = random_pixels(3, encoder.image_size)
    last = pixels.to(memory_format=torch.channels_last)

    assert torch.equal(
        encoder.encode_pixels(last)["embedding"], encoder.encode_pixels(pixels)["embedding"]
    )
