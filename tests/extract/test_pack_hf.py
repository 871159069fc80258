"""Datasets of the hub keep their bytes, labels and splits.

The reader is held to the same laws over a stand-in for the package ``datasets``, which has the few
calls that we make, and over the package itself where it is installed (extra ``hf``).
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from huggingface_hub import constants
from pack_factories import image_bytes, read_members

from linprobe.door import main
from linprobe.errors import PackError
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack

OPTIONS = PackOptions(jobs=1)
NAMES = ["1", "0", "cat"]
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass
class Image:
    """Stand-in for ``datasets.Image``."""

    decode: bool = True


@dataclass
class ClassLabel:
    """Stand-in for ``datasets.ClassLabel``."""

    names: list[str]


@dataclass
class Value:
    """Stand-in for ``datasets.Value``."""

    dtype: str


@dataclass
class Table:
    """Stand-in for ``datasets.Dataset``: an Arrow table and its features."""

    data: pa.Table
    features: Mapping[str, object]

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def __getitem__(self, key: int | str) -> object:
        if isinstance(key, str):
            return self.data.column(key).to_pylist()
        return {name: self.data.column(name)[key].as_py() for name in self.data.column_names}

    def select_columns(self, names: list[str]) -> "Table":
        """Only these columns."""
        return Table(self.data.select(names), {name: self.features[name] for name in names})

    def cast_column(self, name: str, feature: Image) -> "Table":
        """The same cells, which are to be left encoded."""
        assert not feature.decode
        return Table(self.data, {**self.features, name: feature})


def stand_in() -> ModuleType:
    """The package ``datasets``, as far as we call it, over a folder of parquet files."""
    module = ModuleType("datasets")

    def load_dataset(name: str, config: str | None) -> dict[str, Table]:
        del config
        files = sorted(Path(name).glob("*.parquet"))
        if not files:
            raise FileNotFoundError(f"no data files in {name}")
        found = {}
        for file in files:
            data = pa.parquet.read_table(file)
            written = json.loads(data.schema.metadata[b"huggingface"])["info"]["features"]
            features: dict[str, object] = {
                column: Image()
                if kind["_type"] == "Image"
                else ClassLabel(kind["names"])
                if kind["_type"] == "ClassLabel"
                else Value(kind["dtype"])
                for column, kind in written.items()
            }
            found[file.name.split("-")[0]] = Table(data, features)
        return found

    module.__dict__.update(Image=Image, ClassLabel=ClassLabel, load_dataset=load_dataset)
    return module


@pytest.fixture(params=["stand-in", "real"])
def hub(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for parquet files; ``datasets`` is the stand-in, then the package itself."""
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "datasets", stand_in())
    else:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            monkeypatch.setenv(name, "1")
        datasets: Any = pytest.importorskip("datasets", reason="needs the extra hf")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        datasets.disable_progress_bars()
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def write_split(
    folder: Path, split: str, labels: list[int] | list[str], label_feature: dict[str, object]
) -> list[bytes]:
    """A parquet file as the hub has them; every second image has a file name."""
    kinds = ("JPEG", "PNG")
    images = [image_bytes(hash_of(split) + i, kinds[i % 2]) for i in range(len(labels))]
    cells = [
        {"bytes": image, "path": f"x {i}.png" if i % 2 else None} for i, image in enumerate(images)
    ]
    table = pa.table({"pic": pa.array(cells, IMAGE_TYPE), "label": pa.array(labels)})
    features = {"pic": {"_type": "Image"}, "label": label_feature}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pa.parquet.write_table(
        table.replace_schema_metadata(metadata), folder / f"{split}-00000-of-00001.parquet"
    )
    return images


def hash_of(split: str) -> int:
    """A seed for the images of a split."""
    return 100 * len(split)


CLASS_LABEL: dict[str, object] = {"_type": "ClassLabel", "names": NAMES}


def test_bytes_labels_and_class_names_are_those_of_the_hub(hub: Path, tmp_path: Path) -> None:
    """Class names that are numbers do not change which label means which."""
    images = write_split(hub, "train", [0, 1, 2, 0], CLASS_LABEL)
    write_split(hub, "test", [1, 0], CLASS_LABEL)

    card = pack(f"hf:{hub}", tmp_path / "out", OPTIONS).card

    assert card.classes == ("1", "0", "cat")
    members = read_members(tmp_path / "out/train/0.tar")
    assert [content for _, content in members[::2]] == images
    assert [content for _, content in members[1::2]] == [b"0", b"1", b"2", b"0"]
    assert [name.rsplit(".")[1] for name, _ in members[::2]] == ["jpg", "png", "jpg", "png"]


def test_hidden_test_labels_are_left_aside_and_validation_is_the_test(
    hub: Path, tmp_path: Path
) -> None:
    write_split(hub, "train", [0, 1, 2], CLASS_LABEL)
    images = write_split(hub, "validation", [1, 0], CLASS_LABEL)
    write_split(hub, "test", [-1, -1], CLASS_LABEL)

    card = pack(f"hf:{hub}", tmp_path / "out", OPTIONS).card

    assert {name: split.samples for name, split in card.splits.items()} == {"train": 3, "test": 2}
    assert "left aside, its labels are hidden: test" in card.notes
    assert read_members(tmp_path / "out/test/0.tar")[0][1] == images[0]


def test_a_lone_train_split_is_split_and_words_are_classes(hub: Path, tmp_path: Path) -> None:
    labels = ["owl", "bat", "owl", "bat", "bat", "owl", "bat", "owl", "bat", "owl"]
    write_split(hub, "train", labels, {"_type": "Value", "dtype": "string"})

    card = pack(f"hf:{hub}:image=pic,label=label", tmp_path / "out", OPTIONS).card

    assert card.classes == ("bat", "owl")
    assert {name: split.samples for name, split in card.splits.items()} == {"train": 8, "test": 2}


@pytest.mark.parametrize(
    ("words", "told"),
    [(":label=class", "no label column class among pic, label"), (":image=img", "no image column")],
)
def test_a_column_that_is_not_there_is_told(
    words: str, told: str, hub: Path, tmp_path: Path
) -> None:
    write_split(hub, "train", [0, 1], CLASS_LABEL)

    with pytest.raises(PackError, match=told):
        pack(f"hf:{hub}{words}", tmp_path / "out", OPTIONS)


def test_a_dataset_that_is_not_there_is_told(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="hf:"):
        pack(f"hf:{hub}", tmp_path / "out", replace(OPTIONS, seed=1))


def test_the_extra_is_named_where_the_package_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr(sys, "argv", ["linprobe", "pack", "hf:a/b", "--out", f"{tmp_path}/out"])

    with pytest.raises(SystemExit):
        main()

    told = capsys.readouterr().err
    assert "needs the package datasets" in told
    assert "'linprobe[hf]'" in told


def test_without_a_network_a_dataset_of_the_hub_is_asked_for_once_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    module = stand_in()

    def load_dataset(name: str, config: str | None) -> object:
        asked.append(f"{name}, {config}, offline {constants.HF_HUB_OFFLINE}")
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(module, "load_dataset", load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr("linprobe_extract.hub._reachable", lambda: False)
    with pytest.raises(PackError, match="Couldn't reach 'cifar10'") as caught:
        pack("hf:cifar10", tmp_path / "out", OPTIONS)

    assert asked == ["cifar10, None, offline True"]
    assert "no network: copy its files into a folder, and pack hf:FOLDER" in caught.value.hint
