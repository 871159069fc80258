"""Shards by the names that people give them: in folders, on servers, on the Hugging Face Hub."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset as wds
from encoder_factories import SmallModel
from run_factories import extract_small
from tar_factories import image_bytes, labelled, tar_bytes

from linprobe.errors import ExtractError
from linprobe_extract.shards import locate
from linprobe_extract.shards.listing import RemoteFolder, remote_folder, shards_by_split
from linprobe_extract.shards.locate import plan_dataset

TAR = tar_bytes(labelled({"a": 0, "b": 1}))


@pytest.mark.parametrize(
    "files",
    [
        {"train": ("0.tar", "2.tar", "10.tar"), "val": ("0.tar",)},
        {"train": ("train-00000-of-00002.tar", "train-00001-of-00002.tar")},
        {"": ("train-00000-of-00002.tar", "train-00001-of-00002.tar", "test-00000-of-00001.tar")},
        {"": ("imagenet1k-train-0000.tar", "imagenet1k-train-0001.tar", "imagenet1k-val-00.tar")},
        {"": ("train0000.tar", "train0001.tar", "VALIDATION_0.tar.gz", "notes.tar", "x.tar.idx")},
        {"Training": ("cifar-train-0.tar",), "testing": ("cifar-test-0.tar",)},
    ],
)
@pytest.mark.parametrize("place", ["folder", "server"])
def test_shards_are_found_by_the_usual_names(
    place: str, files: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    root = f"memory://{tmp_path}" if place == "server" else str(tmp_path)
    shards: dict[str, list[str]] = {}
    for folder, names in files.items():
        for name in names:
            path = "/".join(part for part in (root, folder, name) if part)
            with fsspec.open(path, "wb", auto_mkdir=True) as file:
                file.write(TAR)
            for split in ("train", "val", "test"):
                if split in path.removeprefix(root).lower():
                    shards.setdefault(split, []).append(path)

    plan = plan_dataset(root)

    assert {split.name: [s.url for s in split.shards] for split in plan.splits} == shards
    kind = "url" if place == "server" else "file"
    assert {shard.kind for split in plan.splits for shard in split.shards} == {kind}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train-00000-of-00003.tar", "train-00002-of-00003.tar"), "has 2 shards, expected 3"),
        (("train/x-0-of-2.tar",), "has 1 shards, expected 2"),
        (("pets-train-0.tar", "cars-train-0.tar"), "'train' twice: 'cars-train-0.tar' and 'pets"),
        (("train/0.tar", "train-1.tar"), "'train' twice"),
        (("train/0.tar", "training/0.tar"), "'train' twice"),
        (("train-test-0.tar",), "names several splits"),
    ],
)
def test_names_that_may_mean_another_dataset_are_refused(
    files: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ExtractError, match=message) as caught:
        shards_by_split(files, "pets")

    assert caught.value.hint


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "https://huggingface.co/datasets/clip-benchmark/wds_cars/tree/main",
            RemoteFolder(
                "https://huggingface.co/datasets/clip-benchmark/wds_cars/resolve/main",
                "hf://datasets/clip-benchmark/wds_cars@main",
                "wds_cars",
            ),
        ),
        (
            "https://huggingface.co/datasets/o/r/tree/v2/data/small/",
            RemoteFolder(
                "https://huggingface.co/datasets/o/r/resolve/v2/data/small",
                "hf://datasets/o/r@v2/data/small",
                "r",
            ),
        ),
        (
            "https://huggingface.co/datasets/o/r",
            RemoteFolder(
                "https://huggingface.co/datasets/o/r/resolve/main", "hf://datasets/o/r@main", "r"
            ),
        ),
        ("s3://bucket/pets/", RemoteFolder("s3://bucket/pets", "s3://bucket/pets", "pets")),
    ],
)
def test_a_page_of_the_hub_is_read_where_its_files_are(url: str, expected: RemoteFolder) -> None:
    assert remote_folder(url) == expected


def test_a_dataset_on_the_hub_is_planned_from_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """By ``nshards.txt``, or by what ``hf://`` lists; nothing is asked of the page itself."""
    page, files = "https://huggingface.co/datasets/o/wds_pets/tree/main", {
        "train/nshards.txt": b"2\n", "dataset_type.txt": b"multilabel", "classnames.txt": b"a\nb"
    }  # fmt: skip
    base = "https://huggingface.co/datasets/o/wds_pets/resolve/main"
    monkeypatch.setattr(locate, "read_file", lambda url, _: files.get(url.removeprefix(f"{base}/")))
    plan = plan_dataset(page)
    assert [shard.url for shard in plan.split("train").shards] == [f"{base}/{i}" for i in (
        "train/0.tar", "train/1.tar"
    )]  # fmt: skip
    assert (plan.name, plan.label_source, plan.classes) == ("wds_pets", "npy", ("a", "b"))

    files.clear()
    listed = {"hf://datasets/o/wds_pets@main": ["README.md", "pets-train-0.tar", "pets-test-0.tar"]}
    monkeypatch.setattr(locate, "folder_names", lambda url, _: listed[url])
    plan = plan_dataset(page)
    assert [split.shards[0].url for split in plan.splits] == [
        f"{base}/pets-test-0.tar",
        f"{base}/pets-train-0.tar",
    ]


def test_a_name_that_a_server_lists_is_no_chain_of_urls(tmp_path: Path) -> None:
    secret = tmp_path / "train-0.tar"
    secret.write_bytes(TAR)
    files = fsspec.filesystem("memory")
    files.pipe(f"{tmp_path}/served/file::{tmp_path.name}-train-0.tar", TAR)

    with pytest.raises(ExtractError, match="no shards found"):
        plan_dataset(f"memory://{tmp_path}/served")


def test_a_web_server_that_lists_a_folder_is_enough(web: tuple[Path, str]) -> None:
    folder, url = web
    (folder / "test").mkdir()
    for name in ("pets-train-0.tar", "pets-train-1.tar", "test/0.tar"):
        (folder / name).write_bytes(TAR)

    plan = plan_dataset(url)

    assert [shard.url for shard in plan.split("train").shards] == [
        f"{url}/pets-train-0.tar",
        f"{url}/pets-train-1.tar",
    ]
    assert [shard.url for shard in plan.split("test").shards] == [f"{url}/test/0.tar"]


def test_a_split_that_a_server_lists_is_found_beside_splits_that_are_counted(
    web: tuple[Path, str],
) -> None:
    folder, url = web
    for name in ("train/0.tar", "train/1.tar", "test/0.tar"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(TAR)
    count = folder / "train" / "nshards.txt"
    count.write_text("2")

    plan = plan_dataset(url)
    assert {split.name: len(split.shards) for split in plan.splits} == {"test": 1, "train": 2}

    for text, message in (("1", "has 2 shards, expected 1"), ("0", "holds '0', expected")):
        count.write_text(text)
        with pytest.raises(ExtractError, match=message):
            plan_dataset(url)


def test_a_split_that_is_counted_under_two_names_is_refused(web: tuple[Path, str]) -> None:
    folder, url = web
    for name in ("train", "training"):
        (folder / name).mkdir()
        (folder / name / "nshards.txt").write_text("1")

    with pytest.raises(ExtractError, match="holds the split 'train' twice"):
        plan_dataset(url)


def write_multi_label(root: Path) -> Path:
    """As ``clip_benchmark_export_wds`` writes a multi-label dataset."""
    root.mkdir(parents=True)
    (root / "dataset_type.txt").write_text("multilabel\n")
    (root / "classnames.txt").write_text("aeroplane\nbicycle\nbird\n")
    for split, n_shards in (("train", 2), ("test", 1)):
        (root / split).mkdir()
        (root / split / "nshards.txt").write_text(f"{n_shards}\n")
        for shard in range(n_shards):
            with wds.TarWriter(str(root / split / f"{shard}.tar")) as tar:
                for i in range(3):
                    label = np.array([i % 2, i == 2, shard], np.float32)
                    key, webp = f"s{3 * shard + i:07d}", image_bytes(i, kind="WEBP")
                    tar.write({"__key__": key, "webp": webp, "npy": label})
    return root


def test_a_multi_label_dataset_of_clip_benchmark_is_read_as_it_is(
    model: SmallModel, web: tuple[Path, str], tmp_path: Path
) -> None:
    folder, url = web
    root = write_multi_label(folder / "wds_voc2007_multilabel")
    expected = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]]

    for data in (root, f"{url}/wds_voc2007_multilabel"):
        report = extract_small(model, data, tmp_path / "store")
        (train,) = (split for split in report.sealed if split.name == "train")
        assert np.asarray(train.labels).tolist() == expected
        assert train.dataset_spec.classes == ("aeroplane", "bicycle", "bird")
        assert train.dataset_spec.label_source == "npy"


def test_captions_are_no_classes(tmp_path: Path) -> None:
    root = write_multi_label(tmp_path / "wds_flickr8k")
    (root / "dataset_type.txt").write_text("retrieval\n")

    with pytest.raises(ExtractError, match="'retrieval', which has no classes"):
        plan_dataset(str(root))
    assert plan_dataset(str(root), label_source="npy").label_source == "npy"
