"""The pure parts of packing: pixels to PNG, samples to shards, names to keys, splits by seed."""

import io
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from linprobe.benchmarks import PerClassRule
from linprobe.errors import PackError
from linprobe_extract.pack.listing import PackOptions, SourceSample, check_classes
from linprobe_extract.pack.plan import cut_shards, sample_key, tar_bytes
from linprobe_extract.pack.png import encode_png
from linprobe_extract.pack.shard import image_defect, sniff_extension
from linprobe_extract.pack.splits import choose, split_by_options, split_per_class

SHAPES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)),
)


def source_sample(name: str, label: int = 0, n_bytes: int = 100) -> SourceSample:
    return SourceSample(name, (label,), "png", n_bytes, 0, lambda: b"")


def split_by_shares(
    samples: list[SourceSample], test: float, val: float = 0.0, seed: int = 0
) -> Mapping[str, list[SourceSample]]:
    options = PackOptions(test_fraction=test, val_fraction=val, seed=seed)
    return split_by_options(samples, options)[0]


def samples_of(counts: list[int]) -> list[SourceSample]:
    """So many samples of each class."""
    return [
        source_sample(f"{label}/{index}", label)
        for label, count in enumerate(counts)
        for index in range(count)
    ]


@given(hnp.arrays(np.uint8, SHAPES))
def test_png_decodes_to_the_pixels_it_was_made_from(pixels: NDArray[np.uint8]) -> None:
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels)))), pixels)


def test_png_of_more_than_one_stored_block_decodes_to_its_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (301, 299, 3), dtype=np.uint8)

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels)))), pixels)


@pytest.mark.parametrize("shape", [(4,), (2, 2, 4), (1, 2, 2, 3)])
def test_png_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        encode_png(np.zeros(shape, np.uint8))


@given(
    sizes=st.lists(st.integers(0, 5000), max_size=60),
    max_samples=st.integers(1, 10),
    max_bytes=st.integers(1, 20_000),
)
def test_shards_partition_the_samples_in_order_within_both_limits(
    sizes: list[int], max_samples: int, max_bytes: int
) -> None:
    samples = [source_sample(str(index), n_bytes=size) for index, size in enumerate(sizes)]

    shards = cut_shards(samples, max_samples, max_bytes)

    assert [sample for shard in shards for sample in shard] == samples
    for shard in shards:
        assert 1 <= len(shard) <= max_samples
        total = sum(tar_bytes(sample.n_bytes) for sample in shard)
        assert total <= max_bytes or len(shard) == 1


@given(st.text(min_size=1, max_size=400), st.integers(0, 10**6))
def test_every_name_gives_a_key_that_any_tar_and_webdataset_can_hold(name: str, row: int) -> None:
    key = sample_key("train", row, name)

    assert re.fullmatch(r"[A-Za-z0-9_-]+", key)
    assert len(f"{key}.jpeg") <= 100
    assert key.startswith(f"train-{row:07d}")


def test_a_key_says_class_and_file() -> None:
    assert sample_key("test", 7, "test/água/Foto 1.b.jpg") == "test-0000007-agua_Foto_1_b"


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    test=st.floats(0, 0.6),
    val=st.floats(0, 0.3),
    seed=st.integers(0, 5),
)
def test_fractions_hold_in_every_class_and_lose_nothing(
    counts: list[int], test: float, val: float, seed: int
) -> None:
    samples = samples_of(counts)

    splits = split_by_shares(samples, test, val, seed)

    assert sorted(s.name for part in splits.values() for s in part) == sorted(
        s.name for s in samples
    )
    found = {split: Counter(s.labels[0] for s in part) for split, part in splits.items()}
    for label, count in enumerate(counts):
        assert found["train"][label] >= 1
        n_test = found.get("test", Counter())[label]
        assert abs(n_test - count * test) <= 1


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_listing() -> None:
    samples = samples_of([30, 30])
    names = {s.name for s in split_by_shares(samples, 0.2)["test"]}

    assert {s.name for s in split_by_shares(samples[::-1], 0.2)["test"]} == names
    assert {s.name for s in split_by_shares(samples, 0.2, seed=1)["test"]} != names


def test_shares_that_leave_nothing_for_train_are_refused() -> None:
    with pytest.raises(PackError, match=r"test 0\.7 and val 0\.3"):
        split_by_shares(samples_of([5]), 0.7, 0.3)


def test_a_fixed_number_of_every_class_is_taken_and_the_rest_is_test_or_left() -> None:
    samples = samples_of([10, 7])

    rest, _ = split_per_class(samples, PerClassRule(3, None), 0)
    some, _ = split_per_class(samples, PerClassRule(3, 2), 0)

    assert [len(rest["train"]), len(rest["test"])] == [6, 11]
    assert [len(some["train"]), len(some["test"])] == [6, 4]


def test_a_class_that_is_too_small_for_its_number_is_told() -> None:
    with pytest.raises(PackError, match="at least 4 images, found 3"):
        split_per_class(samples_of([9, 3]), PerClassRule(3, None), 0)


def test_a_choice_keeps_order_and_takes_all_where_there_are_fewer() -> None:
    samples = samples_of([9])

    assert len(choose(samples, 4, 0)) == 4
    assert choose(samples, 4, 0) == [s for s in samples if s in choose(samples, 4, 0)]
    assert choose(samples, 99, 0) == samples


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (("cat",), "found 1: cat"),
        ((), "found 0: none"),
        (("cat", "dog", "cat "), "'cat' occurs 2 times"),
        (("caf\u00e9", "cafe\u0301"), "occurs 2 times"),
        (("cat", "d\nog"), "unprintable"),
        (("cat", "dog\n"), "unprintable"),
        (("\ufeffcat", "dog"), "unprintable"),
        (("cat", " "), "is blank"),
    ],
)
def test_class_names_that_cannot_be_told_apart_or_stored_are_refused(
    classes: tuple[str, ...], told: str
) -> None:
    with pytest.raises(PackError, match=told):
        check_classes(classes)


def full_decode_fails(content: bytes) -> bool:
    """Whether Pillow cannot decode all pixels."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError):
        return True
    return False


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_cut_anywhere_is_judged_as_by_a_full_decode(options: dict[str, int]) -> None:
    """The check decodes at an eighth of the size, and must miss nothing that a full one finds."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    whole = file.getvalue()

    verdicts = {n: image_defect(whole[:n]) is not None for n in range(0, len(whole) + 1, 5)}

    assert image_defect(whole) is None
    assert verdicts == {n: full_decode_fails(whole[:n]) for n in verdicts}


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_other_formats_are_judged_as_by_a_full_decode(kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(file, kind)
    whole = file.getvalue()

    assert image_defect(whole) is None
    cut = whole[: len(whole) // 2]
    assert (image_defect(cut) is not None) == full_decode_fails(cut)


def test_more_pixels_than_pillow_accepts_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file = io.BytesIO()
    Image.new("L", (99, 99)).save(file, "PNG")

    assert image_defect(file.getvalue()) == "more pixels than Pillow accepts"


@pytest.mark.parametrize(
    ("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp")]
)
def test_an_image_without_a_name_gets_the_extension_of_its_format(
    kind: str, extension: str
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3, 3)).save(file, kind)

    assert sniff_extension(file.getvalue()) == extension
