"""Which dataset a run makes: its splits, its labels, its classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from encoder_factories import SmallModel, make_model
from run_factories import extract_small, sealed_bytes, split_of
from tar_factories import image_bytes, labelled, tar_bytes, write_dataset, write_packed

from linprobe.errors import ExtractError
from linprobe_extract.run.report import report_text
from linprobe_store.format.names import sign_names
from linprobe_store.format.spec import DatasetNames
from linprobe_store.handles.store import FeatureStore


def test_another_way_to_read_labels_needs_no_encoder_and_mixes_nothing(
    model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tars under another --label-key: the features stay, the labels are read again."""
    data = write_dataset(tmp_path / "pets", splits={"train": [2], "test": [2]})
    for split in ("train", "test"):
        members = [
            member
            for i in range(4)
            for member in (
                (f"{split}{i}.jpg", image_bytes(i)),
                (f"{split}{i}.cls", b"0"),
                (f"{split}{i}.json", json.dumps({"pet": ["cat", "dog"][i % 2]}).encode()),
            )
        ]
        (data / split / "0.tar").write_bytes(tar_bytes(members))
    store = tmp_path / "features"
    extract_small(model, data, store, keep_parts=True)
    monkeypatch.setattr(
        "linprobe_extract.encoders.loading.load_encoder", lambda *_, **__: pytest.fail("loaded")
    )

    extract_small(model, data, store, label_source="json:pet")

    encoder = FeatureStore(store).encoder()
    by_source = {d.spec.label_source: d.split("train") for d in encoder.datasets()}
    assert by_source["cls"].labels.tolist() == [0, 0, 0, 0]
    assert by_source["json:pet"].labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(
        by_source["cls"].array("embedding"), by_source["json:pet"].array("embedding")
    )


def test_a_split_added_later_makes_a_whole_dataset_again(model: SmallModel, tmp_path: Path) -> None:
    """The dataset's id covers all its splits: what was sealed without the new one is another."""
    data = write_dataset(tmp_path / "pets", splits={"train": [3], "test": [2]})
    (data / "test").rename(tmp_path / "later")
    extract_small(model, data, tmp_path / "f")
    (tmp_path / "later").rename(data / "test")

    extract_small(model, data, tmp_path / "f")

    found = {dataset.splits for dataset in FeatureStore(tmp_path / "f").encoder().datasets()}
    assert found == {("train",), ("test", "train")}


def test_an_edited_architecture_is_not_taken_for_the_one_before(data: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    small = make_model(tmp_path / "model", "vit")
    extract_small(small, data, tmp_path / "f")
    config = json.loads(small.config.read_text())
    small.config.write_text(json.dumps(config | {"quick_gelu": True}))

    extract_small(small, data, tmp_path / "f")

    encoders = FeatureStore(tmp_path / "f").encoders()
    assert {encoder.spec.activation for encoder in encoders} == {"gelu", "quick_gelu"}


def test_unnamed_classes_are_not_counted_in_labels_of_another_kind(
    model: SmallModel, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "pets", splits={"train": [2], "test": [2]})
    (data / "classnames.txt").unlink()
    extract_small(model, data, tmp_path / "f", keep_parts=True)

    with pytest.raises(ExtractError, match="were stored as cls, not as json:y"):
        extract_small(model, data, tmp_path / "f", label_source="json:y")
    with pytest.raises(ExtractError, match="all its splits are needed"):
        extract_small(model, data, tmp_path / "f", splits=("test",))


def test_shards_without_labels_are_an_error_and_nothing_is_sealed(
    model: SmallModel, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "pets", splits={"train": [2], "test": [2]})
    for split in ("train", "test"):
        members = [(f"{split}{i}.jpg", image_bytes(i)) for i in range(3)]
        (data / split / "0.tar").write_bytes(tar_bytes(members))

    with pytest.raises(ExtractError, match=r"no sample of .* has a label") as caught:
        extract_small(model, data, tmp_path / "f")

    assert "--label-key" in caught.value.hint
    assert not sealed_bytes(tmp_path / "f")
    assert not list((tmp_path / "f").glob("enc-*/parts/*"))


def test_classes_without_names_are_counted(model: SmallModel, data: Path, tmp_path: Path) -> None:
    (data / "classnames.txt").unlink()

    extract_small(model, data, tmp_path / "f")

    assert split_of(tmp_path / "f", "train").classes == ("0", "1")


def test_the_cards_metric_goes_into_the_store_and_the_report(
    model: SmallModel, tmp_path: Path
) -> None:
    data = write_packed(tmp_path / "pets", metric="mean_per_class")

    report = extract_small(model, data, tmp_path / "f")

    assert split_of(tmp_path / "f", "train").metric == "mean_per_class"
    assert "metric   mean_per_class" in report_text(report)


def test_a_metric_reaches_splits_that_were_sealed_without_it(
    model: SmallModel, tmp_path: Path
) -> None:
    data = write_packed(tmp_path / "pets", metric="mean_per_class")
    sealed = extract_small(model, data, tmp_path / "f").sealed
    names = sealed[0].path.parent / "names.json"
    names.write_bytes(sign_names(DatasetNames("pets"), sealed[0].dataset_id))

    again = extract_small(model, data, tmp_path / "f")

    assert again.run is None
    assert [split.metric for split in again.sealed] == ["mean_per_class"] * 2
    assert split_of(tmp_path / "f", "train").metric == "mean_per_class"


def test_a_dataset_extracted_again_under_another_name_says_which_name_stays(
    model: SmallModel, data: Path, tmp_path: Path
) -> None:
    extract_small(model, data, tmp_path / "f", name="pets")

    report = extract_small(model, data, tmp_path / "f", name="animals")

    assert report.sealed[0].dataset_name == "pets"
    assert "name     pets" in report_text(report)
    assert "--data pets" in report_text(report)


def test_the_report_counts_what_has_no_row_by_reason(model: SmallModel, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "pets", splits={"train": [3], "test": [2]})
    members = [*labelled({"a": 0, "b": 1}), ("c.jpg", b"<html>"), ("c.cls", b"0")]
    (data / "train" / "0.tar").write_bytes(tar_bytes(members))

    extract_small(model, data, tmp_path / "f", max_skipped=0.5)
    again = extract_small(model, data, tmp_path / "f", max_skipped=0.5)

    assert again.run is None
    assert "train, skipped 1 not_an_image" in report_text(again)
