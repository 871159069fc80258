"""The strict reader and the canonical writer of JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linprobe.errors import CardError, IntegrityError, StoreError
from linprobe.records import (
    JsonValue,
    NonNegative,
    canonical_json,
    digest_json,
    encode,
    parse,
    plain,
    read,
)


@dataclass(frozen=True)
class Leaf:
    name: str
    size: NonNegative
    share: float | None = None


@dataclass(frozen=True)
class Tree:
    kind: Literal["oak", "ash"]
    leaves: tuple[Leaf, ...]
    free: dict[str, int] = field(default_factory=dict)


OAK = Tree("oak", (Leaf("a", 1), Leaf("é", 2, 0.5)), {"x": 1})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


def test_what_is_written_is_read_back() -> None:
    assert parse(Tree, encode(OAK), "here") == OAK
    assert parse(Tree, canonical_json(plain(OAK)), "here") == OAK


def test_a_field_that_was_left_out_is_written_with_its_default() -> None:
    leaf = parse(Leaf, b'{"name":"a","size":1}', "here")

    assert plain(leaf) == {"name": "a", "size": 1, "share": None}
    assert plain((leaf,)) == plain([Leaf("a", 1)])


@given(VALUES)
def test_canonical_json_is_one_byte_string_for_a_value_and_keeps_it(value: JsonValue) -> None:
    text = canonical_json(value)

    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert len(digest_json(value)) == 64


def test_floats_of_ids_are_written_as_python_writes_them() -> None:
    assert canonical_json({"eps": 1e-6}) == b'{"eps":1e-06}'


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ({"kind": "elm"}, r"Invalid enum value 'elm' - at `\$.kind`"),
        ({"leaves": [{"name": "a"}]}, r"missing required field `size` - at `\$.leaves\[0\]`"),
        ({"leaves": [{"name": 1, "size": 1}]}, r"Expected `str`, got `int`"),
        ({"leaves": [{"name": "a", "size": -1}]}, r">= 0 - at `\$.leaves\[0\].size`"),
        ({"leaves": [{"name": "a", "size": True}]}, r"Expected `int`, got `bool`"),
        ({"leaves": [{"name": "a", "size": 1, "hue": 3}]}, r"unknown .* `\$.leaves\[0\].hue`"),
        ({"more": 1}, r"unknown field - at `\$.more`"),
    ],
)  # fmt: skip
def test_another_field_than_declared_is_refused_by_place(
    harm: dict[str, object], says: str
) -> None:
    data = json.dumps({**asdict(OAK), **harm}).encode()
    with pytest.raises(CardError, match=says) as caught:
        parse(Tree, data, "tree.json", error=CardError, hint="pack again")

    assert caught.value.message.startswith("tree.json: ")
    assert caught.value.hint == "pack again"


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff", b'{"kind": NaN}', b"[" * 100_000])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^here: "):
        parse(Tree, data, "here")


def test_a_missing_file_is_damage_and_an_unreadable_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="missing"):
        read(Tree, tmp_path / "none.json")
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    with pytest.raises(StoreError, match=r"loop\.json") as caught:
        read(Tree, loop)

    assert not isinstance(caught.value, IntegrityError)


def test_numbers_of_numpy_are_plain_numbers() -> None:
    assert plain({"a": np.float64(0.5), "b": np.int64(3)}) == {"a": 0.5, "b": 3}
    with pytest.raises(TypeError, match="object is no JSON"):
        plain({"a": object()})
