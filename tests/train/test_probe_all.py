"""``probe --all``: every encoder and dataset, over processes or a cluster, one failure alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from result_factories import CLASSES, command, some_splits
from train_factories import SplitData, stored_dataset

from linprobe.errors import OptionError, ProbeError
from linprobe_train.protocol.protocols import DEFAULT, list_grid
from linprobe_train.protocol.splits import StoredSplits
from linprobe_train.show.text import outcomes_text
from linprobe_train.solver.fit import FitSettings
from linprobe_train.tasks import probe_all
from linprobe_train.tasks.probe import Recipe, probe
from linprobe_train.tasks.probe_all import Outcome, Pool, Task, list_tasks, run_task


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


@pytest.mark.parametrize("backend", ["loky", "threading", "sequential"])
def test_every_pair_is_probed_and_then_found_on_disk(tmp_path: Path, backend: str) -> None:
    fill(tmp_path)
    words = [*base(tmp_path), "--jobs", "2", "--joblib-backend", backend]
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
        for one in probe_all.probe_all(store, list_tasks(store, None, ()), RECIPE, out, Pool(1))
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
    victim, *_, last = list_tasks(store, None, ())
    monkeypatch.setattr(probe_all, "probe", broken)
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
    command(*base(tmp_path), "--jobs", "3", "--memory", "3GB", "--joblib-backend", "threading")

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


@pytest.mark.parametrize("options", [["--jobs", "0"], ["--joblib-backend", "abacus"]])
def test_options_out_of_range_are_refused(tmp_path: Path, options: list[str]) -> None:
    fill(tmp_path)
    with pytest.raises(OptionError):
        command(*base(tmp_path), *options)
    assert not (tmp_path / "results").exists()


def test_a_local_dask_cluster_runs_it_and_gives_the_same(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra cluster")
    fill(tmp_path)
    break_one(tmp_path)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        pytest.raises(ProbeError, match="1 of 5"),
    ):
        command(*base(tmp_path), "--joblib-backend", "dask", "--jobs", "2")
    again = [*base(tmp_path), "--jobs", "1", "--json"]
    shutil.rmtree(tmp_path / "features" / _folder_of(tmp_path, "bad"))

    assert [one["fresh"] for one in probes(command(*again))] == [False] * 4


def _folder_of(root: Path, slug: str) -> str:
    return next(path.name for path in (root / "features").iterdir() if f"-{slug}-" in path.name)
