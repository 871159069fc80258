"""A small encoder and a small dataset, for the tests of whole runs."""

from pathlib import Path

import pytest
from encoder_factories import SmallModel, load_small, make_model
from tar_factories import write_dataset

from linprobe_extract.encoders.encoder import Encoder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    return make_model(tmp_path_factory.mktemp("model"), "vit-quickgelu")


@pytest.fixture(scope="session")
def encoder(model: SmallModel) -> Encoder:
    return load_small(model)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "pets", splits={"train": [5, 7, 4], "test": [3]})
