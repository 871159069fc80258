"""Loose images to features: what the train stage finds through the entry point."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from encoder_factories import SmallModel, load_small, make_model
from image_factories import picture, with_orientation
from tar_factories import image_bytes, tar_bytes

from linprobe.errors import ExtractError, MismatchError
from linprobe_extract.encoders import loading
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.images import image_rows
from linprobe_extract.pixels.upright import turned
from linprobe_store.image_encoder import ImageRequest, ImageRows, find_image_features


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallModel:
    """A small vision tower as a checkpoint."""
    return make_model(tmp_path_factory.mktemp("model"), "vit")


@pytest.fixture(scope="module")
def encoder(small: SmallModel) -> Encoder:
    """The tower, loaded."""
    return load_small(small)


def encode(small: SmallModel, encoder: Encoder, *paths: Path) -> ImageRows:
    """All rows of some images, as one."""
    request = ImageRequest(encoder.spec, str(small.config), small.weights, "cpu", paths)
    rows = list(image_rows(request))
    return ImageRows(
        tuple(key for row in rows for key in row.keys),
        {
            tap.name: np.concatenate([row.features[tap.name] for row in rows if row.keys])
            for tap in encoder.spec.taps
        },
        tuple(one for row in rows for one in row.skipped),
    )


def test_files_folders_and_shards_give_the_same_features(
    tmp_path: Path, small: SmallModel, encoder: Encoder
) -> None:
    images = {f"{i:02}": image_bytes(i) for i in range(19)}
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    for key, data in images.items():
        (folder / f"{key}.jpg").write_bytes(data)
    (folder / "notes.txt").write_text("no image")
    members = [(f"{key}.{end}", data) for key, data in images.items() for end in ("jpg", "cls")]
    shard = tmp_path / "0.tar"
    shard.write_bytes(tar_bytes(members))

    from_folder = encode(small, encoder, folder.parent)
    from_shard = encode(small, encoder, shard)
    alone = encode(small, encoder, folder / "03.jpg")

    assert from_folder.keys == tuple(str(folder / f"{key}.jpg") for key in images)
    assert from_shard.keys == tuple(images)
    for tap in encoder.spec.taps:
        assert from_folder.features[tap.name].shape == (19, tap.dim)
        assert from_folder.features[tap.name].dtype == np.float16
        np.testing.assert_array_equal(from_folder.features[tap.name], from_shard.features[tap.name])
        np.testing.assert_allclose(
            alone.features[tap.name][0], from_folder.features[tap.name][3], rtol=0.02, atol=0.01
        )
    assert alone.features["embedding"].shape[0] == 1


def test_what_does_not_decode_is_named_with_its_reason_and_the_rest_goes_on(
    tmp_path: Path, small: SmallModel, encoder: Encoder
) -> None:
    good = image_bytes(1)
    (tmp_path / "a.jpg").write_bytes(good)
    (tmp_path / "b.jpg").write_bytes(b"no image at all")
    (tmp_path / "c.jpg").write_bytes(good[: len(good) // 2])
    (tmp_path / "d.jpg").write_bytes(b"")
    (tmp_path / "e.jpg").write_bytes(good)
    rows = encode(small, encoder, tmp_path)

    assert rows.keys == (str(tmp_path / "a.jpg"), str(tmp_path / "e.jpg"))
    assert [(Path(one.key).name, one.reason) for one in rows.skipped] == [
        ("b.jpg", "not_an_image"),
        ("c.jpg", "corrupt"),
        ("d.jpg", "not_an_image"),
    ]
    np.testing.assert_allclose(
        rows.features["embedding"][0], rows.features["embedding"][1], rtol=1e-2, atol=1e-2
    )


def test_photos_are_turned_where_those_of_the_dataset_were_and_hidden_ones_not_looked_at(
    tmp_path: Path, small: SmallModel, encoder: Encoder
) -> None:
    rotated = with_orientation(picture(60, 40), 6)
    folder, upright = tmp_path / "photos", turned(rotated)
    (folder / ".venv" / "lib").mkdir(parents=True)
    for name in ("a.jpg", "._a.jpg", ".venv/lib/icon.jpg"):
        (folder / name).write_bytes(rotated)
    (tmp_path / "b.jpg").write_bytes(upright or b"")
    request = ImageRequest(encoder.spec, str(small.config), small.weights, "cpu", (folder,))

    (as_stored,) = image_rows(request)
    (as_seen,) = image_rows(replace(request, upright=True))
    (expected,) = image_rows(replace(request, paths=(tmp_path / "b.jpg",)))

    assert as_stored.keys == as_seen.keys == (str(folder / "a.jpg"),)
    assert (as_stored.notes, as_seen.notes) == ({"orientation_ignored": 1}, {})
    np.testing.assert_array_equal(as_seen.features["embedding"], expected.features["embedding"])
    assert not np.array_equal(as_stored.features["embedding"], as_seen.features["embedding"])


def test_another_encoder_is_refused_with_both_ids_and_what_differs(
    tmp_path: Path, small: SmallModel, encoder: Encoder
) -> None:
    (tmp_path / "a.jpg").write_bytes(image_bytes(1))
    other = make_model(tmp_path, "vit", seed=1)
    theirs = load_small(other)
    request = ImageRequest(theirs.spec, "mine", small.weights, "cpu", (tmp_path / "a.jpg",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_encoder", lambda *_, **__: encoder)
        with pytest.raises(MismatchError, match="weights_sha256") as caught:
            next(image_rows(request))

    for spec in (encoder.spec, theirs.spec):
        assert spec.encoder_id[:12] in caught.value.message


def test_a_missing_path_and_a_folder_without_images_come_before_the_encoder(
    tmp_path: Path, encoder: Encoder
) -> None:
    with pytest.raises(ExtractError, match="no image, folder or shard"):
        next(image_rows(ImageRequest(encoder.spec, "none", None, "cpu", (tmp_path / "x",))))
    with pytest.raises(ExtractError, match="no images in"):
        next(image_rows(ImageRequest(encoder.spec, "none", None, "cpu", (tmp_path,))))


def test_imported_features_have_no_encoder_of_images(tmp_path: Path, encoder: Encoder) -> None:
    (tmp_path / "a.jpg").write_bytes(image_bytes(1))
    spec = replace(encoder.spec, preprocess=None)
    with pytest.raises(ExtractError, match="were imported"):
        next(image_rows(ImageRequest(spec, "theirs", None, "cpu", (tmp_path,))))


def test_the_entry_point_leads_here() -> None:
    assert find_image_features() is image_rows


def test_without_torch_the_extra_to_install_is_named() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from linprobe.errors import LinprobeError\n"
        "from linprobe_store.image_encoder import find_image_features\n"
        "try: find_image_features()\n"
        "except LinprobeError as error: print(error.message, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "needs torch" in done.stdout
    assert "linprobe[extract]" in done.stdout
