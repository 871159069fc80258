"""Data by name: packed once, refused with what is known otherwise."""

from pathlib import Path

import pytest

from linprobe.errors import ExtractError
from linprobe_extract.pack.by_name import data_folder
from linprobe_extract.shards.card import load_card


def test_a_known_name_is_packed_when_first_asked_for_and_then_left_alone(tmp_path: Path) -> None:
    folder = data_folder("digits", may_pack=True, root=tmp_path)
    assert folder == str(tmp_path / "digits")
    before = (tmp_path / "digits" / "dataset.json").stat().st_mtime_ns

    again = data_folder("digits", may_pack=False, root=tmp_path)

    assert again == folder
    assert (tmp_path / "digits" / "dataset.json").stat().st_mtime_ns == before
    card = load_card(tmp_path / "digits")
    assert card is not None
    assert card.name == "digits"


def test_folders_and_urls_are_taken_as_they_are(tmp_path: Path) -> None:
    for data in (str(tmp_path), "https://example.org/wds_cifar10", None):
        assert data_folder(data, may_pack=False, root=tmp_path) == data


def test_what_is_neither_is_told_with_the_names_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match="'cifar11' is no folder of shards") as caught:
        data_folder("cifar11", may_pack=True, root=tmp_path)

    assert "cifar100" in caught.value.hint


def test_a_dry_run_packs_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match="not packed"):
        data_folder("digits", may_pack=False, root=tmp_path)

    assert not list(tmp_path.iterdir())


def test_another_name_of_a_known_dataset_is_the_same_folder(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match=r"flowers102 is not packed in .*flowers102 yet"):
        data_folder("Flowers", may_pack=False, root=tmp_path)
