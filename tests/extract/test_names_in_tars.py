"""Names in tars that no store can hold: refused by their headers, before anything is encoded."""

import io
import tarfile
from pathlib import Path

import pytest
from run_factories import run_once
from tar_factories import labelled, tar_bytes

from linprobe.errors import ShardError
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.shards.tar import check_names, read_members
from linprobe_extract.shards.types import Shard

LONG = "é" * 60
BAD = "caf\udce9.jpg"


def tar_of(names: tuple[str, ...], kind: int) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=kind, errors="surrogateescape") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"123"))
    return made.getvalue()


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    ("names", "is_sound"),
    [
        (("a.jpg", f"{LONG}/{LONG[:20]}.jpg", "é.cls"), True),
        (("a.jpg", BAD), False),
        (("é/" * 40 + BAD, "a.jpg"), False),
    ],
)
def test_headers_tell_what_reading_tells(
    names: tuple[str, ...], is_sound: bool, kind: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(names, kind))
    shard = Shard(str(path))

    if is_sound:
        check_names(shard, place="a")
        assert list(read_members(shard))
        return
    with pytest.raises(ShardError, match="UTF-8"):
        list(read_members(shard))
    with pytest.raises(ShardError, match=r"'a' holds a name that is no UTF-8: .*caf"):
        check_names(shard, place="a")


@pytest.mark.parametrize("size", ["-1", "9", "zz", "\udcff" * 12])
def test_a_damaged_header_is_left_to_reading(size: str, tmp_path: Path) -> None:
    data = bytearray(tar_bytes(labelled({"a": 0})))
    data[124:136] = size.encode("utf-8", "surrogateescape").ljust(12, b"\0")
    path = tmp_path / "a.tar"
    path.write_bytes(data)

    check_names(Shard(str(path)), place="a")
    with pytest.raises(ShardError):
        list(read_members(Shard(str(path))))


def test_a_shard_whose_last_key_is_no_utf8_is_not_encoded(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    path = data / "train" / "1.tar"
    sound = labelled({f"k{i}": 0 for i in range(9)})
    path.write_bytes(tar_of((*(name for name, _ in sound), BAD), tarfile.GNU_FORMAT))
    batches = []

    report = run_once(
        encoder, data, tmp_path / "store", watch=lambda progress: batches.append(progress.done)
    )

    (failed,) = report.failed.values()
    assert "no UTF-8" in failed.message
    assert report.n_images == 5 + 4 + 3
    assert not report.skipped
