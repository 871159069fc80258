"""``store/README.md`` is true, and enough to write a reader with."""

import hashlib
import json
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from store_factories import encoder_of, encoder_spec, sealed_split

from linprobe.door import VERBS
from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    EncoderNames,
    EncoderSpec,
    FeatureBlock,
    ShardFingerprint,
    SkippedSample,
    SplitSpec,
    Tap,
)
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore

README = Path(__file__).parents[2] / "store" / "README.md"


@pytest.fixture
def example(tmp_path: Path) -> Split:
    """The store of section 6."""
    taps = (Tap("embedding", 2),)
    spec = EncoderSpec("example:tiny", {}, "gelu", "00" * 32, taps, None, "fp32", "float16")
    encoder = FeatureStore(tmp_path).register_encoder(spec, EncoderNames("tiny", "tiny"))
    shard = ShardFingerprint("a.tar", 10240, "11" * 32)
    features = np.array([[1, 2], [3, 4], [-1, 0.5]], np.float16)
    keys = ("cat1", "dog1", "dog2")
    with encoder.part_writer(shard) as writer:
        images = b"".join(hashlib.sha256(key.encode()).digest() for key in keys)
        digests = np.frombuffer(images, np.uint8).reshape(3, 32)
        writer.append(FeatureBlock(keys, {"embedding": features}, np.array([0, 1, 1]), digests))
        skipped = [SkippedSample("dog3", "truncated")]
        writer.commit(skipped=skipped, batch_size=8, planned=4, labelling="cls")
    dataset = DatasetSpec((SplitSpec("train", (shard,)),), "cls", ("cat", "dog"))
    return encoder.seal(dataset, "train", names=DatasetNames("Pets"))


def words(data: bytes) -> str:
    """Hexadecimal in pairs of bytes, without the layout of the page."""
    return data.hex(" ", -2).replace("\n", " ")


def test_the_worked_example_is_what_is_written(example: Split, tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    section = text[text.index("## 6.") : text.index("## 7.")]
    data = example.path / "data.zarr"

    for path in (
        tmp_path / "FORMAT",
        *encoder_of(example).path.glob("*.json"),
        *example.path.parent.glob("*.json"),
    ):
        listed = f"{path.stat().st_size:<4}{path.relative_to(tmp_path)}\n"
        assert listed in section
    for path in (
        encoder_of(example).path / "encoder.json",
        example.path.parent / "dataset.json",
        example.path.parent / "names.json",
        data / "features_embedding" / "zarr.json",
    ):
        assert f"    {path.read_text()}\n" in section
    bare = "".join(
        line.split("  rows")[0].split("  index")[0].split("  12 bytes")[0].split("  crc32c")[0]
        for line in section.splitlines()
        if line.startswith("    ")
    ).replace(" ", "")
    names = ("features_embedding/c/0/0", "image_sha256/c/0/0", "keys_offsets/c/0", "keys_bytes/c/0")
    for name in names:
        assert (data / name).read_bytes().hex() in bare
    assert f"`{example.encoder_id}`" in section
    assert list((encoder_of(example).path / "parts").iterdir())[0].name in section  # noqa: RUF015
    commit = (example.path / "COMMIT.json").read_text()
    quoted = [line.strip() for line in section.splitlines() if line.startswith('    "')]
    assert len(quoted) == 2
    for piece in (*quoted, section.split("begins with `")[1].split("`")[0]):
        assert piece in commit


def read_by_the_specification(unit: Path, name: str) -> list[bytes]:
    """Rows of an array, from section 3 alone: standard library, no Zarr, none of our code."""
    array = unit / "data.zarr" / name
    meta = json.loads((array / "zarr.json").read_bytes())
    rows_per_file, *row_shape = meta["chunk_grid"]["configuration"]["chunk_shape"]
    (codec,) = meta["codecs"]
    inner = codec["configuration"]["chunk_shape"][0]
    itemsize = {"float16": 2, "float32": 4, "int64": 8, "uint8": 1}[meta["data_type"]]
    row_bytes = itemsize * (row_shape[0] if row_shape else 1)
    rows: list[bytes] = []
    for i in range(-(-meta["shape"][0] // rows_per_file)):
        data = (array / "c" / "/".join([str(i), *["0"] * len(row_shape)])).read_bytes()
        n = min(rows_per_file, meta["shape"][0] - i * rows_per_file)
        n_chunks, n_entries = -(-n // inner), rows_per_file // inner
        assert len(data) == n_chunks * inner * row_bytes + 16 * n_entries + 4
        index, crc = data[-16 * n_entries - 4 : -4], data[-4:]
        assert google_crc32c.value(index) == int.from_bytes(crc, "little")
        for entry, (offset, size) in enumerate(struct.iter_unpack("<QQ", index)):
            chunk = (entry * inner * row_bytes, inner * row_bytes)
            assert (offset, size) == (chunk if entry < n_chunks else (2**64 - 1, 2**64 - 1))
        rows += [data[r * row_bytes : (r + 1) * row_bytes] for r in range(n)]
    return rows


def test_a_reader_written_from_the_specification_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linprobe_store.arrays.unit_writer.MAX_SHARD_FILE_BYTES", 2048 * 5 * 2)
    split, _ = sealed_split(tmp_path, (5000, 3), encoder_spec(5, 3))

    commit = json.loads((split.path / "COMMIT.json").read_bytes())
    digest = commit.pop("digest")
    canonical = json.dumps(commit, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(canonical.encode()).hexdigest() == digest == split.digest
    for name, expected in commit["files"].items():
        data = (split.path / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == expected["sha256"]
        assert f"{google_crc32c.value(data):08x}" == expected["crc32c"]
    for tap in ("embedding", "pre_projection"):
        rows = read_by_the_specification(split.path, f"features_{tap}")
        assert b"".join(rows) == b"".join(m.tobytes() for m in split.maps(tap))
    labels = b"".join(read_by_the_specification(split.path, "labels"))
    assert labels == split.labels.tobytes()
    images = b"".join(read_by_the_specification(split.path, "image_sha256"))
    assert split.image_sha256 is not None
    assert images == split.image_sha256.tobytes()
    edges = [
        int.from_bytes(e, "little") for e in read_by_the_specification(split.path, "keys_offsets")
    ]
    text = b"".join(read_by_the_specification(split.path, "keys_bytes"))
    assert [text[a:b].decode() for a, b in zip(edges, edges[1:], strict=False)] == list(split.keys)  # noqa: RUF007


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8").split("## 7.")[1]
    for verb in VERBS:
        assert not verb.words.startswith("store ") or f" {verb.words.split()[1]} " in text
