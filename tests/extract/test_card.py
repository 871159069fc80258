"""A card says on reading what it said on writing, or is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linprobe.errors import CardError
from linprobe.records import encode
from linprobe_extract.shards.card import (
    DatasetCard,
    DuplicateImage,
    ShardCard,
    SplitCard,
    UnreadableImage,
    load_card,
)
from linprobe_store.format.spec import ShardFingerprint

CARD = DatasetCard(
    name="two",
    classes=("äpfel", "birnen"),
    label_source="cls",
    headline_metric="mean_per_class",
    source="imagefolder:two",
    seed=3,
    request="1" * 64,
    plan="2" * 64,
    splits={"train": SplitCard(2, (ShardCard("0.tar", 10240, "a" * 64, 2),))},
    unreadable=(UnreadableImage("train", "a/b.jpg", "empty file"),),
    duplicates=(DuplicateImage("b" * 64, ("test", "train"), ("x", "y"), ((0,), (1,)), ("y",)),),
    notes=("a note",),
)


def test_a_saved_card_loads_as_it_was(tmp_path: Path) -> None:
    CARD.save(tmp_path)

    assert load_card(tmp_path) == CARD


def test_a_folder_without_a_card_is_no_error(tmp_path: Path) -> None:
    assert load_card(tmp_path) is None


def test_a_listed_shard_has_the_fingerprint_that_the_store_knows() -> None:
    (shard,) = CARD.splits["train"].shards
    assert shard.fingerprint == ShardFingerprint("0.tar", 10240, "a" * 64)


def test_copies_in_two_splits_leak_and_copies_with_two_labels_contradict() -> None:
    within = DuplicateImage("c" * 64, ("train", "train"), ("x", "y"), ((1,), (1,)), ())

    assert (CARD.duplicates[0].is_leak, CARD.duplicates[0].is_contradiction) == (True, True)
    assert (within.is_leak, within.is_contradiction) == (False, False)
    assert CARD.leaks == CARD.duplicates


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "other"}, "found other"),
        ({"headline_metric": 7}, r"Expected `str`, got `int` - at `\$.headline_metric`"),
        ({"classes": None}, r"Expected `array`, got `null` - at `\$.classes`"),
        ({"classes": ["a", " "]}, "class name 2 of .* is blank"),
        ({"splits": []}, "Expected `object`"),
        ({"splits": {"train": {"samples": -1, "shards": []}}}, r">= 0 - at .*samples"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_card_that_is_not_one_is_refused_with_what_was_found(
    tmp_path: Path, damage: dict[str, object], found: str
) -> None:
    CARD.save(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))

    with pytest.raises(CardError, match=found):
        load_card(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_file_that_is_no_card_at_all_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)

    with pytest.raises(CardError, match=r"dataset\.json"):
        load_card(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../../x.tar", "/etc/x.tar", "a/b.tar", "..", ".hidden.tar", "a\0b.tar", "", "a\\b.tar"],
)
def test_a_shard_that_is_no_plain_name_is_refused(name: str, tmp_path: Path) -> None:
    (split,) = CARD.splits.values()
    replace(CARD, splits={"train": SplitCard(2, (replace(split.shards[0], name=name),))}).save(
        tmp_path
    )

    with pytest.raises(CardError, match=r"dataset\.json: .* at .*name"):
        load_card(tmp_path)


def test_a_card_that_names_a_shard_twice_or_a_strange_split_is_refused(tmp_path: Path) -> None:
    (split,) = CARD.splits.values()
    for splits in ({"train": SplitCard(4, split.shards * 2)}, {"../x": split}):
        replace(CARD, splits=splits).save(tmp_path)
        with pytest.raises(CardError, match="is unknown, or names a shard twice"):
            load_card(tmp_path)


@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=5),
    cut=st.floats(0, 1) | st.none(),
)
def test_any_bytes_are_a_card_or_a_refusal_by_name(
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[tuple[float, bytes]],
    cut: float | None,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    data = bytearray(encode(CARD))
    for place, piece in edits:
        start = int(place * (len(data) - 1))
        data[start : start + len(piece)] = piece
    path = folder / "dataset.json"
    path.write_bytes(data if cut is None else data[: int(cut * len(data))])

    refusal = str(path)
    try:
        load_card(folder)
    except CardError as error:
        refusal = error.message

    assert str(path) in refusal


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"format":' * 100_000, b'{"version": NaN}'])
def test_a_card_of_endless_depth_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)

    with pytest.raises(CardError, match=r"dataset\.json"):
        load_card(tmp_path)
