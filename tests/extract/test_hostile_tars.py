"""A tar of a stranger gives its samples, or is refused by name, in bounded memory and time."""

import bz2
import gzip
import io
import lzma
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tar_factories import image_bytes, labelled, tar_bytes

from linprobe import tars
from linprobe.errors import ShardError
from linprobe_extract.run.work import _n_samples
from linprobe_extract.shards.samples import MAX_KEY_BYTES, TOO_LARGE, cut_batches, read_samples
from linprobe_extract.shards.tar import fingerprint_shard, read_members
from linprobe_extract.shards.types import Labelling, Sample, Shard

CLS = Labelling("cls", None)
MiB = 1 << 20


def samples_of(path: Path, labelling: Labelling = CLS) -> Iterator[Sample]:
    shard = Shard(str(path))
    return read_samples(shard.url, read_members(shard), labelling)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that claims ``size`` bytes; nothing follows it."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def extended(kind: bytes, data: bytes) -> bytes:
    """An extended header with so many bytes, whole."""
    return header("extended", len(data), kind) + padded(data)


def record(key: str, value: str) -> bytes:
    """A record of a PAX header."""
    rest = f" {key}={value}\n"
    n = len(rest.encode())
    while len(str(n)) + len(rest.encode()) != n:
        n = len(str(n)) + len(rest.encode())
    return f"{n}{rest}".encode()


def pax(**fields: str) -> bytes:
    """A PAX header for the next member."""
    records = b"".join(record(key.replace("__", "."), value) for key, value in fields.items())
    return extended(tarfile.XHDTYPE, records)


TAIL = bytes(1024)
MEMBERS = tar_bytes(labelled({"z": 0})).rstrip(b"\0")
MEMBERS += bytes(-len(MEMBERS) % 512)

REFUSED = {
    "GNU sparse": header("a.jpg", 0, tarfile.GNUTYPE_SPARSE),
    "PAX sparse 0.0": pax(GNU__sparse__size="2000000000") + header("a.jpg", 0),
    "PAX sparse 0.1": pax(GNU__sparse__map="0,1", GNU__sparse__size="2") + header("a.jpg", 0),
    "PAX sparse 1.0": pax(GNU__sparse__major="1", GNU__sparse__minor="0",
                          GNU__sparse__realsize="2000000000")
    + header("a.jpg", 512) + padded(b"1\n0\n1\n"),
    "sparse for all": extended(tarfile.XGLTYPE, record("GNU.sparse.size", "9")) + pax(path="b.jpg")
    + header("a.jpg", 0),
    "long name of 2 GB": header("a", 2 << 30, tarfile.GNUTYPE_LONGNAME),
    "long link of 2 GB": header("a", 2 << 30, tarfile.GNUTYPE_LONGLINK),
    "PAX header of 2 GB": header("a", 2 << 30, tarfile.XHDTYPE),
    "global header of 2 GB": header("a", 2 << 30, tarfile.XGLTYPE),
    "global headers without end": extended(tarfile.XGLTYPE, record("comment", "x" * 9000)) * 200,
    "PAX headers without end": pax(comment="x" * 9000) * 200,
    "name of 5,000 characters": pax(path="x" * 5000) + header("a.jpg", 0),
    "size below zero": pax(size="-1024") + header("a.jpg", 0),
    "header of a size below zero": header("a", -1024, tarfile.XHDTYPE),
    "name that is no UTF-8": header("caf\udce9.jpg", 0),
    "symbolic link": header("a.jpg", 0, tarfile.SYMTYPE),
    "hard link": header("a.jpg", 0, tarfile.LNKTYPE),
    "FIFO": header("a.jpg", 0, tarfile.FIFOTYPE),
    "device": header("a.jpg", 0, tarfile.CHRTYPE),
    "unknown type": header("a.jpg", 0, b"Z"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("where", ["first", "last"])
def test_what_no_packer_writes_is_refused_by_name(name: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.tar"
    hostile = REFUSED[name]
    path.write_bytes((hostile + MEMBERS if where == "first" else MEMBERS + hostile) + TAIL)

    with pytest.raises(ShardError, match=r"hostile\.tar"):
        list(samples_of(path))
    assert _n_samples(Shard(str(path))) in (None, 1)


@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/x.jpg", "a\x1b[31m.jpg", "a\nb.jpg"])
def test_odd_names_are_names_and_nothing_else(name: str, tmp_path: Path) -> None:
    label = name.replace(".jpg", ".cls")
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([(name, image_bytes(0)), (label, b"1")]))

    (sample,) = samples_of(path)

    assert (sample.key, sample.label) == (name.removesuffix(".jpg"), 1)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


def test_a_member_too_large_is_skipped_and_counted_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linprobe_extract.shards.samples.MAX_MEMBER_BYTES", 5000)
    big = image_bytes(1) + bytes(5000)
    members = [*labelled({"a": 0}), ("b.jpg", big), ("b.cls", b"1"), *labelled({"c": 1})]
    members += [("d.jpg", image_bytes(2)), ("d.cls", bytes(2 * MiB)), ("e.mp4", big)]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))

    found = {sample.key: sample.reason for sample in samples_of(tmp_path / "a.tar")}

    assert found == {"a": None, "b": TOO_LARGE, "c": None, "d": TOO_LARGE, "e": "no_label"}


READ = """
import resource, sys, time
from linprobe.errors import LinprobeError
from linprobe_extract.shards.samples import read_samples
from linprobe_extract.shards.tar import read_members
from linprobe_extract.shards.types import Labelling, Shard
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shard = Shard(sys.argv[1])
try:
    n = sum(1 for _ in read_samples(shard.url, read_members(shard), Labelling("cls", None)))
    print(n, "samples")
except LinprobeError as error:
    print("refused", error.message)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def read_apart(path: Path) -> tuple[str, int]:
    """What another process says of a tar, and the MiB by which it grew."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], timeout=120, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    said, grown = done.stdout.splitlines()
    return said, int(grown)


class _Zeros(io.RawIOBase):
    """So many zeros, that take no memory."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1) -> bytes:
        size = min(size, self._left)
        self._left -= size
        return bytes(size)


OPENERS: dict[str, Callable[[Path], io.BufferedIOBase]] = {
    "gz": partial(gzip.GzipFile, mode="wb"),
    "bz2": partial(bz2.BZ2File, mode="wb", compresslevel=1),
    "xz": partial(lzma.LZMAFile, mode="wb", preset=0),
}


@pytest.mark.parametrize("kind", OPENERS)
def test_a_small_file_of_one_huge_member_takes_little_memory(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"bomb.tar.{kind}"
    size = 256 << 20
    with (
        OPENERS[kind](path) as file,
        tarfile.open(fileobj=cast("IO[bytes]", file), mode="w|") as tar,
    ):
        info = tarfile.TarInfo("a.jpg")
        info.size = size
        tar.addfile(info, _Zeros(size))
    assert path.stat().st_size < 8 * MiB

    said, grown = read_apart(path)

    assert said.startswith("refused")
    assert "times its size" in said
    assert grown < 300


def _xz(content: bytes) -> bytes:
    return lzma.compress(content, preset=0)


def test_an_xz_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    small = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}
    packed = bytearray(lzma.compress(bytes(2048), filters=[small]))
    head = packed[12 : 12 + 4 * (packed[12] + 1)]  # of the only block
    head[head.index(lzma.FILTER_LZMA2) + 2] = 40  # a dictionary of 4 GiB
    head[-4:] = zlib.crc32(head[:-4]).to_bytes(4, "little")
    packed[12 : 12 + len(head)] = head
    (path := tmp_path / "a.tar.xz").write_bytes(packed)

    with pytest.raises(ShardError, match=r"a\.tar\.xz.*Memory usage limit"):
        list(read_members(Shard(str(path))))


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_an_xz_is_read_whole_as_the_library_reads_it(size: int) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    joined = _xz(content[:1000]) + _xz(b"") + bytes(8) + _xz(content[1000:]) + bytes(4)
    stream = tars.unpacked(io.BytesIO(joined))

    pieces = iter(partial(stream.read, size), b"")
    assert b"".join(pieces) == content if size > 1 else b"".join([*pieces][:2000]) == content[:2000]

    for damaged in (joined[:-200], joined + b"x", joined[:500] + b"x" + joined[501:]):
        with pytest.raises(tars.UNREADABLE):
            b"".join(iter(partial(tars.unpacked(io.BytesIO(damaged)).read, 1 << 16), b""))


def test_nothing_is_held_of_what_is_no_image_and_no_label(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(MEMBERS)
        for i in range(5000):  # members of one key
            file.write(header(f"k.{i}", 16384) + bytes(16384))
        file.write(TAIL)

    said, grown = read_apart(path)

    assert (said, grown < 40) == ("2 samples", True)


def test_the_keys_of_a_shard_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linprobe_extract.shards.samples.MAX_KEY_BYTES", 1000)
    (tmp_path / "a.tar").write_bytes(tar_bytes(labelled({f"k{i}": 0 for i in range(20)})))

    with pytest.raises(ShardError, match=r"keys of .* take more than 1,000 bytes"):
        list(samples_of(tmp_path / "a.tar"))
    assert 512 * MiB == MAX_KEY_BYTES


def test_a_second_image_of_a_sample_is_refused_before_a_third_is_held(tmp_path: Path) -> None:
    names = [f"k.{kind}" for kind in ("jpg", "png", "tif", "bmp")]
    (tmp_path / "a.tar").write_bytes(tar_bytes([(name, b"x") for name in names]))

    with pytest.raises(ShardError, match="has 2 images: jpg, png"):
        list(samples_of(tmp_path / "a.tar"))


def test_a_batch_ends_where_its_images_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linprobe_extract.shards.samples.BATCH_BYTES", 100)

    batches = list(cut_batches([10, 20, 30, 90, 200, 1, 1, 1], 3, lambda size: size))

    assert batches == [(10, 20, 30), (90, 200), (1, 1, 1)]


WHOLE = tar_bytes(labelled({"a": 0, "b/c": 1}))
PAX = pax(path="long/name.jpg", mtime="1.5") + header("x", 0) + MEMBERS + TAIL
PACKERS = (bytes, gzip.compress, bz2.compress, lzma.compress)


@given(
    whole=st.sampled_from((WHOLE, PAX)),
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=12)), max_size=6),
    cut=st.floats(0, 1) | st.none(),
    pack=st.sampled_from(PACKERS),
    is_inside=st.booleans(),
)
@settings(deadline=2000)
def test_any_bytes_give_samples_or_a_refusal_by_name(
    tmp_path_factory: pytest.TempPathFactory,
    whole: bytes,
    edits: list[tuple[float, bytes]],
    cut: float | None,
    pack: Callable[[bytes], bytes],
    is_inside: bool,
) -> None:
    def mutate(data: bytes) -> bytes:
        changed = bytearray(data)
        for place, piece in edits:
            start = int(place * (len(changed) - 1))
            changed[start : start + len(piece)] = piece
        return bytes(changed if cut is None else changed[: int(cut * len(changed))])

    def summed(data: bytes) -> bytes:
        """With the checksums of headers made right again: what a careful stranger would do."""
        blocks = bytearray(data)
        for start in range(0, len(blocks) - 511, 512):
            if blocks[start + 257 : start + 262] == b"ustar":
                blocks[start + 148 : start + 156] = b" " * 8
                total = sum(struct.unpack("512B", blocks[start : start + 512]))
                blocks[start + 148 : start + 156] = b"%06o\0 " % total
        return bytes(blocks)

    path = tmp_path_factory.getbasetemp() / "any.tar"
    path.write_bytes(pack(summed(mutate(whole))) if is_inside else mutate(pack(whole)))
    shard = Shard(str(path))
    _n_samples(shard)
    fingerprint, refusal = fingerprint_shard(shard), str(path)
    try:
        samples = list(read_samples(shard.url, read_members(shard, fingerprint), CLS))
    except ShardError as error:
        samples, refusal = [], error.message

    assert all(sample.image or sample.reason for sample in samples)
    assert str(path) in refusal


def test_limits_are_those_of_the_documents() -> None:
    assert (256 * MiB, MiB) == (tars.MAX_MEMBER_BYTES, tars.MAX_HEADER_BYTES)
