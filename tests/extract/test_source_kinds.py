"""What kind of source something is, is what was typed: a file's name is never run or fetched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tar_factories import labelled, tar_bytes, write_dataset

from linprobe.errors import ExtractError, ShardError
from linprobe.names import is_url
from linprobe_extract.pack.by_name import data_folder
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.fetch import Fetcher
from linprobe_extract.shards.locate import plan_dataset
from linprobe_extract.shards.tar import read_members
from linprobe_extract.shards.types import DatasetPlan, Shard

TAR = tar_bytes(labelled({"a": 0, "b": 1}))
NAMES = ("pipe:touch RUN;.tar", "file:x.tar", "simplecache::x.tar", "-", "zip:::x.tar")


def read_all(plan: DatasetPlan, store: Path) -> int:
    """Read every member of a plan, as a run does; how many there are."""
    cache, n_members = FingerprintCache(store), 0
    for split in plan.splits:
        for shard in split.shards:
            with Fetcher(cache) as files, files.fetched(shard) as (source, fingerprint):
                n_members += len(list(read_members(source, fingerprint, place=shard.url)))
    return n_members


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_a_glob_finds_is_a_file_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(TAR)

    plan = plan_dataset(None, shards=("train=*",))

    assert [(s.url, s.kind) for s in plan.split("train").shards] == [(name, "file")]
    assert read_all(plan, tmp_path / "store") == 4
    assert not Path("RUN").exists()


def test_a_file_in_a_folder_of_data_is_a_file_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pets/train").mkdir(parents=True)
    for name in NAMES:
        if name.endswith(".tar"):
            (Path("pets/train") / name).write_bytes(TAR)

    plan = plan_dataset("pets")

    assert {shard.kind for shard in plan.split("train").shards} == {"file"}
    assert read_all(plan, tmp_path / "store") == 16
    assert not Path("RUN").exists()


@pytest.mark.parametrize("name", ["pipe:touch RUN;", "simplecache::pets", "file:pets"])
def test_a_folder_given_as_data_is_a_folder_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(Path(name), splits={"train": [1], "test": [1]})

    plan = plan_dataset(data_folder(name, may_pack=True))

    assert plan.classes == ("cat", "dog")
    assert read_all(plan, tmp_path / "store") == 4
    assert not Path("RUN").exists()


def test_data_is_never_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ExtractError, match="no folder of shards"):
        plan_dataset("pipe:touch RUN")
    assert not Path("RUN").exists()


def test_what_was_typed_is_what_it_says_brace_by_brace(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.tar").write_bytes(TAR)

    plan = plan_dataset(
        None,
        shards=(
            f"train=pipe:cat {tmp_path}/{{a,b}}.tar",
            f"test=file://{tmp_path}/{{a,b}}.tar",
            f"val={{{tmp_path}/a.tar,pipe:cat {tmp_path}/b.tar}}",
        ),
    )

    kinds = {split.name: [shard.kind for shard in split.shards] for split in plan.splits}
    assert kinds == {"train": ["command"] * 2, "test": ["url"] * 2, "val": ["file", "command"]}
    assert read_all(plan, tmp_path / "store") == 24


def test_braces_that_mean_a_hundred_million_shards_are_refused_before_they_are_expanded() -> None:
    with pytest.raises(
        ExtractError, match="means 200,000,000 shards or more, expected 1,000,000 at most"
    ):
        plan_dataset(None, shards=("train={a,b}-{00000000..99999999}-{0..1}.tar",))


def test_a_file_typed_with_characters_of_a_pattern_is_that_file(tmp_path: Path) -> None:
    for name in ("a[1].tar", "a1.tar"):
        (tmp_path / name).write_bytes(TAR)

    (shard,) = plan_dataset(None, shards=(f"train={tmp_path}/a[1].tar",)).split("train").shards

    assert shard == Shard(str(tmp_path / "a[1].tar"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/x", True),
        ("HTTPS://host/x", True),
        ("simplecache::s3://bucket/x", True),
        ("zip://*.tar::file:///x.zip", True),
        ("data/s3://x", False),
        ("./s3://x", False),
        ("x y://z", False),
        ("pipe:curl http://host/x", False),
        ("C:/x", False),
    ],
)
def test_a_url_begins_with_its_scheme(text: str, expected: bool) -> None:
    assert is_url(text) is expected


def test_a_folder_called_like_a_url_in_a_path_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("x/http:/host"), splits={"train": [1], "test": [1]})

    assert len(plan_dataset("x/http://host").split("train").shards) == 1
    assert len(plan_dataset(None, shards=("train=x/http://host/train/*",)).splits) == 1


def test_the_words_of_a_source_are_a_path_and_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``imagefolder:`` takes what follows as it is, also where that looks like another source."""
    monkeypatch.chdir(tmp_path)
    for split, label in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
        folder = Path("torchvision:CIFAR10", split, label)
        folder.mkdir(parents=True)
        (folder / f"pipe:touch RUN;{split}{label}.jpg").write_bytes(labelled({"a": 0})[0][1])

    card = pack("imagefolder:torchvision:CIFAR10", Path("out"), PackOptions()).card

    assert {name: split.samples for name, split in card.splits.items()} == {"train": 2, "test": 2}
    assert not Path("RUN").exists()


def test_a_file_name_that_is_no_utf_8_is_named_by_its_escape(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.tar")
    (tmp_path / name).write_bytes(TAR)

    assert Shard(str(tmp_path / name)).name == "caf\\xe9.tar"


@pytest.mark.parametrize("kind", ["fifo", "folder", "gone"])
def test_what_is_named_like_a_shard_and_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    """It is not left out: a split would lack its samples without a word."""
    folder = write_dataset(tmp_path / "pets", splits={"train": [1, 1], "test": [1]})
    (folder / "train" / "nshards.txt").unlink()
    path = folder / "train" / "1.tar"
    path.unlink()
    if kind == "gone":
        path.symlink_to("/gone")
    else:
        {"fifo": os.mkfifo, "folder": os.mkdir}[kind](path)

    with pytest.raises(ExtractError, match=r"1\.tar' is named like a shard and is no file"):
        plan_dataset(str(folder))


@pytest.mark.parametrize("text", ["classnames.txt", "train/nshards.txt", "dataset.json"])
def test_a_fifo_beside_the_shards_is_refused_and_not_waited_for(text: str, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "pets", splits={"train": [1], "test": [1]})
    (folder / text).unlink(missing_ok=True)
    os.mkfifo(folder / text)

    code = f"from linprobe_extract.shards.locate import plan_dataset\nplan_dataset({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=30, capture_output=True, text=True, check=False
    )

    assert "found a FIFO" in done.stderr


def test_a_fifo_or_a_device_as_a_shard_fails_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")

    for path in (tmp_path / "a.tar", Path("/dev/zero"), tmp_path):
        with pytest.raises(ShardError, match="expected a regular file"):
            list(read_members(Shard(str(path))))
