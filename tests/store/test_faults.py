"""Every fault is told by name, and nobody ever sees a fill value."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from store_factories import dataset_spec, encoder_spec, fingerprint, root_of, sealed_split

from linprobe.errors import IntegrityError, LinprobeError, StoreError
from linprobe_store.care.verify import verify_store
from linprobe_store.format.spec import DatasetNames, FeatureArray
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

ROWS = 2500
"""Two chunks, so that the index has entries to get wrong, and a padded tail."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """A sealed split that tests copy before they damage it."""
    return sealed_split(tmp_path_factory.mktemp("whole"), (ROWS, 1), encoder_spec(3, 2))[0]


@pytest.fixture
def victim(whole: Split, tmp_path: Path) -> Path:
    """A copy of its store; the split is at the same path below it."""
    root = root_of(whole)
    shutil.copytree(root, tmp_path / "store", symlinks=True)
    return tmp_path / "store"


def files_of(split: Split) -> list[str]:
    root = root_of(split)
    return sorted(str(p.relative_to(root)) for p in split.path.rglob("*") if p.is_file())


def use(root: Path) -> tuple[list[FeatureArray], Split]:
    """Open the split and read everything that training reads."""
    split = FeatureStore(root).split("train")
    assert split.image_sha256 is not None
    assert len(split.labels) == len(list(split.keys)) == len(split.image_sha256) == split.n
    return [split.rows(range(split.n), tap.name) for tap in split.taps], split


def problems(root: Path) -> list[str]:
    return [unit.problem for unit in verify_store(FeatureStore(root), deep=True) if unit.problem]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "deleted": Path.unlink,
    "emptied": lambda path: os.truncate(path, 0),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut by a page": lambda path: os.truncate(path, max(0, path.stat().st_size - 4096)),
    "a byte longer": lambda path: os.truncate(path, path.stat().st_size + 1),
    "a folder": become_folder,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_in_turn_is_missed_cut_or_lengthened(
    whole: Split, victim: Path, damage: str
) -> None:
    for name in files_of(whole):
        path = victim / name
        before = path.read_bytes()
        DAMAGES[damage](path)

        with pytest.raises(IntegrityError) as caught:
            use(victim)

        assert path.name in caught.value.message
        assert len(problems(victim)) == 1
        if path.is_dir():
            path.rmdir()
        path.write_bytes(before)
    assert problems(victim) == []


def test_every_file_in_turn_has_a_bit_flipped(whole: Split, victim: Path) -> None:
    """It is found by a deep check, and by whoever reads."""
    for name in files_of(whole):
        path = victim / name
        for share in (0.0, 0.3, 0.6, 0.999):
            flip(path, int(path.stat().st_size * share))
            assert [name in p or str(path.parent) in p for p in problems(victim)] == [True]
            with pytest.raises(StoreError):
                use(victim)
            flip(path, int(path.stat().st_size * share))
    assert problems(victim) == []


@pytest.mark.parametrize("name", ["COMMIT.json", "data.zarr/features_embedding/zarr.json"])
def test_no_byte_of_the_metadata_can_change(whole: Split, victim: Path, name: str) -> None:
    path = victim / whole.path.relative_to(root_of(whole)) / name
    for at in range(0, path.stat().st_size, 7):
        flip(path, at)
        with pytest.raises(StoreError):
            FeatureStore(victim).split("train")
        flip(path, at)
    assert FeatureStore(victim).split("train").digest == whole.digest


def test_no_byte_of_a_shard_index_can_change(whole: Split, victim: Path) -> None:
    path = whole.path / "data.zarr/features_embedding/c/0/0"
    path = victim / path.relative_to(root_of(whole))
    size = path.stat().st_size
    for at in range(size - 2 * 16 - 4, size):
        flip(path, at)
        with pytest.raises(IntegrityError, match="index"):
            FeatureStore(victim).split("train")
        flip(path, at)
    assert FeatureStore(victim).split("train").digest == whole.digest


@pytest.mark.parametrize("file", ["encoder.json", "sets/ds-*/dataset.json"])
def test_no_byte_of_a_spec_can_change(victim: Path, file: str) -> None:
    (path,) = victim.glob(f"enc-*/{file}")
    for at in range(0, path.stat().st_size, 3):
        flip(path, at)
        with pytest.raises(StoreError):
            FeatureStore(victim).split("train")
        flip(path, at)
    assert FeatureStore(victim).split("train").n == ROWS + 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_refused_when_it_is_sealed(
    whole: Split, victim: Path, damage: str
) -> None:
    encoder = FeatureStore(victim).encoder()
    spec = dataset_spec([fingerprint(0), fingerprint(1)], ("a", "b", "c", "d"))
    (part,) = (victim / encoder.path.name / "parts").glob("part-train-00000*")
    for path in [p for p in part.rglob("*") if p.is_file()]:
        before = path.read_bytes()
        DAMAGES[damage](path)

        with pytest.raises(IntegrityError):
            encoder.committed_part(fingerprint(0))
        with pytest.raises(IntegrityError):
            encoder.seal(spec, "train", names=DatasetNames("again"))

        if path.is_dir():
            path.rmdir()
        path.write_bytes(before)
    assert encoder.seal(spec, "train", names=DatasetNames("again")).n == ROWS + 1


def test_a_bit_flipped_in_a_part_is_found_before_it_is_sealed(victim: Path) -> None:
    encoder = FeatureStore(victim).encoder()
    spec = dataset_spec([fingerprint(0), fingerprint(1)], ("a", "b", "c", "d"))
    (path,) = encoder.path.glob("parts/part-train-00000*/data.zarr/features_embedding/c/0/0")
    flip(path, 777)

    with pytest.raises(IntegrityError, match="crc32c"):
        encoder.seal(spec, "train", names=DatasetNames("again"))


def test_a_partial_copy_never_opens(whole: Split, tmp_path: Path) -> None:
    """Rsync sends files in the order of their names: ``COMMIT.json`` before what it promises."""
    source = root_of(whole)
    names = sorted(str(p.relative_to(source)) for p in source.rglob("*") if p.is_file())
    names = [name for name in names if "/parts/" not in name]
    outcomes = []
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with pytest.raises(LinprobeError):
            use(tmp_path)
        shutil.copyfile(source / name, tmp_path / name)
        outcomes.append(name)

    arrays, split = use(tmp_path)

    assert split.digest == whole.digest
    np.testing.assert_array_equal(arrays[0], whole.array("embedding"))


def test_another_tool_that_resizes_appends_or_recompresses_is_noticed(
    whole: Split, victim: Path
) -> None:
    def zarr_array(mode: str) -> "zarr.Array[zarr.core.metadata.ArrayV3Metadata]":
        path = victim / whole.path.relative_to(root_of(whole))
        group = zarr.open_group(path / "data.zarr", mode=mode, use_consolidated=False)  # type: ignore[arg-type]  # one of its literals
        array = group["features_embedding"]
        assert isinstance(array, zarr.Array)
        return array

    changes: list[Callable[[], object]] = [
        lambda: zarr_array("r+").resize((ROWS - 600, 3)),
        lambda: zarr_array("r+").resize((ROWS + 1, 3)),
        lambda: zarr_array("r+").append(np.ones((10, 3), "f2")),
        lambda: zarr.create_array(
            zarr_array("r+").store_path, data=np.ones((ROWS + 1, 3), "f2"), overwrite=True
        ),
    ]
    for change in changes:
        change()
        with pytest.raises(IntegrityError):
            use(victim)
        assert len(problems(victim)) == 1


def test_a_running_reader_keeps_its_rows_when_the_split_is_removed(victim: Path) -> None:
    split = FeatureStore(victim).split("train")
    expected = np.array(split.array("embedding"))
    shutil.rmtree(victim)

    np.testing.assert_array_equal(split.array("embedding"), expected)
