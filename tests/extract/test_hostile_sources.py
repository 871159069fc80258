"""What is packed, and what is remembered, may be hostile: a refusal, or an image left out."""

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torchvision.datasets
from hypothesis import given
from hypothesis import strategies as st
from image_factories import encode, picture
from PIL import Image
from pixel_oracles import CLIP, pixels_of
from tar_factories import image_bytes, labelled, tar_bytes

from linprobe.benchmarks import TorchvisionSource
from linprobe.errors import LinprobeError, PackError, ShardError, StoreError
from linprobe_extract.images import _read
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.pack.shard import image_defect
from linprobe_extract.pack.sources import torchvision as torchvision_source
from linprobe_extract.pixels.preprocess import Outcome, SkipReason
from linprobe_extract.shards.caches import FingerprintCache, JsonCache
from linprobe_extract.shards.samples import read_samples
from linprobe_extract.shards.tar import fingerprint_shard
from linprobe_extract.shards.types import Labelling, Member, Shard

OPTIONS = PackOptions(jobs=1)
KEYED = Labelling("json:y", ("cat", "dog"))


class _Runs:
    """What unpickling it would do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("RUN",)


@pytest.mark.parametrize("path", ["fast", "exact"])
def test_postscript_is_no_image(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands it to a program, whatever the file is called."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/RUN\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "EPS")

    assert pixels_of(CLIP, buffer.getvalue(), path)[0] == Outcome(SkipReason.NOT_AN_IMAGE)  # type: ignore[arg-type]
    assert image_defect(buffer.getvalue()) == "not an image of a known format"
    assert not (tmp_path / "RUN").exists()


KINDS = ("GIF", "PNG", "TIFF", "WEBP", "BMP", "PPM", "JPEG", "JPEG2000", "AVIF")


@pytest.mark.parametrize("kind", KINDS)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=6),
    cut=st.floats(0, 1) | st.none(),
)
def test_any_mutated_image_is_pixels_or_a_reason(
    kind: str, edits: list[tuple[float, bytes]], cut: float | None
) -> None:
    data = bytearray(encode(picture(40, 30), kind))
    for place, piece in edits:
        start = int(place * (len(data) - 1))
        data[start : start + len(piece)] = piece
    image = bytes(data if cut is None else data[: int(cut * len(data))])

    for path in ("fast", "exact"):
        assert isinstance(pixels_of(CLIP, image, path)[0], Outcome)
    assert image_defect(image) != ""


LABELS = {
    "deep": b"[" * 100_000,
    "deep fields": b'{"y":' * 100_000,
    "a field twice": b'{"y": 0, "y": 1}',
    "NaN": b'{"y": NaN}',
    "infinite": b'{"y": 1e999}',
    "a fraction": b'{"y": 1.0}',
    "a number of 5,000 digits": b'{"y": ' + b"9" * 5000 + b"}",
    "no object": b"[1]",
    "no JSON": b"{",
    "not UTF-8": b'{"y": "\xff"}',
    "nothing": b"",
    "a list of lists": b'{"y": [[0]]}',
    "a million names": b'{"y": ["' + b'","'.join([b"cow"] * 200_000) + b'"]}',
}


@pytest.mark.parametrize("name", LABELS)
def test_a_label_that_cannot_be_meant_is_refused_in_few_words(name: str) -> None:
    members = [Member("k", "jpg", b"x"), Member("k", "json", LABELS[name])]

    with pytest.raises(ShardError, match=r"label of sample 'k' in 'a\.tar'") as caught:
        list(read_samples("a.tar", members, KEYED))

    assert len(caught.value.message) < 300


@pytest.mark.parametrize("text", [b"1_0", b"+1", b"\xd9\xa1", b"1\0", b"0x1", b" " * 1000 + b"1"])
def test_a_cls_is_digits(text: bytes) -> None:
    members = [Member("k", "jpg", b"x"), Member("k", "cls", text)]

    with pytest.raises(ShardError, match="label of sample 'k'"):
        list(read_samples("a.tar", members, Labelling("cls", None)))


@given(text=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_label_is_a_class_or_a_refusal(text: bytes) -> None:
    for labelling, kind in ((KEYED, "json"), (Labelling("cls", None), "cls")):
        members = [Member("k", "jpg", b"x"), Member("k", kind, text)]
        try:
            samples = list(read_samples("a.tar", members, labelling))
        except ShardError:
            samples = []
        assert all(s.reason or isinstance(s.label, int | tuple) for s in samples)


def pack_csv(tmp_path: Path, table: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(table)
    pack(f"csv:{tmp_path / 't.csv'}", tmp_path / "out", OPTIONS)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (b"a\0.jpg,cat", "files are not there"),
        (b"x" * 5000 + b".jpg,cat", "files are not there"),
        (b"a.jpg," + b"x" * 200_000, "cannot be read as a table"),
        (b'a.jpg,"cat', "expected at least 2 classes|files are not there"),
    ],
)
def test_a_hostile_table_is_refused(row: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(PackError, match=told):
        pack_csv(tmp_path, b"path,label\n" + row + b"\n")


@given(table=st.binary(max_size=120))
def test_any_table_is_packed_or_refused(
    tmp_path_factory: pytest.TempPathFactory, table: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    with pytest.raises(LinprobeError):
        pack_csv(folder, b"path,label\n" + table)


def test_a_fifo_a_device_and_a_huge_file_are_no_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linprobe_extract.pack.listing.MAX_MEMBER_BYTES", 50_000)
    for kind in ("cat", "dog"):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "pets" / kind / f"{i}.jpg").write_bytes(image_bytes(i))
    os.mkfifo(tmp_path / "pets/cat/fifo.jpg")
    (tmp_path / "pets/cat/zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "pets/dog/huge.jpg").write_bytes(bytes(50_001))

    card = pack(f"imagefolder:{tmp_path}/pets", tmp_path / "out", OPTIONS).card

    reasons = {image.name: image.reason for image in card.unreadable}
    assert reasons == {
        "cat/fifo.jpg": "cannot be read: expected a regular file, found a FIFO",
        "cat/zero.jpg": "cannot be read: expected a regular file, found a device",
        "dog/huge.jpg": "cannot be read: expected at most 50,000 bytes, found 50,001",
    }
    assert list(_read(tmp_path / "pets/cat/fifo.jpg")) == [
        (str(tmp_path / "pets/cat/fifo.jpg"), None)
    ]


def test_a_table_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")

    with pytest.raises(PackError, match="found a FIFO"):
        pack(f"csv:{tmp_path / 't.csv'}", tmp_path / "out", OPTIONS)


def test_a_pickle_under_the_name_of_cifar10_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchvision unpickles only files of the published digests."""
    monkeypatch.chdir(tmp_path)
    folder = Path("root/cifar-10-batches-py")
    folder.mkdir(parents=True)
    kind = torchvision.datasets.CIFAR10
    for name, _ in [*kind.train_list, *kind.test_list, ("batches.meta", "")]:
        (folder / name).write_bytes(pickle.dumps(_Runs()))

    with pytest.raises(PackError, match="corrupted"):
        pack("cifar10", Path("out"), PackOptions(jobs=1, root=Path("root"), download=False))
    assert not Path("RUN").exists()


def test_an_archive_of_a_known_dataset_does_not_leave_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unpacks:
        """As some classes of torchvision do."""

        def __init__(self, root: Path) -> None:
            for name in ("a.tar", "a.zip"):
                torchvision.datasets.utils.extract_archive(str(root / name), str(root / "in/in"))
            with tarfile.open(root / "a.tar") as tar:
                tar.extractall(root / "in/in")

    monkeypatch.setattr(torchvision.datasets, "Unpacks", Unpacks, raising=False)
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.tar").write_bytes(tar_bytes([("../../evil", b"x")]))
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        archive.writestr("../../evil", b"x")

    with pytest.raises(PackError, match="outside"):
        torchvision_source.list_class(
            TorchvisionSource("Unpacks", {"train": {}}), {}, PackOptions(root=root)
        )
    assert not (root / "evil").exists()


def test_a_damaged_file_of_a_known_dataset_is_no_traceback(tmp_path: Path) -> None:
    folder = tmp_path / "root/fer2013"
    folder.mkdir(parents=True)
    (folder / "fer2013.csv").write_bytes(b"emotion,pixels,Usage\n0,1 2,\xff\n")

    with pytest.raises(PackError, match="FER2013"):
        pack("fer2013", tmp_path / "out", PackOptions(jobs=1, root=folder.parent, download=False))


def test_a_row_of_a_stranger_names_no_file_outside_of_its_dataset(tmp_path: Path) -> None:
    """A parquet file may hold a path in place of an image."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("datasets")
    secret = tmp_path / "secret.png"
    secret.write_bytes(image_bytes(9, kind="PNG"))
    folder = tmp_path / "pets"
    folder.mkdir()
    (folder / "own.png").write_bytes(image_bytes(8, kind="PNG"))
    images: list[dict[str, object]] = [{"bytes": image_bytes(i), "path": "x.jpg"} for i in range(6)]
    images += [{"bytes": None, "path": str(path)} for path in (secret, folder / "own.png")]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), "label": [0, 1, 0, 1, 0, 1, 0, 1]})
    metadata = {
        b"huggingface": b'{"info": {"features": {"image": {"_type": "Image"}, "label": '
        b'{"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
    }
    parquet.write_table(table.replace_schema_metadata(metadata), folder / "train.parquet")

    card = pack(f"hf:{folder}", tmp_path / "out", OPTIONS).card

    (unreadable,) = card.unreadable
    assert unreadable.reason == "cannot be read: it names a file outside of the dataset"
    assert unreadable.name.endswith("secret.png")


@pytest.mark.parametrize("kind", ["link", "fifo", "folder link"])
def test_a_cache_in_a_strangers_store_is_not_written_through(kind: str, tmp_path: Path) -> None:
    mine, cache = tmp_path / "mine", tmp_path / "store/.cache"
    mine.mkdir()
    (mine / "shards.jsonl").write_text("mine\n")
    cache.parent.mkdir()
    if kind == "folder link":
        cache.symlink_to(mine)
    else:
        cache.mkdir()
        path = cache / "shards.jsonl"
        os.mkfifo(path) if kind == "fifo" else path.symlink_to(mine / "shards.jsonl")
    (tmp_path / "a.tar").write_bytes(tar_bytes(labelled({"a": 0})))
    shard = Shard(str(tmp_path / "a.tar"))

    if kind == "folder link":
        assert FingerprintCache(tmp_path / "store").fingerprint(shard) == fingerprint_shard(shard)
    else:
        with pytest.raises(StoreError, match=r"shards\.jsonl"):
            FingerprintCache(tmp_path / "store").fingerprint(shard)
    assert (mine / "shards.jsonl").read_text() == "mine\n"


@given(data=st.binary(max_size=200))
def test_any_cache_is_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "cache.jsonl"
    path.write_bytes(b'{"a": "1"}\n' + data + b'\n{"b": "2"}\n')

    assert JsonCache(path, dict[str, str]).get("b") == "2"
