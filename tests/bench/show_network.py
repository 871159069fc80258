"""What a failing server does to an extraction, what a run asks for, what fetching ahead gains.

``python tests/bench/show_network.py`` prints three tables, from servers on this machine, in about
half a minute. The pauses between attempts are shortened; their number is what users have.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "factories"))

from encoder_factories import load_small, make_model
from tar_factories import write_dataset
from web_server import Fault, Forever, Server, files_of, serving

from linprobe.errors import LinprobeError
from linprobe.terminal import text_table
from linprobe_extract.run.run import Extraction
from linprobe_extract.shards import fetch
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.fetch import Fetcher
from linprobe_extract.shards.locate import plan_dataset
from linprobe_extract.shards.network import Retry
from linprobe_extract.shards.types import Shard

RETRY = Retry(silence_s=0.4, backoff_s=0.002)
FAULTS: tuple[Fault, ...] = (
    "403", "404", "429", "500", "503", "stall", "mute", "cut", "reset", "longer", "shorter",
    "chunked", "chunked cut",
)  # fmt: skip
FILES = ("train/nshards.txt", "classnames.txt", "train/1.tar")
BEFORE = {("http", "first"): 210, ("http", "again"): 21, ("s3", "first"): 210, ("s3", "again"): 21}
"""Requests of the same runs over 21 shards at commit 37a3ccc, counted by the same server."""
N_SHARDS = 21


def main() -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory(prefix="show-network-") as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        print("What a file does, and what comes of it (requests for that file)\n")
        print(faults(Path(folder)))
        print("\nRequests for shards and their versions, a run over 21 shards\n")
        print(requests(Path(folder)))
        print("\n12 shards of 200 kB, 2 MB/s for a connection, 0.1 s to encode each\n")
        print(ahead(Path(folder)))


def faults(folder: Path) -> str:
    """Twice and for ever, each kind of fault on each kind of file."""
    data = write_dataset(folder / "faulty", splits={"train": [2, 2], "test": [1]})
    rows = []
    for fault in FAULTS:
        for name in FILES:
            with serving(files_of(data)) as web:
                twice = outcome(web, name, [fault, fault], folder)
            with serving(files_of(data)) as web:
                forever = outcome(web, name, Forever([fault]), folder)
            rows.append((fault, name, twice, forever))
    return text_table(("fault", "file", "twice", "for ever"), rows, "<<<<")


def outcome(web: Server, name: str, plague: list[Fault], folder: Path) -> str:
    """Read the dataset as a run does; what came of it, and requests for the file."""
    url, is_shard = f"{web.url}/{name}", name.endswith(".tar")
    try:
        if not is_shard:
            web.faults[f"/{name}"] = plague
        plan = plan_dataset(web.url, retry=RETRY)
        shards = [shard for split in plan.splits for shard in split.shards]
        cache = FingerprintCache(Path(tempfile.mkdtemp(dir=folder)), retry=RETRY)
        cache.look_up(shards)
        web.asked.clear() if is_shard else None
        if is_shard:
            web.faults[f"/{name}"] = plague
        with Fetcher(cache, lambda _: None) as fetcher:
            for _, result in fetcher.ahead(shards):
                result.result()
        text = "all there"
        if len(shards) < 3 or plan.classes is None:
            text = "no such split" if len(shards) < 3 else "no such names"
    except LinprobeError as error:
        text = error.message.replace(url, "URL").replace("cannot read 'URL': ", "")
    return f"{text}, {web.count(f'/{name}')}"


def requests(folder: Path) -> str:
    """A first run and one with nothing to do, over http and from a bucket."""
    data = write_dataset(folder / "many", splits={"train": [1] * 20, "test": [1]})
    (folder / "model").mkdir()
    encoder = load_small(make_model(folder / "model", "vit-quickgelu"))
    patient = Retry()
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "x"}
    rows = []
    for kind, bucket in (("http", ""), ("s3", "bucket")):
        if bucket and find_spec("s3fs") is None:
            rows.append((kind, "needs s3fs", "", "", ""))
            continue
        with serving(files_of(data, f"/{bucket}" if bucket else ""), bucket=bucket) as web:
            os.environ["AWS_ENDPOINT_URL"] = web.url
            for run in ("first", "again"):
                plan = plan_dataset(f"s3://{bucket}" if bucket else web.url, retry=patient)
                web.asked.clear()
                Extraction(encoder, plan, folder / kind, retry=patient).run()
                kinds = ", ".join(f"{n} {method}" for method, n in sorted(web.counts().items()))
                each = (
                    f"{BEFORE[kind, run] / N_SHARDS:.1f}",
                    f"{web.counts().total() / N_SHARDS:.1f}",
                )
                rows.append((kind, run, *each, kinds))
    return text_table(("from", "run", "before, a shard", "now", "now in all"), rows, "<<>><")


def ahead(folder: Path) -> str:
    """The same shards fetched when they are due, and ahead."""
    files = {f"/{i}.tar": os.urandom(200_000) for i in range(12)}
    rows = []
    with serving(files) as web:
        web.bytes_per_s, web.delay_s = 2e6, 0.02
        for n_ahead in (0, 1, 2):
            fetch.N_AHEAD = n_ahead
            cache = FingerprintCache(folder / f"ahead{n_ahead}", retry=Retry())
            shards = [Shard(web.url + name, kind="url") for name in files]
            cache.look_up(shards)
            seconds = timed(lambda: read_all(cache, shards))  # noqa: B023 - called at once
            rows.append((str(n_ahead), f"{seconds:.2f} s"))
    return text_table(("shards ahead", "seconds"), rows, ">>")


def read_all(cache: FingerprintCache, shards: list[Shard]) -> None:
    """Take 0.1 s for each shard, as an encoder would."""
    with Fetcher(cache) as fetcher:
        for _, result in fetcher.ahead(shards):
            result.result()
            time.sleep(0.1)


def timed(action: Callable[[], None]) -> float:
    """Seconds on the clock: the waiting is what is measured."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
