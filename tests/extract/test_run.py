"""A whole run: shards in, sealed splits out, the same however it is divided."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_factories import SmallModel, make_model
from run_factories import Steps, extract_small, run_once, sealed_bytes
from tar_factories import write_packed

from linprobe import Encoder, extract_features
from linprobe.errors import ExtractError
from linprobe_extract.pixels.preprocess import preprocess
from linprobe_extract.run.ranks import Ranks
from linprobe_extract.shards.locate import plan_dataset
from linprobe_extract.shards.tar import read_members
from linprobe_store.handles.store import FeatureStore


def test_features_are_the_encoders_own_in_tar_order(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    """Image by image, in batches of another size: equal to float16's precision."""
    report = run_once(encoder, data, tmp_path / "features")

    assert (report.n_shards, report.n_images, report.failed) == (4, 19, {})
    assert [split.name for split in report.sealed] == ["test", "train"]
    for split in report.sealed:
        shards = plan_dataset(str(data)).split(split.name).shards
        members = [member for shard in shards for member in read_members(shard)]
        images = [m for m in members if m.extension == "jpg"]
        assert list(split.keys) == [m.key for m in images]
        assert split.labels.tolist() == [
            int(m.data or b"") for m in members if m.extension == "cls"
        ]
        assert split.classes == ("cat", "dog")
        pixels = torch.zeros((len(images), 3, 32, 32), dtype=torch.uint8)
        for slot, image in zip(pixels, images, strict=True):
            preprocess(encoder.preprocess, image.data or b"", slot)
        for tap, expected in encoder.encode_pixels(pixels).items():
            stored = np.asarray(split.array(tap), np.float32)
            np.testing.assert_allclose(stored, expected.numpy(), rtol=2e-3, atol=2e-3)


def test_a_shards_features_do_not_depend_on_threads_or_on_other_shards(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    run_once(encoder, data, tmp_path / "a", threads=1)
    run_once(encoder, data, tmp_path / "b", threads=4)

    assert sealed_bytes(tmp_path / "a") == sealed_bytes(tmp_path / "b")


def test_a_second_run_has_nothing_to_do(encoder: Encoder, data: Path, tmp_path: Path) -> None:
    run_once(encoder, data, tmp_path / "features")
    before = sealed_bytes(tmp_path / "features")

    report = run_once(encoder, data, tmp_path / "features")

    assert (report.n_shards, report.n_images, report.n_shards_missing) == (0, 0, 0)
    assert sealed_bytes(tmp_path / "features") == before


def test_any_number_of_processes_gives_the_same_bytes_and_one_of_them_seals(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    run_once(encoder, data, tmp_path / "one")

    with ThreadPoolExecutor(3) as pool:
        reports = list(
            pool.map(
                lambda rank: run_once(
                    encoder, data, tmp_path / "three", ranks=Ranks(rank, 3, 0, 3)
                ),
                range(3),
            )
        )

    assert sum(report.n_shards for report in reports) == 4
    assert [len(report.sealed) for report in reports] == [2, 2, 2]
    assert sum(report.has_sealed for report in reports) == 1
    assert sealed_bytes(tmp_path / "three") == sealed_bytes(tmp_path / "one")
    assert not list((tmp_path / "three").glob("enc-*/tmp-*"))


def test_another_model_under_the_same_name_is_another_encoder(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = make_model(tmp_path / "other", "vit-quickgelu", seed=1)
    changed = Encoder(str(other.config), weights=other.weights, device="cpu", precision="fp32")
    run_once(encoder, data, tmp_path / "features")

    run_once(changed, data, tmp_path / "features")

    assert len(FeatureStore(tmp_path / "features").encoders()) == 2


def test_a_loaded_encoder_and_its_name_give_the_same_bytes(
    model: SmallModel, encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    loaded = extract_features(encoder, data, tmp_path / "loaded", batch_size=4)
    named = extract_small(model, data, tmp_path / "named")

    assert [split.n for split in loaded.sealed] == [3, 16]
    assert loaded.encoder.encoder_id == named.encoder.encoder_id
    assert sealed_bytes(tmp_path / "loaded") == sealed_bytes(tmp_path / "named")
    assert extract_features(encoder, data, tmp_path / "loaded").run is None


def test_settings_that_a_loaded_encoder_cannot_take_are_refused(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExtractError, match="has its weights"):
        extract_features(encoder, data, tmp_path / "f", precision="bf16")

    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "tpu"}, "device 'tpu'; expected one of auto, cuda, cpu"),
        ({"precision": "fp8"}, "precision 'fp8'; expected one of fp32"),
        ({"storage_dtype": "int8"}, "storage_dtype 'int8'"),
        ({"key_prefix": "foo"}, "a key prefix 'foo'"),
        ({"batch_size": -1}, "batches of -1"),
        ({"max_skipped": 5}, "max_skipped = 5"),
        ({"shards": ["train=x.tar"]}, "both data and shards"),
    ],
)
def test_settings_out_of_range_are_refused_and_nothing_is_written(
    model: SmallModel, data: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExtractError, match=message) as caught:
        extract_small(model, data, tmp_path / "f", **change)

    assert caught.value.hint
    assert not (tmp_path / "f").exists()


def test_a_watch_sees_images_where_their_number_is_known_and_else_shards(
    encoder: Encoder, data: Path, tmp_path: Path
) -> None:
    by_shard, by_image = Steps(), Steps()
    packed = write_packed(tmp_path / "packed", metric="top1")

    run_once(encoder, data, tmp_path / "a", watch=by_shard)
    run_once(encoder, packed, tmp_path / "b", watch=by_image)

    assert (by_shard.seen[-1].done, by_shard.seen[-1].total, by_shard.seen[-1].unit) == (
        4, 4, "shards",
    )  # fmt: skip
    assert (by_image.seen[-1].done, by_image.seen[-1].total, by_image.seen[-1].unit) == (
        6, 6, "images",
    )  # fmt: skip
    assert "images/s, limit: " in by_image.seen[0].detail
