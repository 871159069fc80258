"""What a package of one's own adds, by entry points: nothing of ours is touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from train_command import CLASSES, some_splits
from train_factories import stored_dataset

from linprobe.errors import LinprobeError
from linprobe.plugins import declared

METRIC = """
import numpy as np
from linprobe_train.scores.metrics import Metric

def error_rate(rows):
    wrong = ~rows.hits()
    return lambda w: float(w @ wrong / w.sum())

ERROR = Metric("error", "error rate", "single-label", error_rate, better="lower")
"""

PROTOCOL = """
from linprobe_train.protocol.protocols import Protocol, Row, list_grid

OWN = Row(Protocol("own", "embedding", False, True, list_grid(0.5)), "standardised, C = 0.5")
"""


def installed(root: Path, group: str, value: str, source: str) -> dict[str, str]:
    """Environment in which a package ``mine`` of one module is installed."""
    info = root / "mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nown = {value}\n")
    (root / "mine.py").write_text(source)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}


def probe_apart(tmp_path: Path, environment: dict[str, str], *options: str) -> dict[str, object]:
    """The result of the probe command in a process of its own."""
    command = [sys.executable, "-m", "linprobe", "probe", "--json", "--threads", "1"]
    done = subprocess.run(
        [*command, "--store", "features", *options],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)["results"][0]
    return result


def test_a_metric_of_another_package_is_scored_with_its_interval(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=60), classes=CLASSES)
    environment = installed(tmp_path / "site", "linprobe.metrics", "mine:ERROR", METRIC)
    result = probe_apart(tmp_path, environment, "--C", "1")
    assert isinstance(result["scores"], list)
    scores = {score["name"]: score for score in result["scores"]}

    assert scores["error"]["value"] == pytest.approx(1 - scores["top1"]["value"])
    assert scores["error"]["interval"]["low"] < scores["error"]["value"]


def test_a_metric_of_another_package_can_choose_C(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=60), classes=CLASSES)
    environment = installed(tmp_path / "site", "linprobe.metrics", "mine:ERROR", METRIC)
    result = probe_apart(tmp_path, environment, "--grid", "0.01,10", "--metric", "error")
    sweep = result["sweep"]
    assert isinstance(sweep, dict)
    scores = {point["C"]: point["score"] for point in sweep["points"]}

    assert scores[result["C"]] == min(scores.values())


def test_a_protocol_of_another_package_is_named_like_ours(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test", n=60), classes=CLASSES)
    environment = installed(tmp_path / "site", "linprobe.protocols", "mine:OWN", PROTOCOL)
    result = probe_apart(tmp_path, environment, "--protocol", "own")

    assert result["C"] == 0.5
    assert "--own--" in str(result["folder"])


@pytest.mark.parametrize(
    ("source", "words"),
    [("ERROR = 3", "is not a str"), ("import nothing_of_this_name", "ModuleNotFoundError")],
)
def test_an_entry_that_is_none_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    installed(tmp_path, "linprobe.tests", "mine:ERROR", source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LinprobeError, match=f"cannot be used: .*{words}"):
        declared("linprobe.tests", str)
    sys.modules.pop("mine", None)
