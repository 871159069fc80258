"""Datasets behind URLs: what a failing server costs is time, or the shard by name, never rows."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Event
from typing import ClassVar

import fsspec
import pytest
from fsspec.registry import _registry as drivers
from fsspec.spec import AbstractFileSystem
from run_factories import sealed_bytes
from web_server import Fault, Forever, Server, files_of, serving

from linprobe.errors import ExtractError, ShardError, StoreError
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.run.run import Extraction
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.fetch import Fetcher
from linprobe_extract.shards.locate import plan_dataset
from linprobe_extract.shards.network import Beat, Retry, insist, is_absence
from linprobe_extract.shards.remote import RemoteFile
from linprobe_extract.shards.tar import fingerprint_shard
from linprobe_extract.shards.types import Shard

HURRIED = Retry(silence_s=5.0, backoff_s=0.001)
"""For servers that answer."""
IMPATIENT = Retry(attempts=3, silence_s=0.15, backoff_s=0.001)
"""For servers that fall silent."""
FAULTS: tuple[Fault, ...] = (
    "403", "429", "500", "503", "stall", "mute", "cut", "reset", "longer", "shorter", "chunked cut"
)  # fmt: skip


def retry_for(fault: Fault) -> Retry:
    return IMPATIENT if fault in ("stall", "mute") else HURRIED


@pytest.fixture(autouse=True)
def _own_folder_of_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)


def copies(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]


@pytest.fixture
def web(data: Path) -> Iterator[Server]:
    with serving(files_of(data)) as server:
        yield server


def extraction(encoder: Encoder, url: str, store: Path, retry: Retry = HURRIED) -> Extraction:
    plan = plan_dataset(url, name="pets", retry=retry)
    return Extraction(encoder, plan, store, batch_size=4, retry=retry)


def fetch(url: str, store: Path, retry: Retry = HURRIED) -> tuple[bytes, str]:
    """The bytes of a shard as a run gets them, and their sha256."""
    cache = FingerprintCache(store, retry=retry)
    with Fetcher(cache) as files, files.fetched(Shard(url, kind="url")) as (source, content):
        return Path(source.url).read_bytes(), content.sha256


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["train/nshards.txt", "classnames.txt"])
def test_a_small_file_that_fails_for_a_moment_is_asked_for_again(
    fault: Fault, name: str, web: Server
) -> None:
    """A 503 was taken for an absence: the split, or the names, were gone without a word."""
    web.faults[f"/{name}"] = [fault, fault]

    plan = plan_dataset(web.url, retry=retry_for(fault))

    assert [(split.name, len(split.shards)) for split in plan.splits] == [("test", 1), ("train", 3)]
    assert plan.classes == ("cat", "dog")
    assert web.count(f"/{name}") == 3


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["train/nshards.txt", "classnames.txt"])
def test_a_small_file_that_keeps_failing_ends_the_plan_by_name(
    fault: Fault, name: str, web: Server
) -> None:
    web.faults[f"/{name}"] = Forever([fault])
    retry = retry_for(fault)

    with pytest.raises(ExtractError) as caught:
        plan_dataset(web.url, retry=retry)

    message = caught.value.message
    assert message.count(f"{web.url}/{name}") == 1
    assert f"({retry.attempts} attempts)" in message
    assert not fault.isdigit() or f": {fault} " in message
    assert f"curl -IL {web.url}/{name}" in caught.value.hint
    assert web.count(f"/{name}") == retry.attempts


def test_an_absence_is_a_404_and_asked_for_once(web: Server) -> None:
    del web.files["/test/nshards.txt"], web.files["/classnames.txt"]

    plan = plan_dataset(web.url, retry=HURRIED)

    assert [split.name for split in plan.splits] == ["train"]
    assert plan.classes is None
    assert web.count("/test/nshards.txt") == web.count("/classnames.txt") == 1


def test_a_reset_connection_is_told_as_such_where_a_driver_says_not_found(web: Server) -> None:
    lines: list[str] = []

    def reset(beat: Beat) -> None:
        try:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        except OSError as error:
            raise FileNotFoundError(web.url) from error

    with pytest.raises(ExtractError, match="Connection reset by peer"):
        insist(reset, web.url, HURRIED, error=ExtractError, tell=lines.append)
    assert all("Connection reset by peer" in line for line in lines)
    assert lines


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shard_that_fails_for_a_moment_is_whole(
    fault: Fault, web: Server, tmp_path: Path
) -> None:
    path = "/train/1.tar"
    cache = FingerprintCache(tmp_path / "store", retry=retry_for(fault))
    shard = Shard(f"{web.url}{path}", kind="url")
    cache.look_up([shard])
    web.faults[path] = [fault, fault]
    web.asked.clear()

    with Fetcher(cache) as files, files.fetched(shard) as (source, content):
        assert Path(source.url).read_bytes() == web.files[path]
        assert content == replace(fingerprint_shard(Shard(source.url)), name="1.tar")
    assert web.counts() == {"GET": 3}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shard_that_keeps_failing_fails_by_name_and_status(
    fault: Fault, web: Server, tmp_path: Path
) -> None:
    url, retry = f"{web.url}/train/1.tar", retry_for(fault)
    cache = FingerprintCache(tmp_path / "store", retry=retry)
    cache.look_up([Shard(url, kind="url")])
    web.faults["/train/1.tar"] = Forever([fault])
    web.asked.clear()

    with (
        pytest.raises(ShardError) as caught,
        Fetcher(cache) as files,
        files.fetched(Shard(url, kind="url")),
    ):
        pass

    assert caught.value.message.count(url) == 1
    assert f"({retry.attempts} attempts)" in caught.value.message
    assert not fault.isdigit() or f": {fault} " in caught.value.message
    assert web.counts() == {"GET": retry.attempts}
    assert copies(tmp_path) == []


def test_a_shard_that_keeps_failing_fails_alone_and_nothing_is_sealed(
    web: Server, encoder: Encoder, tmp_path: Path
) -> None:
    web.faults["/train/1.tar"] = Forever(["503"])

    report = extraction(encoder, web.url, tmp_path / "store").run()

    assert report.run is not None
    (error,) = report.run.failed.values()
    assert f"cannot read '{web.url}/train/1.tar': 503 Service Unavailable" in error.message
    assert (report.run.n_shards, report.sealed) == (3, ())
    with pytest.raises(ExtractError, match="1 of the shards failed"):
        report.check()
    assert copies(tmp_path) == []


def test_a_shard_that_is_absent_fails_at_once(web: Server, tmp_path: Path) -> None:
    del web.files["/train/1.tar"]
    cache = FingerprintCache(tmp_path, retry=HURRIED)
    shard = Shard(f"{web.url}/train/1.tar", kind="url")
    cache.look_up([shard])
    web.asked.clear()

    with (
        pytest.raises(ShardError, match=r"1\.tar': 404, no such file"),
        Fetcher(cache) as files,
        files.fetched(shard),
    ):
        pass
    assert web.count() == 1


def test_a_shard_without_a_length_is_read_whole(web: Server, tmp_path: Path) -> None:
    web.faults["/train/0.tar"] = Forever(["chunked"])

    assert fetch(f"{web.url}/train/0.tar", tmp_path)[0] == web.files["/train/0.tar"]


def test_a_shard_longer_than_its_server_said_is_cut_off_and_fails(
    web: Server, tmp_path: Path
) -> None:
    shard, size = Shard(f"{web.url}/train/0.tar", kind="url"), len(web.files["/train/0.tar"])
    cache = FingerprintCache(tmp_path, retry=HURRIED)
    cache.look_up([shard])
    web.files["/train/0.tar"] *= 500

    with (
        pytest.raises(ShardError, match=f"more than the {size:,} bytes that"),
        Fetcher(cache) as files,
        files.fetched(shard),
    ):
        pass
    assert copies(tmp_path) == []


def test_a_stream_without_a_length_does_not_fill_the_disk(
    web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.sends_versions = False
    web.faults["/train/0.tar"] = Forever(["chunked"])
    usage = os.statvfs(tmp_path)
    free = type("Usage", (), {"free": 1000, "total": usage.f_blocks})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    shard = Shard(f"{web.url}/train/0.tar", kind="url")
    cache = FingerprintCache(tmp_path, retry=HURRIED)
    cache._remote[shard.url] = RemoteFile()

    with (
        pytest.raises(ShardError, match="more than 900 bytes, and its server does"),
        Fetcher(cache) as files,
        files.fetched(shard),
    ):
        pass
    assert copies(tmp_path) == []


def test_what_a_failing_server_gives_is_what_the_folder_gives(
    web: Server, data: Path, encoder: Encoder, tmp_path: Path
) -> None:
    web.faults = {path: ["503", "cut"] for path in web.files}
    web.faults["/train/2.tar"] = ["429", "500", "reset", "chunked cut", "longer"]

    report = extraction(encoder, web.url, tmp_path / "remote").run()
    extraction(encoder, str(data), tmp_path / "local").run()

    assert report.run is not None
    assert not report.run.failed
    assert sealed_bytes(tmp_path / "remote") == sealed_bytes(tmp_path / "local")
    assert copies(tmp_path) == []


@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_a_server_is_given_the_time_that_it_asks_for(kind: str, web: Server) -> None:
    later = datetime.now(UTC) + timedelta(seconds=2.5)
    web.retry_after = "1" if kind == "seconds" else format_datetime(later, usegmt=True)
    web.faults["/classnames.txt"] = ["429"]
    started = time.monotonic()

    plan_dataset(web.url, retry=HURRIED)

    assert 0.9 < time.monotonic() - started < 5


def test_no_server_is_given_more_time_than_a_person_has(web: Server) -> None:
    web.retry_after = "86400"
    web.faults["/classnames.txt"] = ["503"]
    started = time.monotonic()

    plan_dataset(web.url, retry=Retry(longest_s=0.1))

    assert time.monotonic() - started < 5


def test_the_pauses_double() -> None:
    pauses = [Retry().pause_s(n, OSError()) for n in range(1, 6)]

    for n, pause in enumerate(pauses):
        assert 2**n / 2 <= pause <= 2**n


def test_a_slow_download_is_no_silence(web: Server, tmp_path: Path) -> None:
    web.files["/slow"] = bytes(20 << 14)
    web.bytes_per_s = (20 << 14) / 1.0

    assert fetch(f"{web.url}/slow", tmp_path, Retry(attempts=1, silence_s=0.6))[0] == bytes(
        20 << 14
    )


def test_a_shard_is_asked_for_once_and_where_there_is_nothing_to_do_for_its_version_alone(
    web: Server, encoder: Encoder, tmp_path: Path
) -> None:
    shards = [path for path in web.files if path.endswith(".tar")]
    extraction(encoder, web.url, tmp_path / "store").run()
    asked = [(method, path) for method, path in web.asked if path in shards]
    assert sorted(asked) == sorted((m, path) for path in shards for m in ("GET", "HEAD"))

    web.asked.clear()
    report = extraction(encoder, web.url, tmp_path / "store").run()

    assert report.run is None
    asked = [(method, path) for method, path in web.asked if path in shards]
    assert sorted(asked) == sorted(("HEAD", path) for path in shards)


def test_versions_of_many_shards_are_asked_for_at_once(tmp_path: Path) -> None:
    shards = [Shard(f"{{}}/train/{i}.tar", kind="url") for i in range(200)]
    with serving({shard.url[2:]: b"x" for shard in shards}) as web:
        web.delay_s = 0.05
        cache = FingerprintCache(tmp_path, retry=HURRIED)
        started = time.monotonic()
        cache.look_up(Shard(shard.url.format(web.url), kind="url") for shard in shards)

        assert time.monotonic() - started < 200 * 0.05 / 3
        assert web.counts() == {"HEAD": 200}
        assert web.n_connections <= 16


def test_bytes_other_than_the_first_reading_said_fail_the_shard(
    web: Server, tmp_path: Path
) -> None:
    """Also where the server calls them the same version."""
    shard = Shard(f"{web.url}/train/0.tar", kind="url")
    with Fetcher(FingerprintCache(tmp_path)) as files, files.fetched(shard):
        pass
    content = bytearray(web.files[shard.url.removeprefix(web.url)])
    content[600] ^= 1
    web.versions["/train/0.tar"] = web.version("/train/0.tar")
    web.files["/train/0.tar"] = bytes(content)

    with (
        pytest.raises(ShardError, match="of other content than expected"),
        Fetcher(FingerprintCache(tmp_path)) as files,
        files.fetched(shard),
    ):
        pass


def test_a_shard_of_a_new_version_is_read_anew(web: Server, tmp_path: Path) -> None:
    url = f"{web.url}/train/0.tar"
    first = fetch(url, tmp_path)
    web.files["/train/0.tar"] = web.files["/train/1.tar"]

    assert fetch(url, tmp_path) != first
    assert fetch(url, tmp_path)[0] == web.files["/train/1.tar"]


def test_the_next_two_shards_come_while_one_is_read(tmp_path: Path) -> None:
    files = {f"/{i}.tar": bytes([i]) * 5000 for i in range(6)}
    with serving(files) as web:
        cache = FingerprintCache(tmp_path / "store", retry=HURRIED)
        shards = [Shard(web.url + name, kind="url") for name in files]
        cache.look_up(shards)
        web.asked.clear()
        with Fetcher(cache) as fetcher:
            for i, (shard, result) in enumerate(fetcher.ahead(shards)):
                assert shard == shards[i]
                assert Path(result.result()[0].url).read_bytes() == files[f"/{i}.tar"]
                wait_until(lambda: web.count() == min(i + 3, 6))  # noqa: B023 - called at once
                assert len(copies(tmp_path)) <= 3
        assert web.count() == 6
    assert copies(tmp_path) == []


def wait_until(condition: Callable[[], bool], *, limit_s: float = 5.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_disk_with_room_for_one_shard_holds_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"/{i}.tar": bytes([i]) * 5000 for i in range(4)}

    def free(_: object) -> object:
        n_bytes = sum(path.stat().st_size for path in copies(tmp_path))
        return type("Usage", (), {"free": 7000 - n_bytes, "total": 1 << 30})

    with serving(files) as web:
        cache = FingerprintCache(tmp_path / "store", retry=HURRIED)
        shards = [Shard(web.url + name, kind="url") for name in files]
        cache.look_up(shards)
        monkeypatch.setattr("shutil.disk_usage", free)
        with Fetcher(cache) as fetcher:
            for _, result in fetcher.ahead(shards):
                assert len(Path(result.result()[0].url).read_bytes()) == 5000
                time.sleep(0.02)
                assert len(copies(tmp_path)) == 1


def test_a_shard_larger_than_the_disk_is_told_with_the_way_out(
    web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = type("Usage", (), {"free": 100, "total": 1 << 30})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)

    with pytest.raises(StoreError, match="of the disk") as caught:
        fetch(f"{web.url}/train/0.tar", tmp_path)

    assert "TMPDIR" in caught.value.hint
    assert copies(tmp_path) == []
    assert web.counts()["GET"] <= 1


def test_commands_are_run_ahead_and_hashed_on_their_way(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.tar").write_bytes(bytes([i]) * 5000)
    shards = [
        Shard(f"pipe:touch {tmp_path}/ran{i}; cat {tmp_path}/{i}.tar", kind="command")
        for i in range(4)
    ]
    with Fetcher(FingerprintCache(tmp_path / "store")) as fetcher:
        for i, (_, result) in enumerate(fetcher.ahead(shards)):
            source, content = result.result()
            assert content.sha256 == fingerprint_shard(Shard(str(tmp_path / f"{i}.tar"))).sha256
            assert Path(source.url).stat().st_size == 5000
            if i:  # how much room one takes is known then
                wait_until((tmp_path / f"ran{min(i + 2, 3)}").exists)


def test_a_command_that_fails_fails_its_shard(tmp_path: Path) -> None:
    cache = FingerprintCache(tmp_path / "store")
    shard = Shard("pipe:echo half; exit 3", kind="command")

    with pytest.raises(ShardError, match="exit 3"), Fetcher(cache) as files, files.fetched(shard):
        pass
    assert copies(tmp_path) == []


def test_a_stop_does_not_wait_for_a_server(web: Server, tmp_path: Path) -> None:
    web.faults["/train/0.tar"] = Forever(["mute"])
    cache = FingerprintCache(tmp_path / "store")
    cache._remote[f"{web.url}/train/0.tar"] = RemoteFile()
    stop = Event()
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()

    with Fetcher(cache) as fetcher:
        shards = [Shard(f"{web.url}/train/0.tar", kind="url")]
        assert list(fetcher.ahead(shards, stop=stop)) == []

    assert time.monotonic() - started < 3
    assert copies(tmp_path) == []


FETCH = """
import os, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # of a job in the background, ignored
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.fetch import Fetcher
from linprobe_extract.shards.types import Shard
shards = [Shard(url, kind="url") for url in sys.argv[1:]]
with Fetcher(FingerprintCache(Path("store"))) as files:
    for _, result in files.ahead(shards):
        result.result()
        if len(shards) == 1:
            os.kill(os.getpid(), 9)
"""


def test_copies_that_a_killed_process_left_go_with_the_next_run(
    web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linprobe_extract.shards.fetch._LEFTOVER_AGE_S", 0.0)
    url = f"{web.url}/train/0.tar"
    subprocess.run([sys.executable, "-c", FETCH, url], cwd=tmp_path, check=False)
    assert len(copies(tmp_path)) == 1

    fetch(url, tmp_path / "store")

    assert copies(tmp_path) == []


def test_an_interrupt_ends_downloads_and_removes_their_copies(web: Server, tmp_path: Path) -> None:
    web.faults["/train/1.tar"] = Forever(["stall"])
    urls = [f"{web.url}/train/{i}.tar" for i in range(2)]
    with subprocess.Popen(
        [sys.executable, "-c", FETCH, *urls], cwd=tmp_path, stderr=subprocess.PIPE
    ) as process:
        wait_until(lambda: web.count("/train/1.tar") == 1 and copies(tmp_path) != [], limit_s=30)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=10)

    assert b"KeyboardInterrupt" in complaint
    assert copies(tmp_path) == []


def test_a_folder_of_copies_that_somebody_else_made_is_not_used(
    web: Server, tmp_path: Path
) -> None:
    (tmp_path / "tmp" / f"linprobe-{os.getuid()}").symlink_to(tmp_path)

    with pytest.raises(StoreError, match="found another's or a link") as caught:
        fetch(f"{web.url}/train/0.tar", tmp_path)

    assert "TMPDIR" in caught.value.hint


class _Mute(AbstractFileSystem):  # type: ignore[misc]
    """A driver without any limit of time."""

    protocol = "mute"

    def _open(self, *_: object, **__: object) -> object:
        Event().wait(3)
        raise OSError("late")

    def info(self, path: str, **_: object) -> dict[str, object]:
        raise NotImplementedError(path)


def test_a_driver_that_never_answers_is_left_behind(tmp_path: Path) -> None:
    fsspec.register_implementation("mute", _Mute, clobber=True)
    started = time.monotonic()

    with pytest.raises(ShardError, match=r"no byte for 0\.15 s \(3 attempts\)"):
        fetch("mute://x/0.tar", tmp_path, IMPATIENT)

    assert time.monotonic() - started < 2.5


def test_a_kind_of_url_without_a_driver_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="Protocol not known: nosuch"):
        fetch("nosuch://x/0.tar", tmp_path)


def test_a_page_of_the_hub_is_listed_and_not_asked_for_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hub(AbstractFileSystem):  # type: ignore[misc]
        protocol = "hf"
        listed: ClassVar[list[str]] = []

        def ls(self, path: str, **_: object) -> list[dict[str, object]]:
            self.listed.append(path)
            names = (f"{path}/{i}.tar" for i in range(1000))
            return [{"name": n, "type": "file", "size": 5, "blob_id": "a1"} for n in names]

    monkeypatch.setitem(drivers, "hf", Hub)
    base = "https://huggingface.co/datasets/org/name/resolve/main/train"
    shards = [Shard(f"{base}/{i}.tar", kind="url") for i in range(1000)]
    cache = FingerprintCache(tmp_path, retry=HURRIED)
    cache.look_up(shards)

    assert all(cache.size(shard) == 5 for shard in shards)
    assert Hub.listed == ["datasets/org/name@main/train"]


def test_what_a_driver_calls_absent_is_absent_if_the_server_said_so() -> None:
    class AnswerError(Exception):
        def __init__(self, status: int) -> None:
            self.status = status

    def of(cause: BaseException | None) -> FileNotFoundError:
        error = FileNotFoundError("x")
        error.__cause__ = cause
        return error

    assert is_absence(of(None))
    assert is_absence(of(AnswerError(404)))
    assert is_absence(AnswerError(404))
    assert not is_absence(of(AnswerError(503)))
    assert not is_absence(of(TimeoutError()))
    assert not is_absence(AnswerError(403))
    assert not is_absence(OSError())


def test_a_full_disk_is_not_asked_again() -> None:
    calls = []

    def action(_: object) -> None:
        calls.append(1)
        raise StoreError("disk full", hint="")

    with pytest.raises(StoreError):
        insist(action, "x://y", HURRIED, error=ShardError, tell=calls.append)  # type: ignore[arg-type]
    assert len(calls) == 1
