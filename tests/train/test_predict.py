"""Saved probes on new rows, in Python, as scikit-learn estimators, and on the command line."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from result_factories import CLASSES, command, probed, some_splits
from train_factories import SplitData, features, stored_dataset

from linprobe.errors import DataError, LinprobeError, OptionError, ResultError
from linprobe_store.format.spec import SkippedSample
from linprobe_store.handles.store import FeatureStore
from linprobe_store.image_encoder import ImageRequest, ImageRows
from linprobe_train.results.on_images import encoder_of
from linprobe_train.results.saved_probe import load_probe
from linprobe_train.tasks import predict


def where(root: Path) -> list[str | Path]:
    """Store and results of a test."""
    return ["--store", root / "features", "--out", root / "results"]


def two_class_splits() -> dict[str, SplitData]:
    X, y = features(120, 6, 2, noise=2)
    return {"train": SplitData(X[:60], y[:60]), "test": SplitData(X[60:], y[60:])}


def multi_label_splits() -> dict[str, SplitData]:
    X, y = features(160, 6, 3, noise=0.5)
    hot = np.eye(4, dtype=np.uint8)[y]
    hot[:, 1] |= X[:, 0] > 0.5
    return {"train": SplitData(X[:80], hot[:80]), "test": SplitData(X[80:], hot[80:])}


def test_a_loaded_probe_repeats_the_stored_predictions_and_names_its_classes(
    tmp_path: Path,
) -> None:
    one = probed(tmp_path, "one", some_splits())
    saved = load_probe(one.folder)
    split = FeatureStore(tmp_path / "features").split("test")
    p = saved.predict_proba(split)
    kept = one.predictions()

    assert saved.classes == CLASSES
    assert p.shape == (120, len(CLASSES))
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(p.argmax(axis=1), kept.top[:, 0])
    np.testing.assert_allclose(p.max(axis=1), kept.probability[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(saved.predict_proba(split.array("embedding")), p)
    assert saved.predict(split)[5] == CLASSES[kept.top[5, 0]]
    assert load_probe(one.folder / "probe.json").card == saved.card


@pytest.mark.parametrize("kind", ["many", "two", "missing"])
def test_the_scikit_learn_copy_gives_the_same_probabilities(tmp_path: Path, kind: str) -> None:
    splits = two_class_splits() if kind == "two" else some_splits()
    classes = ("no", "yes") if kind == "two" else CLASSES
    if kind == "missing":
        kept = splits["train"].labels != 2
        splits["train"] = SplitData(splits["train"].features[kept], splits["train"].labels[kept])
    saved = load_probe(probed(tmp_path, "one", splits, classes=classes).folder)
    X = splits["test"].features
    copy = saved.to_sklearn()
    fitted = [name for i, name in enumerate(classes) if i in saved.probe.fitted]

    assert copy.classes_.tolist() == fitted
    assert (len(fitted) < len(classes)) == (kind == "missing")
    ours = saved.predict_proba(X)
    np.testing.assert_allclose(
        copy.predict_proba(X), ours[:, saved.probe.fitted], rtol=1e-4, atol=1e-6
    )
    assert (copy.predict(X) == saved.predict(X)).mean() > 0.99
    assert not ours[:, 2].any() if kind == "missing" else True


def test_a_multi_label_copy_predicts_every_class_by_itself(tmp_path: Path) -> None:
    splits = multi_label_splits()
    one = probed(tmp_path, "one", splits, classes=("a", "b", "c", "d"))
    saved = load_probe(one.folder)
    X = splits["test"].features
    p = saved.predict_proba(X)[:, saved.probe.fitted]

    np.testing.assert_allclose(saved.to_sklearn().predict_proba(X), p, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(saved.to_sklearn().predict(X), p > 0.5)


def test_features_of_another_encoder_are_refused_with_both_names(tmp_path: Path) -> None:
    mine = probed(tmp_path, "mine", some_splits())
    other = stored_dataset(tmp_path / "features", some_splits(), classes=CLASSES, model="other")
    split = other.dataset("toys").split("test")

    for words in (("mine", "other"), (mine.result.question.encoder_id[:12], other.short_id)):
        with pytest.raises(DataError, match=f"{words[0]}.*{words[1]}"):
            load_probe(mine.folder).predict_proba(split)
    with pytest.raises(DataError, match=r"mine .*other"):
        command("predict", mine.folder, *where(tmp_path), "--model", "other")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.ones((3, 7), np.float32), "7 features.*10"),
        (np.zeros((3, 10), np.float32), "all zeros"),
        (np.full((3, 10), np.nan, np.float32), "NaN"),
        (np.array([["a"] * 10]), "expected numbers"),
        (np.ones(10), "expected numbers"),
    ],
)
def test_rows_that_cannot_be_classified_are_refused(
    tmp_path: Path, rows: np.ndarray[tuple[int, ...], np.dtype[np.generic]], words: str
) -> None:
    saved = load_probe(probed(tmp_path, "one", some_splits()).folder)
    with pytest.raises(DataError, match=words):
        saved.predict_proba(rows)


@pytest.mark.parametrize("name", ["probe.safetensors", "probe.json"])
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "pickle", "gone"])
def test_a_damaged_probe_is_refused_and_never_executed(
    tmp_path: Path, name: str, damage: str
) -> None:
    import pickle

    folder = probed(tmp_path, "one", some_splits()).folder
    path = folder / name
    whole = path.read_bytes()
    flipped = bytes([whole[0] ^ 0xFF]) + whole[1:]
    contents = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "flipped": flipped,
        "pickle": pickle.dumps(_Explosive()),
    }
    path.unlink() if damage == "gone" else path.write_bytes(contents[damage])

    with pytest.raises(ResultError, match="does not hold a probe"):
        load_probe(folder)


class _Explosive:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a file was executed",))


def test_the_command_gives_the_same_in_every_format(tmp_path: Path) -> None:
    one = probed(tmp_path, "one", some_splits())
    base = ["predict", *where(tmp_path), "--top", "2"]
    table = command(*base).splitlines()
    rows = list(csv.DictReader(command(*base, "--format", "csv").splitlines()))
    lines = [json.loads(line) for line in command(*base, "--format", "jsonl").splitlines()]
    whole = json.loads(command(*base, "--json"))
    best = [CLASSES[i] for i in one.predictions().top[:, 0]]

    assert [line["classes"][0]["class"] for line in lines] == best
    assert [row["class_1"] for row in rows] == best
    assert [row["key"] for row in rows] == [f"test-{i}" for i in range(120)]
    assert whole == {"predictions": lines, "skipped": []}
    assert len(lines[0]["classes"]) == 2
    assert table[0].startswith(f"test-0  {best[0]} ")


def test_arrays_on_disk_are_classified_without_a_store(tmp_path: Path) -> None:
    splits = some_splits()
    one = probed(tmp_path, "one", splits)
    np.save(tmp_path / "x.npy", splits["test"].features.astype(np.float16))
    np.savez(tmp_path / "x.npz", features=splits["test"].features.astype(np.float16))
    base: list[str | Path] = ["predict", one.folder, "--top", "1", "--format", "csv", "--features"]
    texts = [command(*base, tmp_path / name) for name in ("x.npy", "x.npz")]

    assert texts[0] == texts[1]
    found = [line.split(",")[1] for line in texts[0].splitlines()[1:]]
    assert found == [CLASSES[i] for i in one.predictions().top[:, 0]]
    np.savez(tmp_path / "y.npz", features=np.array([object()], dtype=object))
    with pytest.raises(DataError, match=r"y\.npz"):
        command(*base, tmp_path / "y.npz")
    np.save(tmp_path / "z.npy", np.full((3, 10), np.nan, np.float16))
    with pytest.raises(DataError, match=r"z\.npy.*row 0"):
        command(*base, tmp_path / "z.npy")


def test_what_the_command_cannot_do_is_told(tmp_path: Path) -> None:
    probed(tmp_path, "one", some_splits())
    base = ["predict", *where(tmp_path)]
    with pytest.raises(OptionError, match="--top 0"):
        command(*base, "--top", "0")
    with pytest.raises(OptionError, match="contradict"):
        command(*base, "--images", "a.jpg", "--features", "b.npy")
    with pytest.raises(LinprobeError, match="split 'val' is not sealed"):
        command(*base, "--split", "val")
    with pytest.raises(OptionError, match="--images is empty"):
        command(*base, "--images", "")


def fake_images(request: ImageRequest) -> Iterator[ImageRows]:
    """Encode images without looking at them."""
    X = some_splits()["test"].features.astype(np.float16)
    yield ImageRows(("a.jpg", "b.jpg"), {"embedding": X[:2]}, (SkippedSample("c.jpg", "corrupt"),))
    yield ImageRows((), {}, tuple(SkippedSample(str(path), "corrupt") for path in request.paths))


def test_images_that_do_not_decode_are_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = probed(tmp_path, "one", some_splits())
    monkeypatch.setattr(predict, "find_image_features", lambda: fake_images)
    found = json.loads(command("predict", one.folder, "--images", tmp_path / "d.jpg", "--json"))

    assert [row["key"] for row in found["predictions"]] == ["a.jpg", "b.jpg"]
    best = [CLASSES[i] for i in one.predictions().top[:2, 0]]
    assert [row["classes"][0]["class"] for row in found["predictions"]] == best
    assert [row["key"] for row in found["skipped"]] == ["c.jpg", str(tmp_path / "d.jpg")]


def test_images_of_which_none_decodes_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(request: ImageRequest) -> Iterator[ImageRows]:
        yield ImageRows((), {}, (SkippedSample("c.jpg", "corrupt"),))

    one = probed(tmp_path, "one", some_splits())
    monkeypatch.setattr(predict, "find_image_features", lambda: nothing)
    with pytest.raises(DataError, match=r"none of 1 images.*c\.jpg.*corrupt"):
        command("predict", one.folder, "--images", "c.jpg")


def test_the_encoder_travels_with_the_probe_and_must_be_its_own(tmp_path: Path) -> None:
    one = probed(tmp_path, "one", some_splits())
    two = probed(tmp_path, "two", some_splits())
    saved = load_probe(one.folder)

    assert encoder_of(saved, tmp_path / "nowhere").encoder_id == saved.card.encoder_id
    (one.folder / "encoder.json").write_bytes((two.folder / "encoder.json").read_bytes())
    with pytest.raises(ResultError, match=r"encoder\.json: expected"):
        encoder_of(saved, tmp_path / "nowhere")
    (one.folder / "result.json").unlink()  # a probe copied without its result
    with pytest.raises(ResultError, match=saved.card.encoder_id[:12]):
        encoder_of(saved, tmp_path / "nowhere")


def test_names_that_act_are_shown_in_tables_and_guarded_in_csv(tmp_path: Path) -> None:
    """A spreadsheet runs cells that begin with =, +, - or @; a terminal acts on escapes."""
    classes = ("=cmd|' /C calc'!A1", "+1", "-1", "@SUM(A1)", "=1", "-x")
    keys = {name: tuple(f"=k\x1b]0;t\x07\n{i}" for i in range(120)) for name in ("train", "test")}
    probed(tmp_path, "=one", some_splits(), classes=classes, keys=keys)
    predict = ["predict", *where(tmp_path), "--top", "1"]
    compare = ["compare", *where(tmp_path), "--format", "csv"]
    table = command(*predict)
    guarded, plain = (
        list(csv.DictReader(io.StringIO(command(*predict, "--format", "csv", *more), newline="")))
        for more in ([], ["--no-csv-guard"])
    )
    whole = [json.loads(line) for line in command(*predict, "--format", "jsonl").splitlines()]
    (ours,), (theirs,) = (
        list(csv.DictReader(io.StringIO(command(*compare, *more))))
        for more in ([], ["--no-csv-guard"])
    )

    assert "\x1b" not in table
    assert len(table.splitlines()) == 120
    assert table.startswith(r"=k\x1b]0;t\x07\n0  ")
    for row, free, exact in zip(guarded, plain, whole, strict=True):
        assert row["class_1"] == f"'{free['class_1']}"
        assert row["key"] == f"'{free['key']}"
        assert row["probability_1"] == free["probability_1"]
        assert exact["key"].startswith("=k\x1b]0;t\x07\n")
        assert exact["classes"][0]["class"] in classes
    assert (ours["encoder"], theirs["encoder"]) == ("'=one", "=one")
    assert float(ours["difference"]) == float(theirs["difference"])


def test_a_probe_crosses_datasets_that_are_asserted_to_be_of_one_encoder(tmp_path: Path) -> None:
    splits = some_splits()
    for name in ("here", "there"):
        words = ["store", "import", "--encoder-name", "theirs", "--encoder-id", "my-dinov2"]
        for split, data in splits.items():
            file, moved = tmp_path / f"{name}-{split}.npz", data.features + (name == "there") * 0.01
            np.savez(file, x=moved, y=data.labels)
            words += ["--split", f"{split}={file}"]
        command(*words, "--dataset", name, "--store", tmp_path / "features")
    command("probe", *where(tmp_path), "--data", "here", "--C", "1", "--threads", "1")

    rows = command("predict", *where(tmp_path), "--data", "there", "--format", "csv").splitlines()

    assert len(rows) == 1 + len(splits["test"].labels)
    shown = command("store", "show", "--store", tmp_path / "features")
    assert "weights        asserted: my-dinov2" in shown
