"""Small runs of the extraction stage, in this process and as a command."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from encoder_factories import SmallModel

from linprobe import extract_features
from linprobe.terminal import Progress, Watch, ignore
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.register import register
from linprobe_extract.run.encode import Run
from linprobe_extract.run.ranks import Ranks
from linprobe_extract.run.report import ExtractReport, RunReport
from linprobe_extract.run.work import Work
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.locate import plan_dataset
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore


class Steps:
    """A watch that remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)

    @property
    def lines(self) -> list[str]:
        return [progress.line for progress in self.seen if progress.line]


def run_once(
    encoder: Encoder,
    data: Path,
    store: Path,
    *,
    batch_size: int = 4,
    threads: int = 2,
    max_skipped: float = 0.0,
    ranks: Ranks | None = None,
    stop: threading.Event | None = None,
    watch: Watch = ignore,
) -> RunReport:
    plan = plan_dataset(str(data))
    stored = register(encoder, store, batch_size=batch_size)
    fingerprints = FingerprintCache(store)
    return Run(
        Work(plan, tuple(split.name for split in plan.splits), stored, fingerprints),
        encoder,
        batch_size,
        threads,
        max_skipped,
        ranks or Ranks(0, 1, 0, 1),
        watch,
        stop or threading.Event(),
    ).extract()


def sealed_bytes(store: Path) -> Mapping[str, bytes]:
    """Every file of the sealed splits, by path inside the store."""
    files = sorted(path for path in store.glob("enc-*/sets/**/*") if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def split_of(store: Path, name: str) -> Split:
    return FeatureStore(store).split(name)


def command(model: SmallModel, data: Path, store: Path, *more: str) -> list[str]:
    arguments = ["extract", "--model", str(model.config), "--weights", str(model.weights)]
    arguments += ["--data", str(data), "--store", str(store), "--device", "cpu"]
    arguments += ["--precision", "fp32"]  # as load_small
    return [sys.executable, "-m", "linprobe", *arguments, "--batch-size", "4", *more]


def finish(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, capture_output=True, text=True, env=os.environ | environment, check=False
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "the run ended before it could be disturbed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def extract_small(model: SmallModel, data: Any, store: Path, /, **changed: Any) -> ExtractReport:  # noqa: ANN401 - of any setting
    settings: dict[str, Any] = {
        "model": str(model.config), "weights": model.weights, "data": data, "store": store,
        "device": "cpu", "precision": "fp32", "batch_size": 4,
    }  # fmt: skip
    return extract_features(**settings | changed)
