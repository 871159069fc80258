"""Small files of a store that are no files, or far too large: refused by name, never waited for."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from store_factories import root_of, sealed_split

from linprobe.errors import LinprobeError
from linprobe_store.care.copy import copy_store
from linprobe_store.handles.store import FeatureStore

HARMS: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "1,099,511,627,776": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 1 << 40),
}


def read_all(root: Path) -> None:
    encoder = FeatureStore(root).encoder()
    encoder.provenance()
    dataset = encoder.dataset()
    for name in dataset.splits:
        dataset.split(name)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(
    "name", ["FORMAT", "provenance.jsonl", "encoder.json", "dataset.json", "COMMIT.json"]
)
def test_a_small_file_that_is_none_is_refused_by_name(tmp_path: Path, name: str, harm: str) -> None:
    split, _ = sealed_split(tmp_path / "store")
    root = root_of(split)
    next(root.glob("enc-*")).joinpath("provenance.jsonl").touch()
    shutil.rmtree(next(root.glob("enc-*/parts")))
    (path,) = root.rglob(name)
    path.unlink()
    HARMS[harm](path)

    with pytest.raises(LinprobeError) as caught:
        read_all(root)

    assert str(path) in caught.value.message
    assert harm in caught.value.message or "missing" in caught.value.message


@pytest.mark.parametrize(
    ("name", "most"), [("encoder.json", "1,048,576"), ("enc-*/names.json", "65,536")]
)
def test_what_every_line_of_a_listing_repeats_is_small(
    tmp_path: Path, name: str, most: str
) -> None:
    split, _ = sealed_split(tmp_path / "store")
    (path,) = (p for p in tmp_path.rglob(name.rpartition("/")[2]) if p.match(name))
    os.truncate(path, 2 << 20)

    (broken,) = FeatureStore(root_of(split)).listing().broken
    assert broken.reason == f"{path}: expected at most {most} bytes, found 2,097,152"
    with pytest.raises(LinprobeError, match=f"{path.name}: expected at most {most} bytes"):
        list(copy_store(str(root_of(split)), str(tmp_path / "other")))


def test_a_marker_that_is_far_too_large_is_not_copied(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path / "store")
    os.truncate(split.path / "COMMIT.json", 1 << 40)

    with pytest.raises(LinprobeError, match=r"COMMIT\.json: expected at most 67,108,864 bytes"):
        list(copy_store(str(root_of(split)), str(tmp_path / "other")))
