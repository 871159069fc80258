"""Tars to labelled samples: in order, whole, or refused by name."""

import bz2
import gzip
import itertools
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tar_factories import image_bytes, labelled, tar_bytes, write_dataset, write_packed

from linprobe.errors import ExtractError, ShardError
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.fetch import Fetcher
from linprobe_extract.shards.locate import plan_dataset
from linprobe_extract.shards.samples import read_samples, split_member
from linprobe_extract.shards.tar import fingerprint_shard, read_members
from linprobe_extract.shards.types import Labelling, Sample, Shard

CLS = Labelling("cls", None)


def shard_of(path: Path, data: bytes) -> Shard:
    path.write_bytes(data)
    return Shard(str(path), None, None)


def samples_of(shard: Shard, labelling: Labelling = CLS) -> Iterator[Sample]:
    return read_samples(shard.url, read_members(shard), labelling)


def test_samples_come_in_tar_order_with_their_labels(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "a.tar", tar_bytes(labelled({"b": 1, "a": 0, "c/d": 7})))

    found = list(samples_of(shard))

    assert [(sample.key, sample.label) for sample in found] == [("b", 1), ("a", 0), ("c/d", 7)]
    assert [sample.image for sample in found] == [image_bytes(seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.jpg", ("a/b", "jpg")),
        ("a.b/c.v2.JPG", ("a.b/c", "v2.jpg")),
        ("x.seg.png", ("x", "seg.png")),
        ("noext", None),
        ("dir/.hidden", None),
        ("dir/._x.cls", None),
        (".DS_Store", None),
        ("README", None),
        ("__info__.json", None),
        ("__shard__/info.json", None),
        ("x.__bad__", None),
    ],
)
def test_the_key_ends_at_the_first_dot_of_the_basename(
    name: str, expected: tuple[str, str] | None
) -> None:
    assert split_member(name) == expected


def test_a_pipe_and_a_gzipped_tar_read_like_the_plain_file(tmp_path: Path) -> None:
    data = tar_bytes(labelled({"a": 0, "b": 1}))
    plain = shard_of(tmp_path / "a.tar", data)
    zipped = shard_of(tmp_path / "a.tar.gz", gzip.compress(data))
    piped = Shard(f"pipe:cat {plain.url}", kind="command")
    fsspec_url = Shard(f"file://{plain.url}", kind="url")

    expected = list(samples_of(plain))

    assert list(samples_of(zipped)) == expected
    assert list(samples_of(piped)) == expected
    assert list(samples_of(fsspec_url)) == expected


def test_a_dataset_on_the_web_is_read_by_its_url(web: tuple[Path, str], tmp_path: Path) -> None:
    """The layout of CLIP_benchmark's wds_* datasets: shards counted by nshards.txt."""
    folder, url = web
    write_dataset(folder, splits={"train": [2, 3], "test": [1]})
    plan = plan_dataset(url, name="pets")
    cache = FingerprintCache(tmp_path)

    assert plan.classes == ("cat", "dog")
    for split in plan.splits:
        for i, shard in enumerate(split.shards):
            local = Shard(str(folder / split.name / f"{i}.tar"), None, None)
            with Fetcher(cache) as files, files.fetched(shard) as (source, fingerprint):
                assert fingerprint == fingerprint_shard(local)
                assert list(read_members(source, fingerprint)) == list(read_members(local))


def test_a_url_without_shards_is_told(web: tuple[Path, str]) -> None:
    _, url = web

    with pytest.raises(ExtractError, match="no shards found under") as caught:
        plan_dataset(url)

    assert "nshards.txt" in caught.value.hint


def test_a_tar_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Also between two members, where tar readers end without an error."""
    data = tar_bytes(labelled({"a": 0, "b": 1, "c": 2}))
    ends = len(data.rstrip(b"\0"))
    cuts = {0, 1, 511, 512, 1536, *range(512, ends, 512)}

    for cut in sorted(cuts):
        with pytest.raises(ShardError, match=r"cut\.tar"):
            list(samples_of(shard_of(tmp_path / "cut.tar", data[:cut])))


def test_a_tar_damaged_in_any_header_is_refused(tmp_path: Path) -> None:
    """Tar readers stop at a bad header as if the archive ended there."""
    data = tar_bytes(labelled({"a": 0, "b": 1, "c": 2}))
    headers = [i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"]
    assert len(headers) == 6

    for header in headers:
        damaged = bytearray(data)
        damaged[header + 150] ^= 1  # inside the header's checksum
        with pytest.raises(ShardError, match=r"damaged\.tar"):
            list(samples_of(shard_of(tmp_path / "damaged.tar", bytes(damaged))))


def test_two_archives_in_one_file_are_refused(tmp_path: Path) -> None:
    first, second = (tar_bytes(labelled({key: 0})) for key in "ab")

    with pytest.raises(ShardError, match="more than one archive"):
        list(samples_of(shard_of(tmp_path / "a.tar", first + second)))


def test_a_tar_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="is empty"):
        list(samples_of(shard_of(tmp_path / "a.tar", tar_bytes([]))))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_is_read_whole_or_refused(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    data = tar_bytes(labelled({"a": 0, "b": 1}))
    packed = pack(data)
    joined = pack(data[:3000]) + pack(data[3000:])

    assert len(list(samples_of(shard_of(tmp_path / "a.tar", packed)))) == 2
    assert len(list(samples_of(shard_of(tmp_path / "a.tar", joined)))) == 2
    for cut in range(1, len(packed), max(1, len(packed) // 50)):
        with pytest.raises(ShardError, match=r"cut\.tar"):
            list(samples_of(shard_of(tmp_path / "cut.tar", packed[:cut])))


def test_a_sample_of_two_images_is_refused(tmp_path: Path) -> None:
    members = [("k.jpg", image_bytes(0)), ("k.depth.png", image_bytes(1)), ("k.cls", b"0")]

    with pytest.raises(ShardError, match=r"'k' of .* has 2 images"):
        list(samples_of(shard_of(tmp_path / "a.tar", tar_bytes(members))))


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    for data in (b"<html>404</html>" * 100, image_bytes(0), bytes(range(256)) * 8):
        with pytest.raises(ShardError, match="not_a_tar"):
            list(samples_of(shard_of(tmp_path / "not_a_tar", data)))


def test_a_missing_shard_and_a_failing_pipe_are_refused(tmp_path: Path) -> None:
    for shard in (
        Shard(str(tmp_path / "absent.tar")),
        Shard("pipe:cat /does/not/exist", kind="command"),
        Shard("nosuch://a/b.tar", kind="url"),
    ):
        with pytest.raises(ShardError, match="cannot read"):
            list(samples_of(shard))


def test_bytes_other_than_the_fingerprint_are_refused(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "a.tar", tar_bytes(labelled({"a": 0})))
    fingerprint = fingerprint_shard(shard)
    assert len(list(read_members(shard, fingerprint))) == 2

    shard_of(tmp_path / "a.tar", tar_bytes(labelled({"a": 1})))

    with pytest.raises(ShardError, match="other content"):
        list(read_members(shard, fingerprint))


def test_keys_whose_files_are_not_adjacent_are_refused(tmp_path: Path) -> None:
    """All images and then all labels: webdataset gives half samples without a word."""
    members = labelled({"a": 0, "b": 1})
    apart = sorted(members, key=lambda member: member[0].endswith("cls"))

    with pytest.raises(ShardError, match="'a' comes twice"):
        list(samples_of(shard_of(tmp_path / "a.tar", tar_bytes(apart))))


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    twice = tar_bytes([*labelled({"a": 0}), *labelled({"a": 0})])

    with pytest.raises(ShardError, match="comes twice"):
        list(samples_of(shard_of(tmp_path / "a.tar", twice)))


def test_samples_without_image_or_label_are_kept_with_their_reason(tmp_path: Path) -> None:
    members = [("a.cls", b"0"), ("b.jpg", image_bytes(0)), *labelled({"c": 1})]

    found = list(samples_of(shard_of(tmp_path / "a.tar", tar_bytes(members))))

    assert [(sample.key, sample.reason) for sample in found] == [
        ("a", "no_image"),
        ("b", "no_label"),
        ("c", None),
    ]


def test_a_shard_without_any_label_is_refused(tmp_path: Path) -> None:
    members = [(f"{key}.jpg", image_bytes(0)) for key in "ab"]

    with pytest.raises(ShardError, match="no sample of") as caught:
        list(samples_of(shard_of(tmp_path / "a.tar", tar_bytes(members))))

    assert "--label-key" in caught.value.hint


@pytest.mark.parametrize("label", [b"cat", b"1.5", b"", b"-1", b"2", b"9" * 30])
def test_a_label_that_is_no_class_id_is_refused_with_its_key(tmp_path: Path, label: bytes) -> None:
    shard = shard_of(tmp_path / "a.tar", tar_bytes([("k.jpg", image_bytes(0)), ("k.cls", label)]))

    with pytest.raises(ShardError, match="label of sample 'k'"):
        list(samples_of(shard, Labelling("cls", ("cat", "dog"))))


def test_labels_come_from_a_json_field_or_the_folder(tmp_path: Path) -> None:
    def member(key: str, **fields: object) -> list[tuple[str, bytes]]:
        return [(f"{key}.jpg", image_bytes(0)), (f"{key}.json", json.dumps(fields).encode())]

    members = [
        *member("cat/1", y=0, name="cat", several=[0, 1]),
        *member("dog/1", y=1, name="dog", several=["dog"]),
        *member("dog/2", y=1, name="dog", several=[]),
    ]
    shard = shard_of(tmp_path / "a.tar", tar_bytes(members))

    def labels(source: str) -> list[object]:
        return [s.label for s in samples_of(shard, Labelling(source, ("cat", "dog")))]

    assert labels("json:y") == labels("json:name") == labels("folder") == [0, 1, 1]
    assert labels("json:several") == [(0, 1), (1,), ()]


@pytest.mark.parametrize(
    ("label", "classes"),
    [([[0, 1], 1], ("cat", "dog")), ([0, 1], None), (True, None), (10**12, None), ({}, None)],
)
def test_json_labels_that_cannot_be_meant_are_refused(
    tmp_path: Path, label: object, classes: tuple[str, ...] | None
) -> None:
    members = [("k.jpg", image_bytes(0)), ("k.json", json.dumps({"y": label}).encode())]
    shard = shard_of(tmp_path / "a.tar", tar_bytes(members))

    with pytest.raises(ShardError, match="label of sample 'k'"):
        list(samples_of(shard, Labelling("json:y", classes)))


def test_shards_are_planned_in_natural_order(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "pets", splits={"train": [1] * 12, "test": [1]})

    plan = plan_dataset(str(folder))

    assert [shard.name for shard in plan.split("train").shards] == [f"{i}.tar" for i in range(12)]
    assert (plan.name, plan.classes, plan.label_source) == ("pets", ("cat", "dog"), "cls")


@pytest.mark.parametrize(
    ("folder", "split"),
    [("training", "train"), ("Train", "train"), ("valid", "val"), ("testing", "test")],
)
def test_a_split_may_be_called_as_pack_takes_it(tmp_path: Path, folder: str, split: str) -> None:
    (tmp_path / folder).mkdir()
    shard = shard_of(tmp_path / folder / "0.tar", tar_bytes(labelled({"a": 0})))

    assert plan_dataset(str(tmp_path)).split(split).shards == (shard,)
    assert plan_dataset(None, shards=(f"{folder}={shard.url}",)).split(split).shards == (shard,)


def test_a_class_named_twice_is_refused(tmp_path: Path) -> None:
    """A label by name would always mean the first of the two."""
    folder = write_dataset(tmp_path / "pets", splits={"train": [1]}, classes=("cat", "dog", "cat"))

    with pytest.raises(ExtractError, match="'cat' occurs 2 times"):
        plan_dataset(str(folder))


def test_flat_files_and_explicit_patterns_give_the_same_plan(tmp_path: Path) -> None:
    for split, index in itertools.product(("train", "test"), range(3)):
        shard_of(tmp_path / f"{split}-{index:05d}.tar", tar_bytes(labelled({"a": 0})))

    flat = plan_dataset(str(tmp_path))
    braces = plan_dataset(
        None,
        shards=(f"train={tmp_path}/train-{{00000..00002}}.tar", f"test={tmp_path}/test-*.tar"),
    )

    assert braces.splits == flat.splits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "/does/not/exist"}, "no folder of shards"),
        ({"data": None}, "no data"),
        ({"data": None, "shards": ("tain=x.tar",)}, "cannot understand --shards 'tain=x.tar'"),
        ({"data": None, "shards": ("train=/no/such/*.tar",)}, "no shards match"),
        ({"data": None, "shards": ("train=/no/such.tar",)}, "no shard at"),
        ({"data": None, "shards": ("train=x{0..3",)}, "cannot expand 'x{0..3'"),
        ({"data": "nosuch://bucket/pets"}, "cannot read 'nosuch://bucket/pets"),
    ],
)
def test_bad_data_arguments_are_told_with_a_hint(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ExtractError, match=message) as caught:
        plan_dataset(**arguments)  # type: ignore[arg-type]

    assert caught.value.hint


def test_files_beside_the_shards_are_no_shards(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "pets", splits={"train": [1, 1], "test": [1]})
    for name in ("0.tar.idx", ".1.tar.aB3x", ".2.tar"):
        (folder / "train" / name).write_bytes(b"")

    assert [s.name for s in plan_dataset(str(folder)).split("train").shards] == ["0.tar", "1.tar"]


def test_unreadable_text_files_are_told(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "pets", splits={"train": [1], "test": [1]})
    for text in ("many", "²", "9" * 5000, "99999999999"):
        (folder / "train" / "nshards.txt").write_text(text)
        with pytest.raises(ExtractError, match=f"'{text[:40]}', expected the number of shards"):
            plan_dataset(str(folder))

    (folder / "train" / "nshards.txt").unlink()
    (folder / "classnames.txt").write_bytes("Chaton\nCaf\xe9\n".encode("latin-1"))
    with pytest.raises(ExtractError, match="expected UTF-8"):
        plan_dataset(str(folder))


def test_a_blank_line_among_class_names_is_refused_and_none_at_the_end_counts(
    tmp_path: Path,
) -> None:
    """Left out, it would shift the label of every name after it."""
    folder = write_dataset(tmp_path / "pets", splits={"train": [1], "test": [1]})
    (folder / "classnames.txt").write_text("cat\r\ndog\r\n\r\n", newline="")
    assert plan_dataset(str(folder)).classes == ("cat", "dog")

    (folder / "classnames.txt").write_text("cat\n\ndog\n")
    with pytest.raises(ExtractError, match=r"class name 2 of .* is blank"):
        plan_dataset(str(folder))


def test_a_byte_order_mark_is_no_part_of_a_class_name(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "pets", splits={"train": [1], "test": [1]})
    (folder / "classnames.txt").write_text("cat\ndog\n", encoding="utf-8-sig")

    assert plan_dataset(str(folder)).classes == ("cat", "dog")


def test_a_damaged_cache_is_no_loss(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "a.tar", tar_bytes(labelled({"a": 0})))
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "shards.jsonl").write_bytes(b"\xff\xfe{")

    cache = FingerprintCache(tmp_path)

    assert cache.fingerprint(shard) == fingerprint_shard(shard)


def test_a_folder_without_shards_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match="no shards found") as caught:
        plan_dataset(str(tmp_path))

    assert "DIR/train/*.tar" in caught.value.hint


def test_a_missing_shard_of_the_stated_number_is_told(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "pets", splits={"train": [1, 1, 1], "test": [1]})
    (folder / "train" / "1.tar").unlink()

    with pytest.raises(ExtractError, match="has 2 shards, expected 3"):
        plan_dataset(str(folder))


def test_a_packed_folder_is_what_its_card_says_or_is_refused(tmp_path: Path) -> None:
    folder = write_packed(tmp_path / "pets", metric="mean_per_class")
    plan = plan_dataset(str(folder), name="animals")
    (shard,) = plan.split("train").shards

    assert (plan.name, plan.metric) == ("animals", "mean_per_class")
    assert (shard.fingerprint, shard.n_samples) == (fingerprint_shard(Shard(shard.url)), 4)

    content = Path(shard.url).read_bytes()
    Path(shard.url).write_bytes(content[:-512])
    with pytest.raises(ExtractError, match=f"has {len(content) - 512} bytes; the dataset's card"):
        plan_dataset(str(folder))

    Path(shard.url).unlink()
    with pytest.raises(ExtractError, match="no shards of the split 'train', which its card lists"):
        plan_dataset(str(folder))


def test_a_split_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    plan = plan_dataset(str(write_dataset(tmp_path / "pets", splits={"train": [1], "test": [1]})))

    with pytest.raises(ExtractError, match="no split 'val'; it has test, train"):
        plan.split("val")


def test_a_fingerprint_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "a.tar", tar_bytes(labelled({"a": 0})))
    cache = tmp_path / ".cache" / "shards.jsonl"
    first = FingerprintCache(tmp_path).fingerprint(shard)
    lines = cache.read_text()

    assert FingerprintCache(tmp_path).fingerprint(shard) == first == fingerprint_shard(shard)
    assert cache.read_text() == lines

    shard_of(tmp_path / "a.tar", tar_bytes(labelled({"a": 0, "b": 1})))

    assert FingerprintCache(tmp_path).fingerprint(shard) == fingerprint_shard(shard) != first


def test_a_cache_line_cut_by_a_crash_is_no_loss(tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "a.tar", tar_bytes(labelled({"a": 0})))
    cache = tmp_path / ".cache" / "shards.jsonl"
    first = FingerprintCache(tmp_path).fingerprint(shard)
    cache.write_text(cache.read_text()[:-20])

    assert FingerprintCache(tmp_path).fingerprint(shard) == first
