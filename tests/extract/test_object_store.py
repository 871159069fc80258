"""Shards in a bucket, through s3fs, from a server on this machine that speaks S3's protocol."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_factories import sealed_bytes
from s3fs import S3FileSystem
from web_server import Fault, Forever, Server, files_of, serving

from linprobe.errors import ExtractError, ShardError
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.run.run import Extraction
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.fetch import Fetcher
from linprobe_extract.shards.locate import plan_dataset
from linprobe_extract.shards.network import Retry
from linprobe_extract.shards.types import Shard

HURRIED = Retry(silence_s=5.0, backoff_s=0.001)
URL = "s3://bucket/pets"
FAULTS: tuple[Fault, ...] = ("403", "429", "500", "503", "stall", "cut", "reset", "longer")


def retry_for(fault: Fault) -> Retry:
    """The driver asks again by itself, so that a failing file is silence as well."""
    return Retry(attempts=3, silence_s=0.3, backoff_s=0.001) if fault == "stall" else HURRIED


@pytest.fixture
def bucket(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "us-east-1")
    with serving(files_of(data, "/bucket/pets"), bucket="bucket") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        S3FileSystem.clear_instance_cache()
        yield server
        S3FileSystem.clear_instance_cache()


def extraction(encoder: Encoder, url: str, store: Path) -> Extraction:
    plan = plan_dataset(url, name="pets", retry=HURRIED)
    return Extraction(encoder, plan, store, batch_size=4, retry=HURRIED)


def test_a_bucket_gives_what_the_folder_gives_and_is_listed_once_a_prefix(
    bucket: Server, data: Path, encoder: Encoder, tmp_path: Path
) -> None:
    bucket.faults = {path: ["503", "403"] for path in bucket.files}

    extraction(encoder, URL, tmp_path / "remote").run()
    extraction(encoder, str(data), tmp_path / "local").run()

    assert sealed_bytes(tmp_path / "remote") == sealed_bytes(tmp_path / "local")


def test_nothing_to_do_over_a_thousand_shards_takes_a_few_requests(
    bucket: Server, tmp_path: Path
) -> None:
    names = [f"/bucket/many/train/{i}.tar" for i in range(1000)]
    bucket.files |= dict.fromkeys(names, b"x")
    shards = [Shard(f"s3:/{name}", kind="url") for name in names]
    cache = FingerprintCache(tmp_path, retry=HURRIED)
    cache.look_up(shards)

    assert len([*map(cache.known, shards)]) == 1000
    assert all(cache.size(shard) == 1 for shard in shards)
    assert bucket.counts().total() <= 2


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shard_in_a_bucket_that_fails_for_a_moment_is_whole(
    fault: Fault, bucket: Server, tmp_path: Path
) -> None:
    shard = Shard(f"{URL}/train/0.tar", kind="url")
    cache = FingerprintCache(tmp_path, retry=retry_for(fault))
    cache.look_up([shard])
    bucket.faults["/bucket/pets/train/0.tar"] = [fault]

    with Fetcher(cache) as files, files.fetched(shard) as (source, content):
        body = bucket.files["/bucket/pets/train/0.tar"]
        assert Path(source.url).read_bytes() == body
        assert content.sha256 == hashlib.sha256(body).hexdigest()


def test_a_small_file_in_a_bucket_is_absent_only_where_the_store_says_so(bucket: Server) -> None:
    del bucket.files["/bucket/pets/classnames.txt"]
    bucket.faults["/bucket/pets/train/nshards.txt"] = ["403"]

    plan = plan_dataset(URL, retry=HURRIED)

    assert [split.name for split in plan.splits] == ["test", "train"]
    assert plan.classes is None

    bucket.faults["/bucket/pets/train/nshards.txt"] = Forever(["403"])
    with pytest.raises(ExtractError, match=r"train/nshards\.txt': 403 Forbidden \(6 attempts\)"):
        plan_dataset(URL, retry=HURRIED)


def test_a_shard_that_no_bucket_has_fails_by_name(bucket: Server, tmp_path: Path) -> None:
    cache = FingerprintCache(tmp_path, retry=HURRIED)
    shard = Shard(f"{URL}/train/77.tar", kind="url")

    with (
        pytest.raises(ShardError, match=r"pets/train/77\.tar': 404, no such file"),
        Fetcher(cache) as files,
        files.fetched(shard),
    ):
        pass


def test_a_listing_that_is_not_allowed_is_made_up_for_by_requests(
    bucket: Server, tmp_path: Path
) -> None:
    bucket.faults["/bucket"] = Forever(["403"])
    shards = [Shard(f"{URL}/train/{i}.tar", kind="url") for i in range(3)]
    cache = FingerprintCache(tmp_path, retry=HURRIED)
    cache.look_up(shards)

    assert all(cache.size(shard) for shard in shards)
    assert bucket.counts()["HEAD"] == 3
