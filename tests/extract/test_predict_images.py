"""A probe of stored features that is asked about images, from Python."""

from pathlib import Path

import numpy as np
import pytest
from encoder_factories import SmallModel, load_small, make_model
from image_factories import picture
from PIL import Image
from tar_factories import write_dataset

from linprobe import FeatureStore, extract_features, fit_probe, load_probe
from linprobe.errors import DataError, LinprobeError
from linprobe_train.results.saved_probe import SavedProbe


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return make_model(tmp_path_factory.mktemp("vit"), "vit")


@pytest.mark.parametrize("tap", ["embedding", "cls+patch_mean"])
def test_paths_are_classified_by_the_encoder_of_the_probe_loaded_or_by_name(
    tap: str, vit: SmallModel, tmp_path: Path
) -> None:
    encoder = load_small(vit, taps=("embedding", "cls", "patch_mean"))
    data = write_dataset(tmp_path / "pets", splits={"train": [9], "test": [3]})
    extract_features(encoder, data, tmp_path / "features")
    split = FeatureStore(tmp_path / "features").split("train")
    probe = load_probe(fit_probe(split, tap=tap).save(tmp_path / "probe"))
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        picture(40, 30, seed=i).save(path)
    features, keys = encoder.encode(paths)
    names = tap.split("+")

    by_name = probe.predict_images(paths, weights=vit.weights, device="cpu")
    by_encoder = probe.predict_images(paths, encoder=encoder)
    expected = probe.predict(np.concatenate([features[name] for name in names], axis=1))
    for answer in (by_name, by_encoder):
        assert answer.keys == keys == tuple(map(str, paths))
        assert answer.classes.tolist() == expected.tolist()
        assert answer.probabilities.shape == (3, len(probe.classes))
    np.testing.assert_allclose(by_name.probabilities, by_encoder.probabilities, atol=1e-3)
    with pytest.raises(LinprobeError, match="takes features of"):
        probe.predict_images(paths, encoder=load_small(vit))


@pytest.fixture(scope="module")
def of_split(vit: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> SavedProbe:
    folder = tmp_path_factory.mktemp("of_split")
    data = write_dataset(folder / "pets", splits={"train": [9]})
    extract_features(load_small(vit), data, folder / "features")
    split = FeatureStore(folder / "features").split("train")
    return load_probe(fit_probe(split).save(folder / "probe"))


@pytest.fixture
def of_arrays(vit: SmallModel, tmp_path: Path) -> SavedProbe:
    x, _ = load_small(vit).encode([picture(40, 30, seed=i) for i in range(4)])
    return load_probe(fit_probe(x["embedding"], [3, 5, 3, 5]).save(tmp_path / "arrays"))


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("with_encoder", [False, True])
def test_one_path_is_one_path(
    kind: type, *, with_encoder: bool, of_split: SavedProbe, vit: SmallModel, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    picture(40, 30, seed=1).save(path)
    encoder = load_small(vit) if with_encoder else None
    answer = of_split.predict_images(kind(path), encoder=encoder, weights=vit.weights, device="cpu")
    assert answer.keys == (str(path),)


@pytest.mark.parametrize("images", ["", [""], ("a.png", "")])
@pytest.mark.parametrize("with_encoder", [False, True])
def test_an_empty_path_is_refused(
    images: object, *, with_encoder: bool, of_split: SavedProbe, vit: SmallModel
) -> None:
    encoder = load_small(vit) if with_encoder else None
    with pytest.raises(DataError, match="the path of an image is empty"):
        of_split.predict_images(images, encoder=encoder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ([picture(40, 30)], "Image"),
        (picture(40, 30), "Image"),
        ([np.zeros((30, 40, 3), np.uint8)], "ndarray"),
        (np.zeros((2, 30, 40, 3), np.uint8), "ndarray"),
        ([b"GIF89a"], "bytes"),
        (b"GIF89a", "bytes"),
        ({"image": "a.png"}, "dict"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_path_is_refused_without_an_encoder(
    images: object, found: str, of_split: SavedProbe
) -> None:
    with pytest.raises(DataError, match=f"expected paths of images, found .* {found}") as refusal:
        of_split.predict_images(images)  # type: ignore[arg-type]
    assert "encoder=" in refusal.value.hint


def test_pixels_are_classified_with_an_encoder(of_arrays: SavedProbe, vit: SmallModel) -> None:
    images: list[Image.Image | np.ndarray] = [picture(40, 30, seed=i) for i in range(4)]
    images[1] = np.asarray(images[1])
    answer = of_arrays.predict_images(images, encoder=load_small(vit))
    assert answer.keys == ("0", "1", "2", "3")
    assert set(answer.classes.tolist()) <= {3, 5}


def test_a_probe_of_arrays_asks_for_its_encoder(of_arrays: SavedProbe, tmp_path: Path) -> None:
    picture(40, 30).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="knows no encoder") as refusal:
        of_arrays.predict_images([tmp_path / "a.png"], store=tmp_path / "nowhere")
    assert "encoder=" in refusal.value.hint


def test_the_name_of_an_encoder_is_not_one(of_split: SavedProbe) -> None:
    with pytest.raises(DataError, match="expected an Encoder, found a str") as refusal:
        of_split.predict_images(["a.png"], encoder="ViT-B/16")
    assert "encoder=Encoder(" in refusal.value.hint
