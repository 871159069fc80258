"""The strict reader and the canonical writer of JSON."""

import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linprobe.errors import CardError, IntegrityError, StoreError
from linprobe.records import (
    MAX_BYTES,
    JsonValue,
    NonNegative,
    canonical_json,
    digest_json,
    encode,
    parse,
    plain,
    read,
    read_bytes,
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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"name":"a","size":1,"size":2}', "found `size` repeated"),
        ('{"name":"a","size":1,"\\u006eame":"b"}', "found `name` repeated"),
        ('{"name":"a","size":NaN}', "invalid character"),
        ('{"name":"a","size":1,"share":1e999}', "Number out of range"),
        ('{"name":"a","size":1,"share":-Infinity}', ""),
        ('{"name":"\\ud800","size":1}', ""),
        ('{"name":"\\ude00\\ud83d","size":1}', "surrogate"),
        ('{"name":"a","size":18446744073709551616}', "64 bits, found 18446744073709551616"),
        ('{"name":"a","size":' + "9" * 5000 + "}", "out of range"),
        ('\ufeff{"name":"a","size":1}', "invalid character"),
        ('{"name":"a","size":1}{}', "trailing characters"),
        ('{"name":"a","size":1}\x00', "trailing characters"),
    ],
)  # fmt: skip
def test_json_that_readers_understand_differently_is_refused(text: str, says: str) -> None:
    with pytest.raises(IntegrityError, match=rf"^here: .*{says}"):
        parse(Leaf, text.encode(), "here")


@pytest.mark.parametrize("depth", [70, 900, 100_000])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_json_nested_too_deep_is_refused(start: str, end: str, depth: int) -> None:
    data = ('{"a":' + start * depth + "0" + end * depth + "}").encode()
    with pytest.raises(IntegrityError, match=r"^here: .*(depth|recursion)"):
        parse(dict[str, object], data, "here")


def test_a_repeated_field_is_refused_at_any_depth() -> None:
    data = b'{"kind":"oak","leaves":[],"free":{"x":1,"x":1}}'
    with pytest.raises(IntegrityError, match="found `x` repeated"):
        parse(Tree, data, "here")


def test_only_regular_files_are_read_and_none_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    server = socket.socket(socket.AF_UNIX)
    place = os.open(tmp_path, os.O_RDONLY)
    server.bind(f"/proc/self/fd/{place}/socket")  # the path of a socket has 107 bytes at most
    kinds = {tmp_path: "folder", tmp_path / "fifo": "FIFO", tmp_path / "socket": "socket"}
    for path, kind in {**kinds, Path("/dev/zero"): "device"}.items():
        with pytest.raises(CardError, match=f"{path.name}: .*regular file, found a {kind}"):
            read_bytes(path, error=CardError, hint="pack again")
    with pytest.raises(IntegrityError, match="null"):
        read_bytes(tmp_path / "a\0b")
    server.close()
    os.close(place)


def test_a_file_larger_than_its_limit_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.write_bytes(b"x" * 10)
    assert read_bytes(file, limit=10) == b"x" * 10
    with pytest.raises(IntegrityError, match=r"large\.json: expected at most 9 bytes, found 10"):
        read_bytes(file, limit=9)

    os.truncate(file, 1 << 40)
    with pytest.raises(CardError, match=f"at most {MAX_BYTES:,} bytes, found 1,099,511,627,776"):
        read_bytes(file, error=CardError, hint="pack again")


def test_a_file_that_grows_while_it_is_read_ends_at_its_limit() -> None:
    with pytest.raises(IntegrityError, match="at most 100 bytes, found 101"):
        read_bytes(Path("/proc/self/maps"), limit=100)  # whose size the system gives as 0


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


@pytest.mark.parametrize("value", ["{}", "[]", "0", '""'])
def test_json_of_more_values_than_memory_is_meant_for_is_refused(value: str) -> None:
    data = b'{"a":[' + b",".join([value.encode()] * (5 << 20)) + b"]}"

    with pytest.raises(IntegrityError, match=r"a\.json: expected at most 4,194,304 values"):
        parse(dict[str, object], data, "a.json")
