"""What tests of the train stage share: one thread, and a result on a store, made once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from result_factories import probed, some_splits

from linprobe_train.results.collect import Collected
from linprobe_train.solver.passes import Crew, crew_of


@pytest.fixture
def crew() -> Iterator[Crew]:
    """One thread."""
    with crew_of(1) as workers:
        yield workers


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    """A result that no test writes to."""
    return probed(tmp_path_factory.mktemp("made"), "one", some_splits())


@pytest.fixture
def result(made: Collected, tmp_path: Path) -> Path:
    """A copy of it, with its store; the folder of the result."""
    shutil.copytree(made.folder.parents[1], tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path / "results" / made.folder.name
