"""The command, as a person runs it: killed, shared, repeated, misused."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from encoder_factories import SmallModel
from run_factories import command, extract_small, finish, run_once, sealed_bytes, wait_for
from tar_factories import write_dataset

from linprobe.errors import LinprobeError
from linprobe_extract.encoders.encoder import Encoder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "many"
    return write_dataset(folder, splits={"train": [6] * 40, "test": [3]})


@pytest.fixture(scope="module")
def undisturbed(
    encoder: Encoder, many: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, bytes]:
    """What a run over ``many`` that nothing happens to seals."""
    store = tmp_path_factory.mktemp("undisturbed") / "features"
    run_once(encoder, many, store)
    return sealed_bytes(store)


def test_the_command_says_where_the_features_are_and_then_that_nothing_is_left_to_do(
    model: SmallModel, data: Path, tmp_path: Path
) -> None:
    arguments = command(model, data, tmp_path / "features")

    first, second = finish(arguments), finish(arguments)

    assert first.returncode == second.returncode == 0, first.stderr
    assert "train    16 rows" in first.stdout
    assert "19 images, skipped none" in first.stderr
    assert second.stdout == first.stdout
    assert "nothing to do" in second.stderr


def test_a_finished_command_imports_no_torch(model: SmallModel, data: Path, tmp_path: Path) -> None:
    arguments = command(model, data, tmp_path / "features")
    finish(arguments)
    code = (
        "import sys; from linprobe.door import app; app(sys.argv[1:], standalone_mode=False)"
        "; assert 'torch' not in sys.modules"
    )

    again = finish([sys.executable, "-c", code, *arguments[3:]])

    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stderr


def test_a_dry_run_counts_and_writes_nothing(model: SmallModel, data: Path, tmp_path: Path) -> None:
    dry = finish(command(model, data, tmp_path / "features", "--dry-run", "--json"))

    told = json.loads(dry.stdout)
    assert (told["shards"], told["images"], told["splits_sealed"]) == (4, 19, 0)
    assert told["bytes"] >= 19 * (24 + 64) * 2
    assert told["peak_bytes"] == 2 * told["bytes"]
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_ended_by_a_signal_is_finished_by_the_next(
    model: SmallModel,
    many: Path,
    undisturbed: Mapping[str, bytes],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """The sealed store is byte for byte that of an undisturbed run."""
    store = tmp_path / "features"
    arguments = command(model, many, store)

    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: len(list(store.glob("enc-*/parts/part-*"))) >= 2, process)
    process.send_signal(number)
    _, errors = process.communicate()

    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number, errors
        assert b"stopping" in errors
    assert 2 <= len(list(store.glob("enc-*/parts/part-*"))) < 41
    assert not list(store.glob("enc-*/sets/ds-*/train"))
    again = finish(arguments)
    assert again.returncode == 0, again.stderr
    assert "done before" in again.stderr
    assert sealed_bytes(store) == undisturbed


def test_two_processes_under_torchrun_share_the_work_and_give_the_same_bytes(
    model: SmallModel, many: Path, undisturbed: Mapping[str, bytes], tmp_path: Path
) -> None:
    alone = command(model, many, tmp_path / "two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]

    both = finish([*torchrun, "--nproc-per-node", "2", *alone[1:]], OMP_NUM_THREADS="1")

    assert both.returncode == 0, both.stderr
    assert sealed_bytes(tmp_path / "two") == undisturbed
    shares = re.findall(r"^(\d+) shards[ ,]", both.stderr, re.MULTILINE)
    assert sum(map(int, shares)) == 41
    assert both.stdout.count("train    240 rows") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "ViT-B/61"}, "ViT-B/61"),
        ({"data": "/no/such/folder"}, "no folder of shards and no known"),
        ({"splits": ("val",)}, "no split 'val'"),
        ({"store": "{}/file/features"}, "cannot write the store"),
        ({"weights": "{}/no.pt"}, "no.pt"),
    ],
)
def test_bad_input_is_told_with_a_hint_and_writes_nothing(
    model: SmallModel, data: Path, tmp_path: Path, change: Mapping[str, Any], message: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    before = sorted(tmp_path.rglob("*"))
    changed = {
        name: value.format(tmp_path) if isinstance(value, str) else value
        for name, value in change.items()
    }

    with pytest.raises(LinprobeError, match=message) as caught:
        extract_small(model, data, tmp_path / "features", **changed)

    assert caught.value.hint
    assert sorted(tmp_path.rglob("*")) == before
