"""The table of known datasets agrees with the paper, and each row can be packed."""

from dataclasses import replace
from pathlib import Path

import pytest
from pack_factories import write_image_folder
from torchvision_arrays import (
    ARRAY_WRITERS,
)
from torchvision_files import FILE_WRITERS

from linprobe.benchmarks import OWN_FILES, KnownDataset, known_datasets
from linprobe.errors import PackError
from linprobe_extract.pack.listing import PackOptions, parse_arguments
from linprobe_extract.pack.pack import pack
from linprobe_extract.pack_cli import datasets_table

WRITERS = ARRAY_WRITERS | FILE_WRITERS
ANY = PackOptions(check_counts=False, download=False, jobs=1)


def test_a_dataset_that_nothing_downloads_says_where_it_is_and_how_it_is_laid_out(
    tmp_path: Path,
) -> None:
    with pytest.raises(PackError, match="resisc45 cannot be downloaded: get NWPU") as caught:
        pack("resisc45", tmp_path / "out", ANY)

    assert "--root DIR" in caught.value.hint
    assert "CLASS/IMAGE" in caught.value.hint


def test_a_dataset_got_by_hand_packs_from_its_folder_under_its_own_name(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "frames")

    card = pack("kinetics700", tmp_path / "out", replace(ANY, root=root)).card

    assert (card.name, card.headline_metric) == ("kinetics700", "mean_top1_top5")


def test_a_dataset_got_by_hand_packs_from_a_table(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "memes")
    rows = [
        f"{split}/{name}/{i}.jpg,{number},{split}\n"
        for split in ("train", "test")
        for number, name in enumerate("ab")
        for i in range(3)
    ]
    (root / "dataset.csv").write_text("path,label,split\n" + "".join(rows))

    card = pack("hateful_memes", tmp_path / "out", replace(ANY, root=root)).card

    assert (card.classes, card.headline_metric) == (("0", "1"), "roc_auc")


def test_a_name_close_to_a_known_one_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(PackError) as caught:
        pack("cifar-10", tmp_path / "out", ANY)

    assert "cifar10" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ("folds=3", {"folds": 3}),
        ("a=true,b=x-1,c=False", {"a": True, "b": "x-1", "c": False}),
    ],
)
def test_arguments_are_parsed(text: str, arguments: dict[str, object]) -> None:
    assert parse_arguments(text) == arguments


def test_the_table_has_the_27_datasets_of_the_paper_once_each() -> None:
    assert len({row.slug for row in known_datasets()}) == 27
    assert len(datasets_table().splitlines()) == 28


def test_every_dataset_that_torchvision_reads_is_tested_in_its_own_format() -> None:
    assert {row.slug for row in known_datasets() if row.torchvision} == set(WRITERS)


@pytest.mark.parametrize("row", known_datasets(), ids=lambda row: row.slug)
def test_a_row_agrees_with_table_9_or_says_why_not(row: KnownDataset) -> None:
    """Table 9 counts val as train."""
    sizes = row.sizes or {"train": 0, "test": 0}

    assert set(sizes) <= {"train", "val", "test"}
    if (sizes["train"] + sizes.get("val", 0), sizes["test"]) != row.paper_sizes:
        assert row.note
    assert row.torchvision or row.files


OWN = """
[[dataset]]
slug = "my_pets"
title = "My pets"
aliases = ["pets_of_mine"]
n_classes = 2
metric = "mean_per_class"
sizes = { train = 6, test = 6 }
files = "our photographs"
"""


def test_a_dataset_of_ones_own_is_packed_by_its_name_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ``[[dataset]]`` in a file outside the package."""
    (tmp_path / "own.toml").write_text(OWN)
    monkeypatch.setenv(OWN_FILES, str(tmp_path / "own.toml"))
    root = write_image_folder(tmp_path / "photographs")
    options = PackOptions(root=root, jobs=1)

    card = pack("my_pets", tmp_path / "out", options).card

    assert (card.name, card.headline_metric) == ("my_pets", "mean_per_class")
    assert "my_pets" in datasets_table()
    (root / "train/a/0.jpg").unlink()
    with pytest.raises(PackError, match="my_pets: expected 6 train, 6 test, found 5 train"):
        pack("pets-of-mine", tmp_path / "other", options)
