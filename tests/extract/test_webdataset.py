"""webdataset's own writer and reader beside ours: on sound shards the same keys, bytes, labels."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import webdataset as wds
from tar_factories import image_bytes, tar_bytes

from linprobe.errors import ExtractError, ShardError
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.fetch import Fetcher
from linprobe_extract.shards.locate import plan_dataset
from linprobe_extract.shards.samples import is_image, read_samples
from linprobe_extract.shards.tar import read_members
from linprobe_extract.shards.types import Labelling, Sample, Shard

PETS = ("cat", "dog", "eel")


def write_shard(path: Path, samples: Sequence[Mapping[str, object]]) -> Shard:
    with wds.TarWriter(str(path)) as tar:
        for sample in samples:
            tar.write(dict(sample))
    return Shard(str(path))


def ours(shard: Shard, labelling: Labelling) -> list[Sample]:
    return list(read_samples(shard.url, read_members(shard), labelling))


def theirs(shard: Shard) -> list[dict[str, object]]:
    with Path(shard.url).open("rb") as stream:  # which a WebDataset leaves open
        files = wds.tariterators.tar_file_expander([{"url": shard.url, "stream": stream}])
        return list(wds.decode()(wds.tariterators.group_by_keys(files)))


def several(label: object, **more: object) -> list[dict[str, object]]:
    keys = ("s0000000", "class/n01440764_10026", "a.b/c", "./d", "ünïcode")
    return [
        {"__key__": key, "jpg": image_bytes(i), "x.txt": "a caption", **more}
        | ({"cls": label} if isinstance(label, int) else {"npy": label})
        for i, key in enumerate(keys)
    ]


@pytest.mark.parametrize("image", ["jpg", "JPEG", "v2.webp", "0.png", "jfif"])
def test_samples_are_those_of_webdataset(image: str, tmp_path: Path) -> None:
    samples = [
        {"__key__": f"k/{i:07d}", image: image_bytes(i), "cls": i % 3, "json": {"id": i}}
        for i in range(7)
    ]
    shard = write_shard(tmp_path / "a.tar", samples)

    expected = [(s["__key__"], s[image.lower()], s["cls"]) for s in theirs(shard)]

    assert [(s.key, s.image, s.label) for s in ours(shard, Labelling("cls", None))] == expected
    assert len(expected) == 7


def test_keys_and_labels_of_every_kind_are_those_of_webdataset(tmp_path: Path) -> None:
    hot = np.array([1, 0, 1], np.float32)
    shard = write_shard(tmp_path / "a.tar", several(2, json={"y": "dog"}, npy=hot, txt="eel\n"))
    expected = theirs(shard)

    def labels(source: str) -> list[object]:
        samples = ours(shard, Labelling(source, PETS))
        assert [(s.key, s.image) for s in samples] == [(s["__key__"], s["jpg"]) for s in expected]
        return [sample.label for sample in samples]

    assert labels("cls") == [sample["cls"] for sample in expected]
    assert labels("json:y") == [PETS.index(sample["json"]["y"]) for sample in expected]  # type: ignore[index]
    assert labels("txt") == [PETS.index(str(sample["txt"]).strip()) for sample in expected]
    assert labels("npy") == [
        tuple(np.flatnonzero(np.asarray(sample["npy"]))) for sample in expected
    ]


def test_what_webdataset_ignores_is_no_sample(tmp_path: Path) -> None:
    """And what macOS lays beside files, which it takes for labels where it lies in a folder."""
    image = image_bytes(0)
    meta = ("__info__", "__shard__/a.json", ".DS_Store", "README", "._x.cls", "d/._x.cls", "d/b")
    members = [*((name, b"\0\1") for name in meta), ("d/x.jpg", image), ("d/x.cls", b"1")]
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([*members, ("__info__.json", b"{}")]))

    assert ours(Shard(str(path)), Labelling("cls", None)) == [Sample("d/x", image, 1, None)]


def test_a_shard_without_samples_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("README", b"no sample"), ("__info__.json", b"{}")]))

    with pytest.raises(ShardError, match="holds no sample"):
        ours(Shard(str(path)), Labelling("cls", None))


def test_of_two_class_files_the_one_with_the_plain_name_counts(tmp_path: Path) -> None:
    samples = [{"__key__": "k", "jpg": image_bytes(0), "coarse.cls": 1, "cls": 2}]
    plain = write_shard(tmp_path / "a.tar", samples)
    either = write_shard(
        tmp_path / "b.tar", [{"__key__": "k", "jpg": b"x", "coarse.cls": 1, "fine.cls": 2}]
    )

    assert [sample.label for sample in ours(plain, Labelling("cls", None))] == [2]
    with pytest.raises(ShardError, match=r"it may be in coarse\.cls, fine\.cls"):
        ours(either, Labelling("cls", None))


def npy(value: object, dtype: str) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(value, dtype), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["?", "u1", "<i8", ">i4", "<f2", "<f4", "<f8"])
def test_an_array_of_ones_is_a_label_whatever_its_dtype(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("k.jpg", image_bytes(0)), ("k.npy", npy([0, 1, 1], dtype))]))

    assert [s.label for s in ours(Shard(str(path)), Labelling("npy", PETS))] == [(1, 2)]


HUGE = npy([0, 1, 1], "<f4").replace(b"(3,), }" + b" " * 12, b"(9999999999999,), }")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy([0, 1], "<f4"), "shape"),
        (npy([[0, 1, 1]], "<f4"), "shape"),
        (npy([0, 2, 1], "<f4"), "other numbers than 0 and 1"),
        (npy([0, np.nan, 1], "<f4"), "other numbers than 0 and 1"),
        (npy([0, -1, 1], "<i4"), "other numbers than 0 and 1"),
        (npy([0, 1, 1], "<f4")[:-1], "no whole array"),
        (npy([0, 1, 1], "<f4") + b"\0", "no whole array"),
        (npy(["0", "1", "1"], "<U1"), "no whole array of numbers"),
        (npy([{}, 1, 1], "O"), "expected numbers or text"),
        (HUGE, "shape"),
        (b"1", "magic"),
        (b"", "magic"),
    ],
)
def test_an_array_that_is_no_label_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("k.jpg", image_bytes(0)), ("k.npy", data)]))

    with pytest.raises(ShardError, match=f"label of sample 'k' in .*{message}"):
        ours(Shard(str(path)), Labelling("npy", PETS))


def test_what_webdataset_reads_of_a_cut_tar_without_a_word_is_refused(tmp_path: Path) -> None:
    """So the reading of tars is ours: 3,000 samples, cut after 500, are 500 to it."""
    members = [(f"{i:04d}.{kind}", b"0") for i in range(3000) for kind in ("jpg", "cls")]
    shard = Shard(str(tmp_path / "a.tar"))
    Path(shard.url).write_bytes(tar_bytes(members)[: 500 * 2048])

    assert len(theirs(shard)) == 500
    with pytest.raises(ShardError, match="is cut"):
        ours(shard, Labelling("cls", None))


def test_of_two_tars_joined_webdataset_reads_the_first(tmp_path: Path) -> None:
    parts = [tar_bytes([(f"{key}.jpg", b"x"), (f"{key}.cls", b"0")]) for key in "ab"]
    shard = Shard(str(tmp_path / "a.tar"))
    Path(shard.url).write_bytes(parts[0] + parts[1])

    assert [sample["__key__"] for sample in theirs(shard)] == ["a"]
    with pytest.raises(ShardError, match="more than one archive"):
        ours(shard, Labelling("cls", None))


def test_a_scheme_that_a_person_registered_is_opened_by_their_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of their own, and one in the place of fsspec's."""
    shard = write_shard(tmp_path / "a.tar", several(1))
    asked = []

    def opened(url: str, mode: str = "rb", bufsize: int = 8192) -> BinaryIO:
        asked.append((url, mode))
        return Path(shard.url).open("rb")

    for url in ("lake://pets/train-0.tar", "https://lake.example/train-0.tar"):
        monkeypatch.setitem(wds.gopen_schemes, url.partition(":")[0], opened)
        (remote,) = plan_dataset(None, shards=(f"train={url}",)).split("train").shards
        cache = FingerprintCache(tmp_path / "store")
        with Fetcher(cache) as files, files.fetched(remote) as (source, _):
            assert ours(source, Labelling("cls", None)) == ours(shard, Labelling("cls", None))
        assert asked.pop() == (url, "rb")


def test_a_scheme_that_nobody_knows_is_told(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="cannot read 'nosuch://a'"):
        ours(Shard("nosuch://a", kind="url"), Labelling("cls", None))


def test_a_list_of_shards_means_what_it_means_to_webdataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-0", "a-1", "b-0"):
        write_shard(tmp_path / f"{name}.tar", several(1))
    monkeypatch.setenv("WDS_HERE", str(tmp_path))
    text = f"${{HERE}}/a-{{0..1}}.tar::{tmp_path}/b-{{0..0}}.tar::pipe:cat {tmp_path}/{{b}}-0.tar"

    plan = plan_dataset(None, shards=(f"train={text}",))

    urls = [shard.url for shard in plan.split("train").shards]
    assert urls == wds.shardlists.expand_urls(text)
    assert [shard.kind for shard in plan.split("train").shards] == ["file"] * 3 + ["command"]
    with pytest.raises(ExtractError, match="cannot expand"):
        plan_dataset(None, shards=("train=${NOWHERE}/a.tar",))


@pytest.mark.parametrize(
    "chain",
    ["simplecache::s3://bucket/0.tar", "zip://0.tar::file:///x.zip", "tar://0.tar::s3://b/x"],
)
def test_a_chain_of_fsspec_is_one_shard(chain: str) -> None:
    (shard,) = plan_dataset(None, shards=(f"train={chain}",)).split("train").shards

    assert (shard.url, shard.kind) == (chain, "url")


def test_all_kinds_of_images_have_one_list() -> None:
    assert all(map(is_image, ("jpg", "jfif", "v2.jpeg", "jxl", "0.webp")))
    assert not any(map(is_image, ("cls", "json", "jpg.txt", "eps", "")))
