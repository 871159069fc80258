"""``probe --all``: every encoder and dataset, over processes or a cluster, one failure alone."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from joblib import parallel_config
from result_factories import CLASSES, command, some_splits
from train_factories import SplitData, stored_dataset

from linprobe.errors import OptionError, ProbeError, StoreError
from linprobe_store.handles.store import FeatureStore
from linprobe_train.protocol.protocols import DEFAULT, list_grid
from linprobe_train.protocol.splits import StoredSplits
from linprobe_train.show.text import outcomes_text
from linprobe_train.solver.fit import FitSettings
from linprobe_train.tasks import grid, probe_all
from linprobe_train.tasks.grid import Outcome, Task, list_tasks, run_task
from linprobe_train.tasks.probe import Recipe, probe
from linprobe_train.tasks.probe_all import Pool


def fill(root: Path) -> None:
    """Two encoders on two datasets."""
    for model in ("one", "two"):
        for name in ("toys", "tools"):
            splits = some_splits(60, noise=1.0 if model == "one" else 2.0)
            stored_dataset(root / "features", splits, classes=CLASSES, model=model, name=name)


def break_one(root: Path) -> None:
    """A third encoder whose dataset has a single class."""
    splits = some_splits(40)
    splits["train"] = SplitData(splits["train"].features, np.zeros(40, np.int64))
    stored_dataset(root / "features", splits, classes=CLASSES, model="bad")


def base(root: Path) -> list[str]:
    """The command, on a store and a folder of results."""
    where = ["--store", str(root / "features"), "--out", str(root / "results")]
    return ["probe", "--all", *where, "--C", "1"]


def probes(text: str) -> list[dict[str, object]]:
    """What ``--json`` printed."""
    found: list[dict[str, object]] = json.loads(text)["probes"]
    return found


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_every_pair_is_probed_and_then_found_on_disk(tmp_path: Path, jobs: str) -> None:
    fill(tmp_path)
    words = [*base(tmp_path), "--jobs", jobs]
    first, again = probes(command(*words, "--json")), probes(command(*words, "--json"))

    assert [one["fresh"] for one in first] == [True] * 4
    assert [one["fresh"] for one in again] == [False] * 4
    assert [one["value"] for one in first] == [one["value"] for one in again]
    assert len(list((tmp_path / "results").iterdir())) == 4
    assert "0 probed, 4 were there, 0 failed" in command(*words)


def test_what_was_lost_is_made_again_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path)
    words = [*base(tmp_path), "--jobs", "1", "--json"]
    first = probes(command(*words))
    shutil.rmtree(str(first[2]["folder"]))
    again = probes(command(*words))

    assert [one["fresh"] for one in again] == [False, False, True, False]
    assert [one["folder"] for one in again] == [one["folder"] for one in first]


def test_one_failure_is_told_and_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path)
    break_one(tmp_path)
    with pytest.raises(ProbeError, match="1 of 5 probes failed"):
        command(*base(tmp_path), "--jobs", "2")

    assert len(list((tmp_path / "results").iterdir())) == 4
    store, out = tmp_path / "features", tmp_path / "results"
    (failed,) = (
        one
        for one in probe_all.probe_all(
            store, list_tasks(store, None, ()).tasks, RECIPE, out, Pool(1)
        )
        if one.problem
    )
    assert failed.task.encoder == "bad"
    assert failed.problem == (
        "the 40 training rows are of 1 class; expected at least two classes "
        "(check the labels of the training split)"
    )


def test_a_bug_in_one_probe_is_a_failure_of_that_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)

    def broken(splits: StoredSplits, recipe: Recipe, out: Path) -> object:
        if splits.encoder.encoder_id == victim.encoder_id:
            raise ZeroDivisionError("a bug")
        return probe(splits, recipe, out)

    store, out = tmp_path / "features", tmp_path / "results"
    victim, *_, last = list_tasks(store, None, ()).tasks
    monkeypatch.setattr(grid, "probe", broken)
    outcome = run_task(store, victim, RECIPE, out)

    assert outcome.problem == "ZeroDivisionError: a bug"
    assert run_task(store, last, RECIPE, out).problem is None
    text = outcomes_text((outcome,))
    assert "failed: one on" in text
    assert "0 probed, 0 were there, 1 failed" in text


RECIPE = Recipe(DEFAULT.changed(grid=list_grid(1.0)), FitSettings())


def test_cores_and_memory_are_shared_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fill(tmp_path)
    seen: list[FitSettings] = []

    def remember(store: Path, task: Task, recipe: Recipe, out: Path) -> Outcome:
        seen.append(recipe.settings)
        return Outcome(task, "x", True, "top1", 1.0, 1.0, None)

    monkeypatch.setattr(probe_all, "run_task", remember)
    monkeypatch.setattr(probe_all, "available_cores", lambda: 8)
    with parallel_config("threading"):
        command(*base(tmp_path), "--jobs", "3", "--memory", "3GB")

    assert {(settings.threads, settings.memory_bytes) for settings in seen} == {(2, 10**9)}


def test_models_and_datasets_can_be_named(tmp_path: Path) -> None:
    fill(tmp_path)
    words = [*base(tmp_path), "--jobs", "1", "--json", "--model", "two", "--data", "toys"]
    (found,) = probes(command(*words))

    assert found["task"] == {**_ids(found), "encoder": "two", "dataset": "toys"}
    with pytest.raises(ProbeError, match="nothing to probe"):
        command(*base(tmp_path), "--model", "three")


def _ids(found: dict[str, object]) -> dict[str, object]:
    task = found["task"]
    assert isinstance(task, dict)
    return {name: task[name] for name in ("encoder_id", "dataset_id")}


def test_what_cannot_be_opened_is_listed_and_a_failure_where_it_is_meant(tmp_path: Path) -> None:
    fill(tmp_path)
    (folder,) = (tmp_path / "features").glob("enc-two-*")
    (folder / "encoder.json").unlink()
    store = tmp_path / "features"
    tasks = list_tasks(store, None, ())
    assert [broken.path for broken in tasks.left_out] == [folder]
    with pytest.raises(ProbeError, match=f"1 of the store were left out: {folder}"):
        command(*base(tmp_path), "--jobs", "1")

    assert len(list((tmp_path / "results").iterdir())) == 2
    assert "2 were there, 0 failed" in command(*base(tmp_path), "--jobs", "1", "--model", "one")
    (dataset,) = store.glob("enc-one-*/sets/ds-tools-*")
    (dataset / "dataset.json").unlink()
    assert [broken.path for broken in list_tasks(store, "one", ()).left_out] == [dataset]
    assert list_tasks(store, "one", ("toys",)).left_out == ()


def test_an_encoder_without_the_tap_of_the_protocol_is_not_applicable(tmp_path: Path) -> None:
    fill(tmp_path)
    words = [*base(tmp_path), "--jobs", "1"]
    with pytest.raises(ProbeError, match="the protocol applies to none: one: no tap 'other'"):
        command(*words, "--tap", "other")
    where, splits = tmp_path / "features", some_splits(60)
    stored_dataset(where, splits, classes=CLASSES, model="three", tap="other")
    text = command(*words)
    assert "4 probed, 0 were there, 0 failed, 1 not applicable" in text
    assert (
        "not applicable: three on toys: three: no tap 'embedding'; this encoder has: other" in text
    )


def test_a_process_that_is_killed_is_told_with_what_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)

    def killed(*_: object) -> Outcome:
        os.kill(os.getpid(), 9)
        raise AssertionError

    monkeypatch.setattr(probe_all, "run_task", killed)
    with pytest.raises(ProbeError, match="a process that probed was killed"):
        command(*base(tmp_path), "--jobs", "2")


def test_an_encoder_imported_for_two_datasets_is_resolved_by_the_dataset(tmp_path: Path) -> None:
    rng, y = np.random.default_rng(0), np.arange(40) % 2
    for name in ("toys", "tools"):
        X = rng.standard_normal((40, 8)).astype(np.float32)
        np.savez(tmp_path / "x.npz", features=X, labels=y, keys=[f"{name}{i}" for i in range(40)])
        files = [f"--split={split}={tmp_path / 'x.npz'}" for split in ("train", "test")]
        store = ["--store", str(tmp_path / "features")]
        command("store", "import", "--encoder-name", "mine", "--dataset", name, *files, *store)
    where = [*store, "--out", str(tmp_path / "results")]
    named = ["--model", "mine", "--data", "toys", *where]

    both = ["--data", "toys", "--data", "tools", "--C", "1"]
    results = json.loads(command("probe", "--model", "mine", *both, *where, "--json"))["results"]
    assert [one["dataset"] for one in results] == ["toys", "tools"]
    assert len({one["question"]["encoder_id"] for one in results}) == 2
    assert "toys" in command("probe", "--data", "toys", "--C", "1", *where), "the only one with it"
    assert "toys" in command("knn", *named, "--k", "1")
    assert "toys" in command("fewshot", *named, "--shots", "1", "--repeats", "2")
    assert FeatureStore(tmp_path / "features").split("test", dataset="tools").n == 40
    with pytest.raises(StoreError, match="expected one encoder, found 2 called 'mine'"):
        command("probe", "--model", "mine", "--data", "none", *where)
    with pytest.raises(StoreError, match="expected one encoder, found 2"):
        command("knn", "--model", "mine", *where)


def test_options_of_one_fit_and_of_all_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--jobs 2 without --all"):
        command("probe", "--store", tmp_path, "--jobs", "2")
    with pytest.raises(OptionError, match="--even-if-slower with --all"):
        command("probe", "--store", tmp_path, "--all", "--even-if-slower")


@pytest.mark.parametrize("options", [["--jobs", "0"], ["--workers", "abacus"]])
def test_options_out_of_range_are_refused(tmp_path: Path, options: list[str]) -> None:
    fill(tmp_path)
    with pytest.raises(OptionError):
        command(*base(tmp_path), *options)
    assert not (tmp_path / "results").exists()
