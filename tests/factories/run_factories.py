"""Small runs of the extraction stage, in this process and as a command."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from encoder_factories import SmallModel

from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import EncoderChoice
from linprobe_extract.encoders.load import register
from linprobe_extract.run.ranks import Ranks, Turns
from linprobe_extract.run.report import RunReport
from linprobe_extract.run.run import Run, RunOptions, RunRequest
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.locate import plan_dataset
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore


class SilentObserver:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told_texts: list[str] = []
        self.n_encoded = 0

    def planned(self, n_shards: int, n_images: int | None) -> None: ...

    def encoded(self, n_images: int, limit: str) -> None:
        self.n_encoded += n_images

    def shard_done(self) -> None: ...

    def told(self, text: str) -> None:
        self.told_texts.append(text)


def run_once(
    encoder: Encoder,
    data: Path,
    store: Path,
    *,
    batch_size: int = 4,
    threads: int = 2,
    max_skipped: float = 0.0,
    turns: Turns | None = None,
    stop: threading.Event | None = None,
    observer: SilentObserver | None = None,
) -> RunReport:
    plan = plan_dataset(str(data))
    return Run(
        plan,
        encoder,
        register(encoder, store, batch_size=batch_size),
        FingerprintCache(store / ".cache" / "shards.jsonl"),
        RunOptions(tuple(s.name for s in plan.splits), batch_size, threads, max_skipped),
        turns or Turns(Ranks(0, 1, 0, 1, torchrun=False), None),
        observer or SilentObserver(),
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


def request_for(model: SmallModel, data: Path, store: Path) -> RunRequest:
    return RunRequest(
        encoder=EncoderChoice(str(model.config), model.weights, "cpu"),
        store=store,
        data=str(data),
        shards=(),
        splits=(),
        name=None,
        label_source=None,
        classes_file=None,
        batch_size=4,
        decode_threads=None,
        max_skipped=0.01,
    )
