"""``linprobe probe`` from a store to a result."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from train_command import CLASSES, only_folder, probe, some_splits
from train_factories import SplitData, features, stored_dataset
from typer.testing import CliRunner

from linprobe.door import app
from linprobe.errors import OptionError
from linprobe_store.format.spec import SkippedSample
from linprobe_store.handles.split import Split
from linprobe_train.protocol.search import Search, search
from linprobe_train.protocol.splits import StoredSplits
from linprobe_train.results.answers import read_result
from linprobe_train.results.saved_probe import load_probe
from linprobe_train.show.report import protocol_sentence
from linprobe_train.solver import problem
from linprobe_train.solver.rows import Rows
from linprobe_train.tasks import probe as run


def test_a_store_becomes_a_result_with_an_interval_a_C_and_a_next_command(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test"), classes=CLASSES)
    text = probe(tmp_path)
    result = read_result(only_folder(tmp_path))

    assert result is not None
    top1 = result.score("top1")
    assert f"top-1 {100 * top1.value:.2f} %" in text
    assert top1.interval.low < top1.value < top1.interval.high
    assert result.held_out.source == "5 stratified folds of train"
    assert result.held_out.n == 160
    assert result.fitted_on.n == 160
    assert result.sweep is not None
    assert len(result.sweep.points) == 11
    assert {path.name for path in only_folder(tmp_path).iterdir()} == {
        "result.json",
        "predictions.npz",
        "encoder.json",
        "probe.json",
        "probe.safetensors",
    }
    assert "linprobe probe" in text.splitlines()[-1]


def test_an_official_val_split_is_used_and_joined_for_the_final_fit(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "val", "test"), classes=CLASSES)
    probe(tmp_path)
    result = read_result(only_folder(tmp_path))

    assert result is not None
    assert (result.held_out.source, result.held_out.n) == ("val", 160)
    assert (result.fitted_on.source, result.fitted_on.n) == ("train+val", 320)


def test_the_same_question_is_answered_from_disk_and_another_is_not(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test"), classes=CLASSES)
    first = json.loads(probe(tmp_path, "--json"))
    again = json.loads(probe(tmp_path, "--json"))
    other = json.loads(probe(tmp_path, "--json", "--seed", "1"))

    assert (first["results"][0].pop("fresh"), again["results"][0].pop("fresh")) == (True, False)
    assert first == again
    assert other["results"][0]["folder"] != first["results"][0]["folder"]


def test_multi_label_rows_are_probed_by_their_own_metric(tmp_path: Path) -> None:
    splits = some_splits("train", "val", "test", n=120)
    hot = {
        name: SplitData(data.features, np.eye(4, dtype=np.uint8)[data.labels])
        for name, data in splits.items()
    }
    stored_dataset(tmp_path / "features", hot, classes=CLASSES, metric="map_11_point")
    text = probe(tmp_path)
    result = read_result(only_folder(tmp_path))

    assert result is not None
    assert result.question.metric == "map_11_point"
    assert result.headline.value > 0.5
    assert "11-point mAP" in text


def test_the_name_of_a_dataset_decides_nothing(tmp_path: Path) -> None:
    splits = some_splits("train", "val", "test", n=60)
    for name in ("caltech101", "mydata"):
        root = tmp_path / name / "features"
        stored_dataset(root, splits, classes=CLASSES, name=name, tars="same")
    known, own = (
        json.loads(probe(tmp_path / name, "--json"))["results"][0]
        for name in ("caltech101", "mydata")
    )

    for field in ("question", "C", "sweep", "fit", "scores", "warnings", "fitted_on", "held_out"):
        assert known[field] == own[field], field
    assert known["question"]["metric"] == "top1"
    assert known["folder"].rsplit("--")[-1] == own["folder"].rsplit("--")[-1]


def test_the_declared_metric_chooses_C_and_an_option_overrides_it(tmp_path: Path) -> None:
    stored_dataset(
        tmp_path / "features",
        some_splits("train", "val", "test", n=60),
        classes=CLASSES,
        metric="mean_per_class",
    )
    declared, asked = (
        json.loads(probe(tmp_path, "--json", *options))["results"][0]
        for options in ((), ("--metric", "nll"))
    )

    assert declared["sweep"]["metric"] == declared["question"]["metric"] == "mean_per_class"
    assert asked["sweep"]["metric"] == asked["question"]["metric"] == "nll"
    points = {point["C"]: point["score"] for point in asked["sweep"]["points"]}
    assert points[asked["C"]] == min(points.values())
    assert not any("declares" in line for line in (*declared["warnings"], *asked["warnings"]))


def test_a_declared_metric_that_the_labels_do_not_have_is_a_warning(tmp_path: Path) -> None:
    stored_dataset(
        tmp_path / "features", some_splits("train", "test"), classes=CLASSES, metric="roc_auc"
    )
    result = json.loads(probe(tmp_path, "--json", "--C", "1"))["results"][0]

    assert result["question"]["metric"] == "top1"
    assert "'roc_auc'" in result["warnings"][0]
    assert "'top1'" in result["warnings"][0]


def test_two_classes_share_one_logit_and_get_an_area_under_the_curve(tmp_path: Path) -> None:
    X, y = features(200, 6, 2, noise=2)
    splits = {"train": SplitData(X[:100], y[:100]), "test": SplitData(X[100:], y[100:])}
    stored_dataset(tmp_path / "features", splits, classes=("no", "yes"))
    probe(tmp_path)
    result = read_result(only_folder(tmp_path))
    saved = load_probe(only_folder(tmp_path)).probe

    assert result is not None
    assert saved.coef.shape == (1, 6)
    assert result.score("roc_auc").value > 0.5


def test_streaming_within_a_tight_limit_gives_the_same_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problem, "PILOT_ROWS", 300)
    X, y = features(6000, 64, 4, noise=4)
    splits = {"train": SplitData(X[:5000], y[:5000]), "test": SplitData(X[5000:], y[5000:])}
    stored_dataset(tmp_path / "features", splits, classes=CLASSES)
    base = ["probe", "--store", str(tmp_path / "features"), "--json", "--C", "1", "--threads", "1"]
    free = CliRunner().invoke(app, [*base, "--out", str(tmp_path / "a")])
    tight = CliRunner().invoke(app, [*base, "--out", str(tmp_path / "b"), "--memory", "11.5MB"])

    assert "in memory" in free.stderr
    assert "streamed from disk" in tight.stderr
    one, other = (json.loads(done.stdout)["results"][0] for done in (free, tight))
    assert one["fit"]["objective"] == pytest.approx(other["fit"]["objective"], rel=1e-6)


def test_every_dataset_of_the_encoder_is_probed_by_default(tmp_path: Path) -> None:
    for name in ("toys", "tools"):
        stored_dataset(
            tmp_path / "features", some_splits("train", "test", n=80), classes=CLASSES, name=name
        )
    found = json.loads(probe(tmp_path, "--json", "--C", "1"))

    assert {result["dataset"] for result in found["results"]} == {"toys", "tools"}


def test_the_saved_probe_gives_the_stored_predictions_on_raw_features(tmp_path: Path) -> None:
    splits = some_splits("train", "test")
    stored_dataset(tmp_path / "features", splits, classes=CLASSES)
    probe(tmp_path, "--standardize")
    loaded = load_probe(only_folder(tmp_path))
    saved, card = loaded.probe, loaded.card
    result = read_result(only_folder(tmp_path))
    raw = splits["test"].features.astype(np.float16).astype(np.float32)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    predicted = (unit @ saved.coef.T + saved.intercept).argmax(axis=1)

    assert result is not None
    accuracy = float((predicted == splits["test"].labels).mean())
    assert accuracy == pytest.approx(result.score("top1").value, abs=1.5 / 160)
    assert card.normalize
    assert card.classes == CLASSES


def test_the_papers_number_stands_beside_the_same_question_alone(tmp_path: Path) -> None:
    splits = some_splits("train", "test")
    for model in ("ViT-B/16", "ViT-T/8"):
        stored_dataset(
            tmp_path / "features",
            splits,
            classes=CLASSES,
            name="cifar10",
            model=model,
            tap="pre_projection",
        )

    asked = probe(tmp_path, "--model", "ViT-B/16", "--protocol", "clip-paper")
    other_model = probe(tmp_path, "--model", "ViT-T/8", "--protocol", "clip-paper")
    other_protocol = probe(
        tmp_path, "--model", "ViT-B/16", "--protocol", "dino", "--tap", "pre_projection"
    )

    assert "paper     Radford et al. 2021, Table 10: 96.2 (ours " in asked
    assert "Radford" not in other_model + other_protocol


def test_the_script_tells_a_failure_in_two_lines_and_exits_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "linprobe", "probe", "--store", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.returncode == 1
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert not list(tmp_path.iterdir())


def test_the_command_line_imports_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys, linprobe_train.cli; "
        "print(sorted({'torch', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_the_next_commands_are_some_that_run(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=80), classes=CLASSES)
    *_, following, other = probe(tmp_path).splitlines()
    words = shlex.split(other.removeprefix("or"))
    out = ["--out", str(tmp_path / "results")]
    done = CliRunner().invoke(app, [*words[1:], *out], catch_exceptions=False)

    assert words[0] == "linprobe"
    assert done.exit_code == 0
    assert "clip-readme" in done.stdout
    assert shlex.split(following)[:3] == ["next", "linprobe", "report"]


def test_coarse_rows_are_asked_for_by_name_and_recorded_word_for_word(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "val", "test"), classes=CLASSES)
    text = probe(tmp_path, "--protocol", "clip-paper", "--tap", "embedding", "--coarse-rows", "60")
    result = read_result(only_folder(tmp_path))

    assert result is not None
    assert result.question.protocol.name == "clip-paper-custom"
    assert result.question.protocol.grid.coarse_rows == 60
    assert result.sweep is not None
    assert result.sweep.coarse is not None
    assert (result.sweep.coarse.rows, result.sweep.coarse.of) == (61, 160)
    stages = f"among {len(result.sweep.points)} values on all 160 rows, after "
    stages += f"{len(result.sweep.coarse.points)} on 61 of them"
    assert stages in text
    assert stages in protocol_sentence(result)
    with pytest.raises(OptionError, match="single C"):
        probe(tmp_path, "--C", "1", "--coarse-rows", "60")


def test_the_oracle_can_be_asked_for(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=80), classes=CLASSES)
    ours = json.loads(probe(tmp_path, "--json", "--C", "2"))["results"][0]
    theirs = json.loads(probe(tmp_path, "--json", "--C", "2", "--solver", "sklearn"))["results"][0]

    assert ours["fit"]["objective"] == pytest.approx(theirs["fit"]["objective"], rel=2e-6)
    assert ours["folder"] != theirs["folder"]


def test_threads_are_those_that_the_process_may_use(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=40), classes=CLASSES)
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from linprobe.door import main; main()"
    )
    command = [sys.executable, "-c", code, "probe", "--C", "1", "--json", "--store", "features"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)

    assert json.loads(done.stdout)["results"][0]["environment"]["threads"] == 1


def test_what_the_store_knows_of_the_data_is_in_the_result(tmp_path: Path) -> None:
    stored_dataset(
        tmp_path / "features",
        some_splits("train", "test", n=40),
        classes=CLASSES,
        metric="mean_per_class",
        skipped={"train": (SkippedSample("bad", "truncated"), SkippedSample("x", "truncated"))},
    )
    facts = json.loads(probe(tmp_path, "--C", "1", "--json"))["results"][0]["facts"]

    assert facts == {
        "label_source": "cls",
        "declared_metric": "mean_per_class",
        "skipped": {"train": {"truncated": 2}},
    }


def test_no_module_of_the_stage_imports_torch() -> None:
    code = (
        "import importlib, pkgutil, sys, linprobe_train\n"
        "for module in pkgutil.walk_packages(linprobe_train.__path__, 'linprobe_train.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
        "print(sorted({'torch', 'linprobe_extract'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_separable_rows_and_a_huge_C_finish_and_say_so(tmp_path: Path) -> None:
    X, y = features(160, 10, 4, noise=0.05)
    splits = {"train": SplitData(X[:80], y[:80]), "test": SplitData(X[80:], y[80:])}
    stored_dataset(tmp_path / "features", splits, classes=CLASSES)
    text = probe(tmp_path, "--C", "1e6")

    assert "all 80 training rows are classified right" in text


def test_the_test_split_is_opened_once_and_after_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "val", "test"), classes=CLASSES)
    events: list[str] = []
    rows = StoredSplits.rows

    def recorded_rows(self: StoredSplits, split: Split) -> Rows:
        events.append(split.name)
        return rows(self, split)

    def recorded_search(*given: object, **named: object) -> Search:
        found: Search = search(*given, **named)  # type: ignore[arg-type] # passed through unseen
        events.append("searched")
        return found

    monkeypatch.setattr(StoredSplits, "rows", recorded_rows)
    monkeypatch.setattr(run, "search", recorded_search)
    probe(tmp_path)

    assert events == ["train", "val", "searched", "test"]


def test_what_a_killed_page_left_in_a_result_is_cleaned_by_the_next_run(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=80), classes=CLASSES)
    probe(tmp_path, "--C", "1")
    left, fresh = (only_folder(tmp_path) / f".report.html.{digit * 12}" for digit in "ab")
    for path in (left, fresh):
        path.write_text("half a page")
    os.utime(left, (1.0, 1.0))

    probe(tmp_path, "--C", "2")

    assert fresh.exists()
    assert not left.exists()
