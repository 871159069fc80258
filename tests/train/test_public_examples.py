"""What ``help()`` shows of the public names: shapes and an example, which holds."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from train_factories import SplitData, features, stored_dataset

import linprobe

TABLES = {"PROTOCOLS"}
"""Names of values, which have no help of their own."""
NEED_TORCH = {"Encoder", "extract_features"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples read: a store, and in ``data`` a packed dataset."""
    X, y = features(240, 12, 4)
    splits = {"train": SplitData(X[:180], y[:180]), "test": SplitData(X[180:], y[180:])}
    stored_dataset(tmp_path / "features", splits, classes=tuple(f"c{i}" for i in range(4)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(set(dir(linprobe)) - TABLES))
def test_the_example_of_a_public_name_holds(name: str, folder: Path) -> None:
    if name in NEED_TORCH:
        pytest.importorskip("torch")
        from tar_factories import write_dataset

        write_dataset(folder / "data" / "pets", splits={"train": [4], "test": [3]})
    value = getattr(linprobe, name)
    globs = {"np": np} | {each: getattr(linprobe, each) for each in ("FeatureStore", "sweep", name)}
    assert value.__doc__, name
    parts = doctest.DocTestFinder(recurse=False).find(value, name, globs=globs)
    results = [doctest.DocTestRunner(verbose=False).run(part) for part in parts]

    assert sum(result.attempted for result in results) > 0, "no example"
    assert sum(result.failed for result in results) == 0
    assert not any(option for part in parts for e in part.examples for option in e.options)


def test_reprs_are_short_and_arrays_are_arrays(folder: Path) -> None:
    store = linprobe.FeatureStore("features")
    split = store.split("train")
    probe = linprobe.fit_probe(split)

    assert repr(store) == "FeatureStore('features': ViT-T/8)"
    assert repr(linprobe.FeatureStore("nowhere")) == "FeatureStore('nowhere': no such folder yet)"
    assert repr(split).startswith("Split(train of toys by ViT-T/8: 180 rows, 4 classes; embedding")
    assert repr(probe) == "FittedProbe(12 features, 4 classes: c0, c1, c2 and 1 more; C = 1)"
    assert len(split) == 180
    np.testing.assert_array_equal(np.asarray(split), split.array("embedding"))
    assert np.array(split, np.float64, copy=True).flags.owndata


def test_a_folder_that_is_no_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(linprobe.LinprobeError, match="is no feature store: no such folder"):
        linprobe.FeatureStore(tmp_path / "nope").split("train")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(linprobe.LinprobeError, match="expected a feature store"):
        linprobe.FeatureStore(tmp_path / "photos")
