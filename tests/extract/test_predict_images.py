"""A probe of stored features that is asked about images, from Python."""

from pathlib import Path

import numpy as np
import pytest
from encoder_factories import SmallModel, load_small, make_model
from image_factories import picture
from tar_factories import write_dataset

from linprobe import FeatureStore, extract_features, fit_probe, load_probe
from linprobe.errors import LinprobeError


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
