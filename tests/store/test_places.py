"""A folder that is not the store asked for is refused; a read-only one is still read."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from store_factories import (
    block,
    dataset_of,
    dataset_spec,
    encoder_spec,
    fingerprint,
    register,
    root_of,
    sealed_split,
    unprivileged,
    write_part,
)

from linprobe.errors import IntegrityError, MismatchError, NotFoundError, StoreError
from linprobe.records import canonical_json, digest_json
from linprobe_store.format.spec import DatasetNames
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore


@pytest.fixture
def whole(tmp_path: Path) -> Split:
    """A sealed split."""
    return sealed_split(tmp_path / "store", (7, 5), encoder_spec(3, 2))[0]


@pytest.fixture
def victim(whole: Split) -> Path:
    """Its store, to be spoilt."""
    return root_of(whole)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("linprobe-store 2\n", "store 3, found linprobe-store 2, whose rows"),
        ("linprobe-store 1\n", "store 3, found linprobe-store 1, whose rows"),
        ("linprobe-store 4\n", "expected format linprobe-store 3, found linprobe-store 4$"),
        ("other 1\n", "found other 1"),
        ("", "found nothing"),
    ],
)
def test_another_version_of_the_store_is_refused(victim: Path, line: str, told: str) -> None:
    (victim / "FORMAT").write_text(line)

    with pytest.raises(MismatchError, match=told):
        FeatureStore(victim)


def test_another_version_of_a_split_is_refused(whole: Split, victim: Path) -> None:
    path = victim / whole.path.relative_to(root_of(whole)) / "COMMIT.json"
    path.write_text(path.read_text().replace('"version":3', '"version":2'))

    with pytest.raises(MismatchError, match="store 3, found linprobe-store 2"):
        FeatureStore(victim).split("train")


def test_a_split_of_another_dataset_or_encoder_is_refused(whole: Split, victim: Path) -> None:
    store = FeatureStore(victim)
    split = store.split("train")
    other = store.register_encoder(encoder_spec(3, 2, weights="9"), split.encoder_names)
    shutil.copytree(split.path.parent, other.path / "sets" / split.path.parent.name)
    shutil.copytree(split.path, split.path.parent / "test")

    with pytest.raises(MismatchError, match="expected encoder"):
        other.dataset().split("train")
    with pytest.raises(MismatchError, match="expected split test, found train"):
        dataset_of(split).split("test")


def test_a_path_that_leaves_the_unit_is_refused(whole: Split, victim: Path) -> None:
    path = victim / whole.path.relative_to(root_of(whole)) / "COMMIT.json"
    fields = json.loads(path.read_bytes())
    del fields["digest"]
    fields["files"] = {"../x": {"bytes": 1, "crc32c": "0" * 8, "sha256": None}}
    path.write_bytes(canonical_json({**fields, "digest": digest_json(fields)}))

    with pytest.raises(IntegrityError, match="bad path"):
        FeatureStore(victim).split("train")


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()

    with pytest.raises(StoreError, match="found no file FORMAT"):
        FeatureStore(tmp_path)


def test_a_missing_store_is_empty_and_an_empty_folder_too(tmp_path: Path) -> None:
    for root, says in ((tmp_path / "none", "no such folder"), (tmp_path, "no encoder")):
        assert FeatureStore(root).encoders() == ()
        with pytest.raises(NotFoundError, match=says):
            FeatureStore(root).split("train")
    assert list(tmp_path.iterdir()) == []


def test_a_store_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match="file"):
        register(tmp_path / "file" / "store")


def test_a_read_only_store_is_read_and_refuses_writes() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        encoder = register(root)
        write_part(encoder, fingerprint(0), block(encoder.spec, 5))
        spec = dataset_spec([fingerprint(0)])
        encoder.seal(spec, "train", names=DatasetNames("Pets"))
        for path in [root, *root.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o555)
        with unprivileged():
            assert FeatureStore(root).split("train").labels.shape == (5,)
            assert encoder.seal(spec, "train", names=DatasetNames("Pets")).n == 5
            refused: list[Callable[[], object]] = [
                lambda: encoder.part_writer(fingerprint(1)),
                lambda: FeatureStore(root).register_encoder(
                    encoder_spec(weights="7"), encoder.names
                ),
                lambda: encoder.seal(
                    dataset_spec([fingerprint(0)], ("a", "b", "c", "d")),
                    "train",
                    names=DatasetNames("x"),
                ),
            ]
            for write in refused:
                with pytest.raises(StoreError, match="Permission denied") as caught:
                    write()
                assert "may write to" in caught.value.hint
        for path in [root, *root.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755)
