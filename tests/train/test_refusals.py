"""What ``linprobe probe`` refuses, tells and survives; nothing half-written stays."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from result_factories import signed_again
from train_command import CLASSES, only_folder, probe, some_splits
from train_factories import SplitData, features, stored_dataset

from linprobe.disk import Staging
from linprobe.errors import DataError, OptionError, ProbeError, ResultError
from linprobe_train.results.answers import read_result


@pytest.mark.parametrize(
    ("options", "refusal", "words"),
    [
        (["--C", "0"], OptionError, "C = 0"),
        (["--C", "-1"], OptionError, "C = -1"),
        (["--C", "nan"], OptionError, "C = nan"),
        (["--C", "1", "--grid", "1,2"], OptionError, "contradict"),
        (["--C", "1", "--cv", "3"], OptionError, "--cv"),
        (["--cv", "1"], OptionError, "--cv"),
        (["--grid", "a,b"], OptionError, "'a,b'"),
        (["--protocol", "clip"], OptionError, "clip-paper"),
        (["--protocol", "clip-paper"], OptionError, "pre_projection"),
        (["--metric", "top7"], OptionError, "mean_per_class"),
        (["--metric", "map"], OptionError, "'map' does not exist for these labels"),
        (["--memory", "much"], OptionError, "'much'"),
        (["--memory", "1kB"], OptionError, "1 kB"),
        (["--threads", "0"], OptionError, "0 threads; expected 1 or more"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_left(
    tmp_path: Path, options: list[str], refusal: type[ProbeError], words: str
) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=40), classes=CLASSES)
    with pytest.raises(refusal) as caught:
        probe(tmp_path, *options)

    assert words in caught.value.message
    assert caught.value.hint
    assert not list((tmp_path / "results").glob("*"))


def test_a_missing_test_split_is_told_before_any_fit(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "val"), classes=CLASSES)
    with pytest.raises(DataError, match="no test split; it has train, val"):
        probe(tmp_path)
    assert not (tmp_path / "results").exists()


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    splits = some_splits("train", "test", n=40)
    splits["train"] = SplitData(splits["train"].features, np.zeros(40, np.int64))
    stored_dataset(tmp_path / "features", splits, classes=CLASSES)
    with pytest.raises(DataError, match="at least two classes"):
        probe(tmp_path)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_metric_without_a_value_on_a_split_is_refused_by_name(tmp_path: Path, split: str) -> None:
    X, y = features(120, 6, 2, noise=2)
    cuts = {"train": slice(0, 40), "val": slice(40, 80), "test": slice(80, 120)}
    splits = {name: SplitData(X[cut], y[cut]) for name, cut in cuts.items()}
    splits[split] = SplitData(splits[split].features, np.zeros(40, np.int64))
    stored_dataset(tmp_path / "features", splits, classes=("no", "yes"), metric="roc_auc")
    with pytest.raises(DataError, match="'roc_auc' has no value on 40 rows"):
        probe(tmp_path, "--grid", "0.1,1")
    text = probe(tmp_path, "--grid", "0.1,1", "--metric", "top1")
    assert "ROC AUC" not in text


def test_a_class_with_one_row_stays_in_train_and_is_told(tmp_path: Path) -> None:
    splits = some_splits("train", "test", n=40)
    labels = np.where(np.arange(40) == 7, 3, np.arange(40) % 3)
    splits["train"] = SplitData(splits["train"].features, labels)
    stored_dataset(tmp_path / "features", splits, classes=CLASSES)
    for options in ((), ("--cv", "3"), ("--metric", "top1")):
        assert "1 training row is the only one of its class" in probe(tmp_path, *options)


def test_single_rows_alone_are_fitted_without_a_search_or_refused(tmp_path: Path) -> None:
    splits = some_splits("train", "test", n=4)
    splits["train"] = SplitData(splits["train"].features, np.arange(4))
    stored_dataset(tmp_path / "features", splits, classes=CLASSES)
    text = probe(tmp_path)

    assert "C         1e+04 (not chosen; default)" in text
    assert "C = 10000 was not chosen on this data" in text
    with pytest.raises(DataError, match="no class has two training rows"):
        probe(tmp_path, "--protocol", "dino")


def test_a_class_missing_from_train_is_a_warning_in_the_result(tmp_path: Path) -> None:
    splits = some_splits("train", "test", n=80)
    splits["train"] = SplitData(splits["train"].features, splits["train"].labels % 3)
    stored_dataset(tmp_path / "features", splits, classes=CLASSES)
    probe(tmp_path)
    result = read_result(only_folder(tmp_path))

    lost = int((splits["test"].labels == 3).sum())
    assert result is not None
    assert any("dog" in line and f"{lost} test rows" in line for line in result.warnings)


def test_keys_shared_by_two_splits_are_a_warning(tmp_path: Path) -> None:
    keys = {
        "train": tuple(f"k{i}" for i in range(40)),
        "test": tuple(f"k{i}" for i in range(38, 78)),
    }
    splits = some_splits("train", "test", n=40)
    stored_dataset(tmp_path / "features", splits, classes=CLASSES, keys=keys)
    result = json.loads(probe(tmp_path, "--json", "--C", "1"))["results"][0]

    assert "2 keys of test are also in train" in result["warnings"]


def test_images_that_leak_or_repeat_are_warnings_beside_the_number(tmp_path: Path) -> None:
    images = {name: [f"{name} {i}".encode() for i in range(40)] for name in ("train", "test")}
    images["test"][3:5] = images["train"][7:9]
    images["train"][30] = images["train"][10]
    splits = some_splits("train", "test", n=40)
    stored_dataset(tmp_path / "features", splits, classes=CLASSES, images=images)

    text = probe(tmp_path, "--C", "1")

    assert "2 images of test are also in train, byte for byte: 'test-3' is 'train-7'" in text
    assert "1 images of train come in it before, byte for byte: 'train-30' is 'train-10'" in text


def test_an_output_folder_that_cannot_be_made_is_told_before_any_fit(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=40), classes=CLASSES)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot write results"):
        probe(tmp_path, "--out", str(tmp_path / "file" / "results"))


def test_a_disk_that_fails_leaves_no_half_of_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=80), classes=CLASSES)

    write = Path.write_bytes

    def fail(path: Path, data: bytes) -> int:
        if path.name == "predictions.npz":
            write(path, b"half")
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(ResultError, match="No space left on device"):
        probe(tmp_path, "--C", "1")

    assert not list((tmp_path / "results").iterdir())


def test_what_a_killed_run_left_is_removed_by_the_next_and_no_living_run_is_touched(
    tmp_path: Path,
) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=40), classes=CLASSES)
    results = tmp_path / "results"
    code = (
        "import os, pathlib\n"
        "write = pathlib.Path.write_bytes\n"
        "def killed(path, data):\n"
        "    write(path, b'half' if path.name == 'predictions.npz' else data)\n"
        "    if path.name == 'predictions.npz':\n"
        "        os.kill(os.getpid(), 9)\n"
        "pathlib.Path.write_bytes = killed\n"
        "from linprobe.door import main\n"
        "main()\n"
    )
    words = ["probe", "--store", "features", "--C", "1", "--threads", "1"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, check=False)
    (left,) = results.iterdir()
    assert done.returncode == -9
    assert (left / "predictions.npz").read_bytes() == b"half"

    long_ago = time.time() - 3600
    for path in (left, *left.iterdir()):
        os.utime(path, (long_ago, long_ago))
    with Staging(results) as living:
        os.utime(living.path, (long_ago, long_ago))
        probe(tmp_path, "--C", "1")
        assert living.path.is_dir()
    assert not left.exists()
    assert read_result(only_folder(tmp_path)) is not None


def test_something_else_in_the_place_of_an_answer_is_refused_by_name(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=40), classes=CLASSES)
    probe(tmp_path, "--C", "1")
    folder = only_folder(tmp_path)
    (folder / "result.json").unlink()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ResultError, match=r"holds no result\.json.*notes\.txt"):
        probe(tmp_path, "--C", "1")
    assert (folder / "notes.txt").read_text() == "mine"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResultError, match="or a link"):
        probe(tmp_path, "--C", "1")


def test_a_field_of_a_result_that_is_not_known_is_refused_by_place(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=40), classes=CLASSES)
    probe(tmp_path, "--C", "1")
    path = only_folder(tmp_path) / "result.json"
    content = json.loads(path.read_text())
    content["fit"]["mood"] = 1
    path.write_bytes(signed_again(content))
    with pytest.raises(ResultError, match=r"unknown field - at `\$\.fit\.mood`"):
        read_result(path.parent)
