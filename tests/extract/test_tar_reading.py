"""Tars are read fast, and as the standard library reads them; memory is that of one member."""

import gzip
import hashlib
import io
import struct
import tarfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal, TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tar_factories import tar_bytes

from linprobe import tars
from linprobe.errors import ShardError
from linprobe_extract.shards.tar import fingerprint_shard, read_members
from linprobe_extract.shards.types import Shard

MiB = 1 << 20
LARGE = [(f"{i}.jpg", bytes([i]) * (700_000 + i)) for i in range(6)]
TarFormat: TypeAlias = Literal[0, 1, 2]
FORMATS: tuple[TarFormat, ...] = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def header(name: str, size: int, format_number: TarFormat, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.uname, info.mtime = size, kind, "ün", 1_700_000_000
    return info.tobuf(format_number)


def first_file(tar: bytes, opener: Callable[[IO[bytes]], tarfile.TarFile]) -> object:
    """Name, size, type and place of the first member, or what reading it raised."""
    try:
        with opener(io.BytesIO(tar)) as archive:
            info = archive.next()
    except (tarfile.TarError, ValueError) as error:
        return type(error)
    return info and (info.name, info.size, info.type, info.offset_data, info.pax_headers)


@given(
    name=st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=120),
    size=st.integers(0, 1 << 40),
    format_number=st.sampled_from(FORMATS),
    kind=st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE]),
    edits=st.lists(st.tuples(st.integers(0, 511), st.binary(min_size=1, max_size=9)), max_size=3),
    is_summed=st.booleans(),
)
@example("a.jpg", 5, tarfile.USTAR_FORMAT, tarfile.REGTYPE, [(100, b" 777")], True)
@example("a.jpg", 5, tarfile.USTAR_FORMAT, tarfile.REGTYPE, [(124, b"\x80")], True)
@example("a.jpg", 5, tarfile.USTAR_FORMAT, tarfile.REGTYPE, [(345, b"folder")], True)
def test_a_header_is_read_as_the_library_reads_it(
    name: str,
    size: int,
    format_number: TarFormat,
    kind: bytes,
    edits: list[tuple[int, bytes]],
    is_summed: bool,
) -> None:
    try:
        block = bytearray(header(name, size, format_number, kind))
    except ValueError:  # too long for USTAR
        block = bytearray(header("a.jpg", size % 8**11, tarfile.USTAR_FORMAT, kind))
    for place, piece in edits:
        block[place : place + len(piece)] = piece[: 512 - place]
    if is_summed:  # what a careful stranger would do
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(struct.unpack("512B", block[:512]))
    tar = bytes(block) + bytes(2048)

    theirs = first_file(tar, lambda file: tarfile.TarFile(fileobj=file))
    ours = first_file(tar, tars.open_plain)
    assert ours == theirs or ours is tarfile.ReadError  # since we refuse more


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_large_blocks_are_hashed_beside_the_reading(
    pack: type[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data := pack(tar_bytes(LARGE)))
    threads = set()

    class Watched:
        def __init__(self) -> None:
            self.sha256 = hashlib.new("sha256")

        def update(self, block: bytes) -> None:
            threads.add(threading.current_thread().name)
            self.sha256.update(block)

        def hexdigest(self) -> str:
            return self.sha256.hexdigest()

    fingerprint = fingerprint_shard(Shard(str(path)))
    assert fingerprint.sha256 == hashlib.new("sha256", data).hexdigest()
    monkeypatch.setattr(hashlib, "sha256", Watched)
    members = list(read_members(Shard(str(path)), fingerprint))

    assert [(f"{member.key}.{member.extension}", member.data) for member in members] == LARGE
    if pack is bytes:
        assert any(name.startswith("digest") for name in threads)
    path.write_bytes(pack(tar_bytes([*LARGE[:-1], ("5.jpg", bytes(700_005))])))
    with pytest.raises(ShardError, match="other content"):
        list(read_members(Shard(str(path)), fingerprint))


def test_files_that_are_not_read_are_passed_over_whole(tmp_path: Path) -> None:
    """Also those larger than the blocks in which a tar is read, and one that is cut."""
    members = [("a.jpg", b"a"), ("a.mp4", bytes(3 * MiB + 77)), ("b.jpg", b"b"), ("b.mp4", b"x")]
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(members))
    assert [m.data for m in read_members(Shard(str(path)))] == [b"a", None, b"b", None]

    path.write_bytes(tar_bytes(members[:2])[: 2 * MiB])
    with pytest.raises(ShardError, match="unexpected end of data"):
        list(read_members(Shard(str(path))))


def test_memory_is_the_same_after_20_000_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        for i in range(20_000):
            file.write(header(f"{i:05}.jpg", 3, tarfile.USTAR_FORMAT) + b"abc".ljust(512, b"\0"))
        file.write(bytes(1024))
    held = []
    tracemalloc.start()
    try:
        for i, _ in enumerate(read_members(Shard(str(path)))):
            if i % 5000 == 4999:
                held.append(tracemalloc.get_traced_memory()[0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert max(held) - min(held) < 3 * MiB  # blocks, of which one is read and one hashed
    assert peak < 6 * MiB
