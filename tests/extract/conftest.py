"""A small encoder and a small dataset, for the tests of whole runs."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
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


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL of a web server on this machine that serves it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    folder = tmp_path / "web"
    folder.mkdir()
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
