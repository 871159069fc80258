"""Whatever the bytes of a store's files are: the right value, or a refusal that names the file."""

import copy
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_factories import encoder_of, encoder_spec, root_of, sealed_split, sign_again

from linprobe.errors import IntegrityError, LinprobeError
from linprobe_store.care.verify import verify_store
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.witness import Provenance

EXAMPLES = int(os.environ.get("LINPROBE_MUTATIONS", "40"))
"""Mutated inputs that each reader is given."""
RUN = Provenance("2026-01-01T00:00:00+00:00", "a", "cpu", ("linprobe",), {"python": "3"}, 8)
CANARY = {"embedding": np.random.default_rng(0).standard_normal((3, 3)).astype(np.float16)}
DATA = "sets/*/train/data.zarr"
FILES = {
    "FORMAT": "../FORMAT",
    "encoder.json": "encoder.json",
    "encoder names": "names.json",
    "canary": "canary/canary.npz",
    "provenance": "provenance.jsonl",
    "part": "parts/*/COMMIT.json",
    "dataset.json": "sets/*/dataset.json",
    "dataset names": "sets/*/names.json",
    "COMMIT.json": "sets/*/train/COMMIT.json",
    "group": f"{DATA}/zarr.json",
    "features zarr.json": f"{DATA}/features_embedding/zarr.json",
    "features": f"{DATA}/features_embedding/c/0/0",
    "labels zarr.json": f"{DATA}/labels/zarr.json",
    "labels": f"{DATA}/labels/c/0",
    "edges": f"{DATA}/keys_offsets/c/0",
    "keys": f"{DATA}/keys_bytes/c/0",
    "digests": f"{DATA}/image_sha256/c/0/0",
}
SIGNED = ("COMMIT.json", "part")
UNDER_COMMIT = ("group", "features zarr.json", "labels zarr.json", "features", "labels", "edges")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> "Whole":
    """A split of two shards, in a store with a canary and provenance."""
    split, _ = sealed_split(tmp_path_factory.mktemp("store"), (5, 3), encoder_spec(3))
    encoder_of(split).check_canary(CANARY)
    encoder_of(split).record_provenance(RUN)
    return Whole(split)


class Whole:
    """A sound split, of a short name where an example fails."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.values = read_all(root_of(split))


def path_of(split: Split, kind: str) -> Path:
    path = next(split.path.parents[2].glob(FILES[kind].removeprefix("../")), None)
    return path or root_of(split) / FILES[kind].removeprefix("../")


def read_all(root: Path) -> dict[str, Any]:
    """Everything that can be read of the split and its encoder."""
    split = FeatureStore(root).split("train")
    encoder = encoder_of(split)
    for shard in split.dataset_spec.splits[0].shards:
        encoder.committed_part(shard)
        encoder.part_labels(shard)
    split.zarr()
    return {
        "features": split.array("embedding").tobytes(),
        "some": split.rows([1], "embedding").tobytes(),
        "labels": split.labels.tobytes(),
        "keys": list(split.keys),
        "digests": None if split.image_sha256 is None else split.image_sha256.tobytes(),
        "classes": split.classes,
        "canary": (encoder.canary() or {"embedding": CANARY["embedding"]})["embedding"].tobytes(),
        "runs": len(encoder.provenance()) < 2,  # which no digest covers
    }


NASTY = (
    b"",
    b"\0",
    b"\xff\xfe",
    b'"\\ud800"',
    b"NaN",
    b"-1",
    b"1e999",
    b"10" * 40,
    b"[" * 500,
    b'{"a":' * 200,
    b'"../../x"',
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"x"',
)


@st.composite
def changes(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few bytes flipped, cut out, repeated or replaced at any place."""
    edits = draw(
        st.lists(
            st.tuples(
                st.floats(0, 1),
                st.integers(0, 12),
                st.one_of(st.binary(max_size=4), st.sampled_from(NASTY)),
            ),
            min_size=1,
            max_size=3,
        )
    )

    def change(data: bytes) -> bytes:
        for share, n, new in edits:
            at = int(share * len(data))
            data = data[:at] + new + data[at + n :]
        return data

    return change


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**18, -(10**18), 2**63, 2**64 - 1, 3.0, 1e300]),
    st.sampled_from(["", ".", "/../../x/", "\0", "O", "float16", "train", "split", "0" * 64]),
    st.sampled_from([[], {}, [[]], [0], [1, 1], {"name": "x"}]),
)


def fields_of(value: Any) -> list[tuple[Any, Any]]:  # noqa: ANN401 - any JSON
    """Every object and list within a JSON value, with each of its keys."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    inner = [field for key in keys for field in fields_of(value[key])]
    return [(value, key) for key in keys] + inner


@st.composite
def edits(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A JSON with one or two fields replaced or removed."""
    chosen = draw(
        st.lists(st.tuples(st.floats(0, 1), st.booleans(), VALUES), min_size=1, max_size=2)
    )

    def edit(data: bytes) -> bytes:
        record = json.loads(data)
        for share, removed, value in chosen:
            places = fields_of(record)
            if places:
                holder, key = places[min(int(share * len(places)), len(places) - 1)]
                if removed:
                    del holder[key]
                else:
                    holder[key] = copy.deepcopy(value)
        return json.dumps(record).encode()

    return edit


def check_outcome(whole: Whole, path: Path, data: bytes, *, sign: bool = False) -> None:
    """Read everything of the store with other bytes in one file, and put it back."""
    split, expected, before = whole.split, whole.values, path.read_bytes()
    commit = split.path / "COMMIT.json"
    committed = commit.read_bytes()
    try:
        path.write_bytes(data)
        if sign:
            unit = path.parent if path.name == "COMMIT.json" else split.path
            names = [] if unit == path.parent else [path.relative_to(unit).as_posix()]
            sign_again(unit, *names)
        units = list(verify_store(FeatureStore(root_of(split)), deep=True))
        values = read_all(root_of(split))
    except LinprobeError as error:
        named = str(error.message)
        assert any(str(place) in named for place in (path, *path.parents[:-3])), named
    else:
        if not sign:
            assert values == expected
        assert all("Traceback" not in str(unit.problem) for unit in units)
    finally:
        path.write_bytes(before)
        commit.write_bytes(committed)


examples = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("kind", FILES)
@examples
@given(change=changes())
def test_mutated_bytes_give_the_right_value_or_a_refusal(
    whole: Whole, kind: str, change: Callable[[bytes], bytes]
) -> None:
    path = path_of(whole.split, kind)
    check_outcome(whole, path, change(path.read_bytes()))


@pytest.mark.parametrize("kind", [*SIGNED, "features zarr.json", "labels zarr.json", "group"])
@examples
@given(edit=edits())
def test_edited_and_signed_records_give_a_value_or_a_refusal(
    whole: Whole, kind: str, edit: Callable[[bytes], bytes]
) -> None:
    path = path_of(whole.split, kind)
    check_outcome(whole, path, edit(path.read_bytes()), sign=True)


@pytest.mark.parametrize("kind", ["encoder.json", "dataset.json", "encoder names", "dataset names"])
@examples
@given(edit=edits())
def test_edited_specs_and_names_give_a_refusal(
    whole: Whole, kind: str, edit: Callable[[bytes], bytes]
) -> None:
    path = path_of(whole.split, kind)
    check_outcome(whole, path, edit(path.read_bytes()))


@pytest.mark.parametrize("kind", UNDER_COMMIT)
@examples
@given(change=changes())
def test_mutated_files_that_were_signed_give_a_value_or_a_refusal(
    whole: Whole, kind: str, change: Callable[[bytes], bytes]
) -> None:
    """As a hostile writer leaves them: every digest is right."""
    path = path_of(whole.split, kind)
    check_outcome(whole, path, change(path.read_bytes()), sign=True)


def npy(header: str, content: bytes = b"") -> bytes:
    """A ``.npy`` of any header."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def npz(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive of any members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


ROW = "{'descr': '<f2', 'fortran_order': False, 'shape': (%s), }"
CANARIES = {
    "no zip": b"PK\x03\x04",
    "a row of 1e11": npz(("embedding.npy", npy(ROW % "1, 100000000000"))),
    "negative": npz(("embedding.npy", npy(ROW % "-1, -2", bytes(4)))),
    "an object": npz(("embedding.npy", npy(ROW.replace("<f2", "|O") % "1, 1", bytes(8)))),
    "a column": npz(("embedding.npy", npy(ROW % "2,", bytes(4)))),
    "code": npz(("embedding.npy", npy("__import__('os').abort()"))),
    "deep": npz(("embedding.npy", npy("(" * 100 + ")" * 17))),
    "no npy": npz(("embedding.npy", b"text")),
    "a bomb": npz(("embedding.npy", bytes(300_000_000)), compression=zipfile.ZIP_DEFLATED),
    "ten thousand": npz(*((f"{i}.npy", b"") for i in range(10_000))),
}


@pytest.mark.parametrize("kind", CANARIES)
def test_a_hostile_canary_is_refused_by_name(whole: Whole, kind: str) -> None:
    path = path_of(whole.split, "canary")
    before = path.read_bytes()
    path.write_bytes(CANARIES[kind])
    try:
        with pytest.raises(IntegrityError, match=r"canary\.npz"):
            encoder_of(whole.split).canary()
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("kind", ["canary", "provenance"])
@pytest.mark.parametrize("what", ["a FIFO", "a device", "a folder", "too large"])
def test_a_canary_or_provenance_that_is_no_small_file_is_refused_at_once(
    whole: Whole, tmp_path: Path, kind: str, what: str
) -> None:
    shutil.copytree(root_of(whole.split), tmp_path / "store", symlinks=True)
    path = tmp_path / "store" / path_of(whole.split, kind).relative_to(root_of(whole.split))
    path.unlink()
    if what == "a FIFO":
        os.mkfifo(path)
    elif what == "a device":
        path.symlink_to("/dev/zero")
    elif what == "a folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    encoder = FeatureStore(tmp_path / "store").encoder()

    with pytest.raises(IntegrityError, match=path.name):
        encoder.canary() if kind == "canary" else encoder.provenance()
