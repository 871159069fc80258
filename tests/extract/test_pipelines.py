"""A person's own webdataset pipelines as the source: keys, labels, identity, refusals."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from encoder_factories import SmallModel
from run_factories import extract_small, sealed_bytes
from tar_factories import image_bytes

from linprobe import FeatureStore
from linprobe.errors import ExtractError, LinprobeError
from linprobe_extract.run.ranks import Ranks
from linprobe_extract.shards.locate import plan_dataset

pytestmark = pytest.mark.filterwarnings(  # a WebDataset leaves its files open
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def shards(tmp_path: Path) -> str:
    for shard in range(2):
        with wds.TarWriter(str(tmp_path / f"pets-{shard}.tar")) as tar:
            for i in range(5):
                key, seed = f"{shard}/{i:04d}", 5 * shard + i
                tar.write({"__key__": key, "jpg": image_bytes(seed), "cls": seed % 2})
    return str(tmp_path / "pets-{0..1}.tar")


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\n")
    return path


def test_a_webdataset_is_extracted_like_its_shards(
    model: SmallModel, shards: str, names: Path, tmp_path: Path
) -> None:
    pipeline = wds.WebDataset(shards, shardshuffle=False)

    own = extract_small(model, pipeline, tmp_path / "own", classes=names)
    plain = extract_small(
        model, None, tmp_path / "plain", shards=[f"train={shards}"], classes=names
    )

    (mine,), (theirs,) = own.sealed, plain.sealed
    assert list(mine.keys) == list(theirs.keys)
    assert mine.labels.tolist() == theirs.labels.tolist()
    rows, expected = (np.asarray(split.array("embedding"), np.float32) for split in (mine, theirs))
    np.testing.assert_allclose(rows, expected, rtol=2e-3, atol=2e-3)  # in other batches
    assert [shard.name for shard in mine.dataset_spec.splits[0].shards] == ["pipeline:train"]


def test_its_identity_is_what_it_gave(
    model: SmallModel, shards: str, names: Path, tmp_path: Path
) -> None:
    """Read again it is the same, and nothing is encoded; other samples are another dataset."""
    store = tmp_path / "store"
    whole = {"train": wds.WebDataset(shards, shardshuffle=False), "test": [sample_of("a")]}
    first = extract_small(model, whole, store, classes=names)
    before = sealed_bytes(store)

    again = extract_small(model, whole, store, classes=names)

    assert first.run is not None
    assert again.run is not None
    assert (first.run.n_images, again.run.n_images - again.run.n_taken) == (11, 0)
    assert sealed_bytes(store) == before
    assert len(again.sealed) == 2

    fewer = wds.WebDataset(shards, shardshuffle=False).select(lambda s: s["__key__"][0] == "0")
    other = extract_small(model, {**whole, "train": fewer}, store, classes=names)
    assert [len(split.keys) for split in other.sealed] == [1, 5]
    assert len(FeatureStore(store).encoder().datasets()) == 2


def sample_of(key: str, **changed: Any) -> dict[str, Any]:  # noqa: ANN401 - of any kind
    return {"__key__": key, "__url__": "x", "jpg": image_bytes(0), "cls": 1, "mp4": b"-"} | changed


def endless() -> Iterator[dict[str, Any]]:
    while True:
        yield sample_of("a")


class Endless:
    def __iter__(self) -> Iterator[dict[str, Any]]:
        return endless()


def decoded() -> object:
    return [sample_of("a", jpg=np.zeros((3, 3), np.uint8))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [(b"x", 1)], "gives tuple without a '__key__'"),
        (lambda: [{"jpg": b"x"}], "gives dict without a '__key__'"),
        (lambda: [sample_of("v1.2")], "'v1.2' is no key"),
        (lambda: [sample_of("a"), sample_of("b"), sample_of("a")], "key 'a' comes twice"),
        (lambda: [sample_of("a", npy=object())], "cannot be kept"),
        (lambda: map(sample_of, "ab"), "cannot be read twice"),
        (decoded, "ndarray, expected bytes"),
        (Endless, "comes twice"),
        (list, "is empty"),
        (lambda: [sample_of("a", jpg=b"x", cls="cat")], "no class id"),
    ],
)
def test_what_is_no_source_of_samples_is_refused(
    make: Callable[[], Any], message: str, model: SmallModel, names: Path, tmp_path: Path
) -> None:
    with pytest.raises(LinprobeError) as caught:
        extract_small(model, {"train": make()}, tmp_path / "store", classes=names)

    said = f"{caught.value.message} {caught.value.hint}"
    assert message in said or message in str(caught.value.__cause__)


def test_a_pipeline_that_breaks_seals_nothing(
    model: SmallModel, names: Path, tmp_path: Path
) -> None:
    class Broken:
        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield sample_of("a")
            raise RuntimeError("the lake has dried up")

    with pytest.raises(ExtractError, match="the lake has dried up"):
        extract_small(model, Broken(), tmp_path / "store", classes=names)

    assert sealed_bytes(tmp_path / "store") == {}


def test_a_pipeline_is_a_split_of_its_own() -> None:
    with pytest.raises(ExtractError, match="'tain' is no split"):
        plan_dataset({"tain": []})
    with pytest.raises(ExtractError, match="'training' is no split of its own"):
        plan_dataset({"train": [], "training": []})


def test_several_processes_do_not_share_a_pipeline(
    model: SmallModel, names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "linprobe_extract.run.run.ranks_from_environment",
        lambda: Ranks(0, 2, 0, 2),
    )

    with pytest.raises(ExtractError, match="pipelines cannot be shared"):
        extract_small(model, [sample_of("a")], tmp_path / "store", classes=names)
