"""Images that an encoder has encoded before are not encoded again: their rows are in the store."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_factories import SmallModel
from pack_factories import write_image
from run_factories import Steps, run_once
from tar_factories import write_dataset

from linprobe import Encoder as PublicEncoder
from linprobe import extract_features
from linprobe.terminal import Progress
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.pixels.canary import canary_pixels
from linprobe_extract.run.report import RunReport, run_text
from linprobe_extract.run.taking import StoredRows, row_ranges
from linprobe_store.handles.split import Split
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.witness import read_provenance

N_IMAGES = 500
Rows = dict[bytes, tuple[bytes, ...]]
"""The row of every tap by the digest of its image."""


class Counting(Encoder):
    """An encoder that counts the images that it is given beside those of the canary."""

    n_images = 0

    def encode_pixels(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        self.n_images += len(pixels)
        return super().encode_pixels(pixels)


def counting(encoder: Encoder) -> Counting:
    made = Counting(encoder.spec, encoder.names, encoder._taps)
    made.n_images = -len(canary_pixels(encoder.preprocess))
    return made


def packed(folder: Path, out: Path, *, shard_samples: int = 100) -> Path:
    pack(f"imagefolder:{folder}", out, PackOptions(shard_samples=shard_samples, jobs=1))
    return out


def write_photos(folder: Path, n: int) -> None:
    for i in range(n):
        write_image(folder / ("cat" if i % 2 else "dog") / f"{i:03}.jpg", i)


def rows_of(split: Split) -> Rows:
    assert split.image_sha256 is not None
    taps = [np.asarray(split.array(tap)) for tap in ("embedding", "pre_projection")]
    rows = zip(*taps, strict=True)
    return {
        digest.tobytes(): tuple(x.tobytes() for x in row)
        for digest, row in zip(split.image_sha256, rows, strict=True)
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "photos"
    write_photos(folder, N_IMAGES)
    return folder


@pytest.fixture(scope="module")
def stored(encoder: Encoder, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all photos."""
    folder = tmp_path_factory.mktemp("stored")
    counted = counting(encoder)
    run_once(counted, packed(photos, folder / "data"), folder / "features", batch_size=64)
    assert counted.n_images == N_IMAGES
    return folder / "features"


def remove_one(photos: Path) -> None:
    (photos / "cat" / "123.jpg").unlink()


def add_one(photos: Path) -> None:
    write_image(photos / "cat" / "124a.jpg", N_IMAGES)


def relabel_one(photos: Path) -> None:
    (photos / "cat" / "123.jpg").rename(photos / "dog" / "123.jpg")


def rename_a_class(photos: Path) -> None:
    (photos / "cat").rename(photos / "kitten")


@pytest.mark.parametrize(
    ("change", "n_encoded"),
    [(remove_one, 0), (add_one, 1), (relabel_one, 0), (rename_a_class, 0)],
)
def test_only_new_images_of_a_folder_that_changed_are_encoded(
    change: Callable[[Path], None],
    n_encoded: int,
    encoder: Encoder,
    photos: Path,
    stored: Path,
    tmp_path: Path,
) -> None:
    before: Rows = {}
    for name in ("train", "test"):
        before |= rows_of(FeatureStore(stored).split(name))
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(stored, tmp_path / "features")
    change(tmp_path / "photos")
    counted = counting(encoder)

    data = packed(tmp_path / "photos", tmp_path / "data")
    report = run_once(counted, data, tmp_path / "features", batch_size=64)

    after: Rows = {}
    for split in report.sealed:
        after |= rows_of(split)
    assert counted.n_images == n_encoded
    assert report.n_taken == report.n_images - n_encoded
    assert {digest: row for digest, row in after.items() if digest in before} == {
        digest: row for digest, row in before.items() if digest in after
    }
    assert len(after.keys() - before.keys()) == n_encoded
    if report.n_images:  # the same tars have the same parts
        assert f"({report.n_taken} images taken from the store)" in run_text(report)
        check_provenance(tmp_path / "features", report)


def check_provenance(store: Path, report: RunReport) -> None:
    """The rows of each part that were taken, and from which sealed split, are on record."""
    encoder = FeatureStore(store).encoder()
    taken = [rows for entry in read_provenance(encoder.path) for rows in entry.taken or ()]
    n_rows = 0
    for rows in taken:
        assert re.fullmatch(r"part-.*-[0-9a-f]{12}", rows.part)
        assert (encoder.path / rows.unit / "COMMIT.json").is_file()
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", rows.rows):
            n_rows += int(last or first) - int(first) + 1
    assert n_rows == report.n_taken


def test_rows_of_shards_that_no_split_holds_are_taken_from_their_parts(
    encoder: Encoder, tmp_path: Path
) -> None:
    """Of a run that sealed nothing before its folder changed."""
    write_photos(tmp_path / "photos", 40)
    data = packed(tmp_path / "photos", tmp_path / "data", shard_samples=8)
    damaged = sorted((data / "train").glob("*.tar"))[-1]
    content = bytearray(damaged.read_bytes())
    content[600] ^= 1
    damaged.write_bytes(content)
    first = run_once(encoder, data, tmp_path / "features")
    assert list(first.failed) == [str(damaged)]
    (tmp_path / "photos" / "cat" / "001.jpg").unlink()
    new, counted = packed(tmp_path / "photos", tmp_path / "new"), counting(encoder)

    report = run_once(counted, new, tmp_path / "features")

    assert report.n_taken in (first.n_images - 1, first.n_images)
    assert report.n_images == report.n_taken + counted.n_images == 39


def test_shards_whose_parts_another_run_removes_meanwhile_are_done_again_from_its_splits(
    encoder: Encoder, tmp_path: Path
) -> None:
    data, store = write_dataset(tmp_path / "a", splits={"train": [5], "test": [3]}), tmp_path / "s"
    more = shutil.copytree(data, tmp_path / "b")
    write_dataset(tmp_path / "other", splits={"val": [4]})
    shutil.copytree(tmp_path / "other" / "val", more / "val")
    extract_features(encoder, data, store, keep_parts=True)
    others = iter([data])

    def removed_by_another(_: Progress) -> None:
        for first in others:
            run_once(encoder, first, store)

    report = run_once(encoder, more, store, watch=removed_by_another)

    assert [split.name for split in report.sealed] == ["test", "train", "val"]
    assert (report.n_shards_missing, report.n_taken) == (0, 12)  # those of val are the same


def test_damaged_rows_are_not_taken_but_encoded_and_told(encoder: Encoder, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 24)
    run_once(encoder, packed(tmp_path / "photos", tmp_path / "data"), tmp_path / "features")
    (file,) = (tmp_path / "features").glob(
        "enc-*/sets/ds-*/train/data.zarr/features_embedding/c/0/0"
    )
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    (tmp_path / "photos" / "cat" / "001.jpg").unlink()
    steps, counted = Steps(), counting(encoder)

    new = packed(tmp_path / "photos", tmp_path / "new")
    report = run_once(counted, new, tmp_path / "features", watch=steps)

    assert counted.n_images > 0
    assert report.n_taken + counted.n_images == 23
    (line,) = (line for line in steps.lines if "no rows are taken" in line)
    assert "train" in line
    assert "features_embedding" in line


def test_another_precision_takes_nothing(model: SmallModel, stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored, tmp_path / "features")
    write_photos(tmp_path / "few", 8)
    load = {"weights": model.weights, "device": "cpu", "precision": "fp32"}
    exact = PublicEncoder(str(model.config), **load, preprocess="exact")  # type: ignore[arg-type]

    counted = counting(exact)
    report = run_once(counted, packed(tmp_path / "few", tmp_path / "data"), tmp_path / "features")

    assert (report.n_taken, counted.n_images) == (0, 8)


def test_digests_that_begin_alike_are_told_apart(encoder: Encoder, stored: Path) -> None:
    split = FeatureStore(stored).split("train")
    assert split.image_sha256 is not None
    rows = StoredRows({"train": split.arrays}, lambda _: None)
    digest = split.image_sha256[7].tobytes()

    found, alike, unknown = rows.find([digest, digest[:8] + bytes(24), bytes(32)])

    assert found is not None
    np.testing.assert_array_equal(found.features["embedding"], split.array("embedding")[7])
    assert (alike, unknown) == (None, None)


def test_rows_are_told_by_their_ranges() -> None:
    assert row_ranges([0, 1, 2, 4, 7, 8]) == "0-2,4,7-8"
