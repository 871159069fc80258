"""Modules of one's own with their own transforms, by the command and in Python."""

import importlib.metadata
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from image_factories import encode, picture
from own_encoder import Colours, shrink
from PIL import Image
from tar_factories import write_dataset
from torch import nn
from torch.utils.data import Dataset
from typer.testing import CliRunner

from linprobe import Encoder, FeatureStore, extract_features
from linprobe.door import app
from linprobe.errors import LinprobeError, MismatchError
from linprobe_extract.encoders.families import own
from linprobe_extract.encoders.family import known_models, resolve_model
from linprobe_extract.encoders.register import register

IMAGES = [picture(40, 30, seed=1), picture(31, 50, seed=2), picture(22, 22, mode="L", seed=3)]
SCALES = [1.0]


@dataclass(frozen=True, slots=True)
class Split:
    """An attribute of a module."""

    by: int


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(Colours(), shrink, name="my net", device="cpu")


def expected(images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
    pixels = torch.stack([shrink(image.convert("RGB")) for image in images])
    with torch.inference_mode():
        return {name: tap.half().numpy() for name, tap in Colours()(pixels).items()}


def test_a_module_gives_what_it_gives_of_its_own_transform(encoder: Encoder) -> None:
    features, keys = encoder.encode(IMAGES)
    assert keys == ("0", "1", "2")
    assert {name: f.dtype for name, f in features.items()} == dict.fromkeys(features, np.float16)
    for name, rows in expected(IMAGES).items():
        np.testing.assert_allclose(features[name], rows, rtol=1e-3, atol=1e-3)
    assert encoder.spec.precision == "fp32"
    assert "my net" in repr(encoder)


class Numbered(Dataset[tuple[Image.Image, int]]):
    """A torch dataset that is read by number and gives pairs."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return IMAGES[index], index


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset's file
def test_images_of_every_kind_give_the_same_features(encoder: Encoder, tmp_path: Path) -> None:
    import datasets

    files = [tmp_path / f"{i}.png" for i in range(len(IMAGES))]
    for image, file in zip(IMAGES, files, strict=True):
        image.save(file)
    packed = write_dataset(tmp_path / "pets", splits={"train": [3]})
    columns = {"image": [str(file) for file in files], "label": [0, 1, 2]}
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    pipeline = wds.WebDataset(str(packed / "train" / "0.tar"), shardshuffle=False)
    want, _ = encoder.encode(IMAGES)
    kinds = {
        "paths": [*map(str, files)],
        "arrays": [np.asarray(image) for image in IMAGES],
        "bytes": [file.read_bytes() for file in files],
        "torch": Numbered(),
        "hugging face": table,
        "undecoded": table.cast_column("image", datasets.Image(decode=False)),
    }
    keys = {}
    for kind, images in kinds.items():
        features, keys[kind] = encoder.encode(images)
        np.testing.assert_array_equal(features["embedding"], want["embedding"], err_msg=kind)
    assert keys["paths"] == tuple(map(str, files))
    assert keys["torch"] == ("0", "1", "2")
    assert encoder.encode(pipeline)[1] == tuple(sample["__key__"] for sample in pipeline)


def test_no_image_is_no_row(encoder: Encoder) -> None:
    features, keys = encoder.encode([])
    assert features["embedding"].shape == (0, 6)
    assert keys == ()


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        ([torch.zeros(3, 8, 8)], "found a Tensor of torch.float32 \\(3, 8, 8\\)"),
        ([{"label": 3}], "found a dict"),
        (IMAGES[0], "expected several images, found a Image"),
        (["no-such.png"], "image 'no-such.png' gives no features: unreadable"),
        ([b"no image"], "image '0' gives no features: not_an_image"),
    ],
    ids=["tensor", "dict", "one image", "no file", "no image"],
)
def test_what_is_no_image_is_named(encoder: Encoder, images: object, problem: str) -> None:
    with pytest.raises(LinprobeError, match=problem):
        encoder.encode(images)  # type: ignore[arg-type]


def test_images_that_are_decoded_take_the_exact_path_of_a_known_model() -> None:
    encoder = Encoder("demo", device="cpu", precision="fp32")
    decoded, _ = encoder.encode([picture(300, 200)])
    file, _ = encoder.encode([encode(picture(300, 200), "PNG")])
    np.testing.assert_array_equal(decoded["embedding"], file["embedding"])


def test_the_identity_covers_weights_code_and_pixels(encoder: Encoder) -> None:
    def other(module: nn.Module, transform: object) -> str:
        made = Encoder(module, transform, name="other", device="cpu")  # type: ignore[arg-type]
        return made.spec.encoder_id

    class Doubled(Colours):
        def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            return super().forward(2 * pixels)

    weights = Colours()
    with torch.no_grad():
        weights.mix.bias[0] += 1
    own = encoder.spec.encoder_id
    assert other(Colours(), shrink) == own
    ids = {
        own,
        other(weights, shrink),
        other(Doubled(), shrink),
        other(Colours(), lambda image: shrink(image) * 0.5),
    }
    assert len(ids) == 4
    sources = encoder.spec.config["sources"]
    assert set(sources) == {"own_encoder.Colours", "own_encoder.shrink"}
    assert all(len(digest) == 64 for digest in sources.values())


NET = """
import torch
from torch import nn

SCALE = 1.0

def helper(x):
    return x * SCALE

class Net(nn.Module):
    def __init__(self, kind="mean", k=1, eps=1e-5, table=0.0, buffer=0.0, steps=(1,), **more):
        super().__init__()
        self.inner = nn.Module()
        self.inner.kind, self.inner.k, self.inner.steps = kind, k, steps
        self.inner.table = torch.full((2,), table)
        self.inner.register_buffer("buffer", torch.full((2,), buffer), persistent=False)
        self.norm = nn.LayerNorm(12, eps=eps)
        vars(self).update(more)

    def forward(self, pixels):
        return helper(self.norm(pixels).amax((2, 3)))

def make():
    return Net(), None
"""


def net_id(folder: Path, source: str = NET, **settings: Any) -> str:  # noqa: ANN401 - of the source
    """Id of a module that is made anew of the source, as another process has it."""
    file = folder / "net_of_test.py"
    file.write_text(source, newline="")
    code = ModuleType("net_of_test")
    code.__file__ = str(file)
    exec(compile(source, file, "exec"), vars(code))
    sys.modules["net_of_test"] = code
    try:
        made = Encoder(code.Net(**settings), shrink, name="net", device="cpu")
    finally:
        del sys.modules["net_of_test"]
    return made.spec.encoder_id


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "max"},
        {"k": 2},
        {"steps": (1, 2)},
        {"eps": 1e-3},
        {"table": 1.0},
        {"buffer": 1.0},
        {"source": NET.replace("SCALE = 1.0", "SCALE = 10.0")},
        {"source": NET.replace("return x * SCALE", "return x * SCALE + 1")},
        {"pool": torch.amax},
        {"pool": lambda x: x.mean()},
        {"parts": [nn.Linear(2, 2)]},
        {"config": {"a": SimpleNamespace(b=np.ones(3))}},
        {"spec": Split(2)},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_changes_a_module_beside_its_weights_changes_its_id(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert net_id(tmp_path, **settings) != net_id(tmp_path)


def test_the_same_module_has_the_same_id_wherever_its_file_is(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()

    def around() -> dict[str, Any]:
        loop: list[object] = [object(), {3, 1, 2}, np.float32(1), torch.empty(2, device="meta")]
        loop.append(loop)
        return {"loop": loop, "act": nn.functional.gelu, "cut": partial(torch.clamp, min=0)}

    first = net_id(tmp_path, **around())
    assert net_id(tmp_path / "other", NET.replace("\n", "\r\n"), **around()) == first


def test_functions_and_objects_count_with_what_they_hold(tmp_path: Path) -> None:
    def scaled(by: float) -> Callable[[float], float]:
        return lambda x: x * by

    pair = [lambda x: x.mean(), lambda x: x.amax()]
    held = [scaled(1), scaled(2), *pair, Split(1), Split(2), partial(scaled, 1), partial(scaled, 2)]
    assert len({net_id(tmp_path, pool=each) for each in held}) == len(held)
    assert net_id(tmp_path, pool=scaled(1)) == net_id(tmp_path, pool=scaled(1))


def test_a_change_that_no_id_sees_is_refused_with_what_to_do(tmp_path: Path) -> None:
    class Scaled(Colours):
        def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {tap: SCALES[0] * x for tap, x in super().forward(pixels).items()}

    register(Encoder(Scaled(), shrink, name="net", device="cpu"), tmp_path, batch_size=2)
    SCALES[0] = 10.0
    try:
        with pytest.raises(MismatchError, match=r"norm within 1%.* found 10 times") as refusal:
            register(Encoder(Scaled(), shrink, name="net", device="cpu"), tmp_path, batch_size=2)
    finally:
        SCALES[0] = 1.0
    assert "the module may have changed" in refusal.value.hint
    assert "self.version = 2" in refusal.value.hint


def test_the_module_that_was_given_stays_as_it_was() -> None:
    module = Colours().train().double()
    Encoder(module, shrink, name="mine", device="cpu", precision="bf16")
    assert module.training
    assert module.mix.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        (lambda image: image, "transform fails on an image: TypeError: expected a tensor"),
        (lambda image: shrink(image)[:1], "shape \\(1, 12, 12\\), expected \\(3, s, s\\)"),
        (lambda image: shrink(image)[:, :6], "shape \\(3, 6, 12\\)"),
        (lambda image: shrink(image) + torch.rand(1), "other pixels each time"),
        (3, "found a Colours and a int"),
    ],
    ids=["no tensor", "gray", "not square", "random", "no function"],
)
def test_a_transform_of_no_use_is_refused(transform: object, problem: str) -> None:
    with pytest.raises(LinprobeError, match=problem):
        Encoder(Colours(), transform, name="mine", device="cpu")  # type: ignore[arg-type]


def test_a_module_needs_a_transform_and_a_name_and_a_name_needs_neither() -> None:
    with pytest.raises(LinprobeError, match="needs a transform and a name"):
        Encoder(Colours(), shrink)
    with pytest.raises(LinprobeError, match="demo has a transform and a name of its own"):
        Encoder("demo", shrink)
    with pytest.raises(LinprobeError, match="the module gives a tuple"):
        Encoder(Tupled(), shrink, name="mine", device="cpu")


class Tupled(nn.Module):
    """Gives no tensor."""

    def forward(self, pixels: torch.Tensor) -> object:
        return (3,)


def test_extraction_with_a_module_keeps_what_it_has(encoder: Encoder, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "pets", splits={"train": [5, 4], "test": [3]})
    first = extract_features(encoder, data, tmp_path / "features")
    again = extract_features(encoder, data, tmp_path / "features")
    assert first.run is not None
    assert again.run is None
    split = FeatureStore(tmp_path / "features").split("train")
    assert {tap.name: tap.dim for tap in split.taps} == {"embedding": 6, "patches": 48}
    assert split.n == 9


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "factories"))
    yield
    sys.modules.pop("own_encoder_twin", None)


@pytest.mark.usefixtures("found")
def test_the_command_takes_a_function_that_makes_a_module(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "pets", splits={"train": [5], "test": [3]})
    words = ["extract", "--encoder", "own_encoder:colours", "--data", str(data)]
    words += ["--store", str(tmp_path / "features"), "--device", "cpu"]
    ran = CliRunner().invoke(app, words, catch_exceptions=False)
    assert ran.exit_code == 0
    stored = FeatureStore(tmp_path / "features").encoder()
    assert stored.names.model == "py:own_encoder:colours"
    assert set(stored.spec.config["sources"]) == {
        "own_encoder.Colours", "own_encoder.shrink", "own_encoder.colours"
    }  # fmt: skip
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "0 shards (2 done before)" in again.output


def test_an_entry_point_names_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("colours", "own_encoder:colours", "linprobe.modules")
    monkeypatch.setattr(own, "entry_points", lambda group: [point])
    assert known_models()["py:colours"] == "module"
    encoder = Encoder("py:colours", device="cpu")
    assert encoder.names.model == "py:colours"
    assert {"own_encoder.Colours", "own_encoder.colours"} <= encoder.spec.config["sources"].keys()


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("py:own_encoder:wrong", "gave a Colours, expected \\(module, transform\\)"),
        ("py:own_encoder:broken", "own_encoder:broken failed: RuntimeError: no weights here"),
        ("py:own_encoder:nothing", "cannot import own_encoder:nothing: AttributeError"),
        ("py:no_such_package:make", "cannot import no_such_package:make: ModuleNotFoundError"),
        ("py:own_encoder:__name__", "is a str"),
        ("py:colours", "no module of one's own is called 'colours'"),
    ],
)
def test_a_function_of_no_use_is_named_with_what_it_should_be(name: str, problem: str) -> None:
    with pytest.raises(LinprobeError, match=problem):
        Encoder(name, device="cpu")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("openai/clip-vit-base-patch32", "ViT-B/32, in open_clip, or hf:openai/clip-vit-base"),
        ("openai/clip-vit-large-patch14-336", "ViT-L/14@336px"),
        ("facebook/dinov2-base", "hf:facebook/dinov2-base, in transformers"),
        ("vit_base_patch16_224", "timm:vit_base_patch16_224?"),
        ("vit_base_patch14_dinov2.lvd142m", "timm:vit_base_patch14_dinov2.lvd142m?"),
    ],
)  # fmt: skip
def test_names_as_people_type_them_get_the_right_suggestion(name: str, meant: str) -> None:
    with pytest.raises(LinprobeError, match="unknown model") as refusal:
        resolve_model(name)
    assert meant in refusal.value.hint
