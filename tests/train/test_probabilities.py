"""What a result says of its rule and its probabilities, and what a saved probe does with them."""

import json
from pathlib import Path

import numpy as np
import pytest
from train_command import CLASSES, only_folder, probe, some_splits
from train_factories import SplitData, features, stored_dataset

from linprobe.errors import OptionError
from linprobe_train.protocol import search as searching
from linprobe_train.protocol.temperature import Temperature
from linprobe_train.results.answers import read_result
from linprobe_train.results.result import ProbeResult
from linprobe_train.results.saved_probe import load_probe
from linprobe_train.scores.predictions import PREDICTIONS_FILE


def result_of(root: Path) -> ProbeResult:
    """The one result."""
    result = read_result(only_folder(root))
    assert result is not None
    return result


def heated(monkeypatch: pytest.MonkeyPatch, T: float, *, applied: bool = True) -> None:
    """Let the search fit this temperature."""
    fitted = Temperature(T, 12.5, applied, "5 stratified folds of train", 160)
    monkeypatch.setattr(searching, "fit_temperature", lambda *_: fitted)


def test_a_result_records_the_rule_word_for_word(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test"), classes=CLASSES)
    content = json.loads(probe(tmp_path, "--json", "--seed", "3"))["results"][0]

    assert content["question"]["format"] == 3
    assert content["question"]["protocol"]["rule"] == content["sweep"]["rule"] == "nll-band-1"
    held_out = content["held_out"]
    assert (held_out["folds"], held_out["seed"], held_out["never"]) == (5, 3, 0)
    points = content["sweep"]["points"]
    assert len(points) == 11
    assert all(point["likelihood"].keys() == {"nll", "penalty", "in_band"} for point in points)
    assert all(len(point["fits"]) == 5 for point in points)
    chosen = next(point for point in points if point["C"] == content["C"])
    assert chosen["likelihood"]["in_band"]
    temperature = content["temperature"]
    assert temperature["source"] == held_out["source"] == "5 stratified folds of train"
    assert (temperature["rows"], temperature["applied"]) == (160, temperature["gain"] > 3)
    assert [score["name"] for score in content["raw"]] == ["nll", "ece", "confidence_gap"]


def test_searches_asked_for_by_hand_are_another_question_with_the_best_score(
    tmp_path: Path,
) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test"), classes=CLASSES)
    for options, source in (
        (("--metric", "top1"), "a stratified tenth of train"),
        (("--cv", "3"), "3 stratified folds of train"),
        (("--grid", "0.1,1"), "a stratified tenth of train"),
    ):
        result = json.loads(probe(tmp_path, "--json", *options))["results"][0]
        assert result["question"]["protocol"]["name"] == "default-custom"
        assert result["sweep"]["rule"] == "score"
        assert result["held_out"]["source"] == source
        temperature = result["temperature"]
        assert temperature is None if "tenth" in source else temperature["source"] == source
        best = max(point["score"] for point in result["sweep"]["points"])
        ties = [p["C"] for p in result["sweep"]["points"] if p["score"] == best]
        assert result["C"] == min(ties)


def test_C_is_not_chosen_by_calibration(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits("train", "test"), classes=CLASSES)
    with pytest.raises(OptionError, match="says the share of each class"):
        probe(tmp_path, "--metric", "ece")
    assert "ECE" in probe(tmp_path, "--metric", "ece", "--C", "1")


def test_an_applied_temperature_is_in_probabilities_predictions_and_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heated(monkeypatch, 2.0)
    splits = some_splits("train", "test")
    stored_dataset(tmp_path / "features", splits, classes=CLASSES)
    text, folder, result = probe(tmp_path), only_folder(tmp_path), result_of(tmp_path)
    saved = load_probe(folder)
    X = splits["test"].features.astype(np.float16).astype(np.float32)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    z = (unit @ saved.probe.coef.T + saved.probe.intercept) / 2
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)

    assert folder.name.startswith("vit-t-8--toys--default--")
    assert saved.card.temperature == saved.probe.temperature == result.T == 2.0
    assert np.allclose(saved.predict_proba(X), p, atol=1e-5)
    assert np.allclose(saved.to_sklearn().predict_proba(X), p, atol=1e-5)
    with np.load(folder / PREDICTIONS_FILE) as kept:
        assert np.allclose(kept["probability"][:, 0], p.max(axis=1), atol=1e-5)
    nll = -np.log(p[np.arange(160), splits["test"].labels]).mean()
    assert result.score("nll").value == pytest.approx(nll, abs=1e-4)
    assert result.raw[0].value != pytest.approx(nll, abs=1e-3)
    assert "temperature 2.000 (12.5 nats gained on 5 stratified folds of train); without" in text


def test_two_classes_and_independent_ones_have_their_temperature_in_exports_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heated(monkeypatch, 3.0)
    X, y = features(120, 6, 2, noise=2)
    for name, labels in (("two", y), ("tags", np.eye(2, dtype=np.uint8)[y])):
        splits = {"train": SplitData(X[:80], labels[:80]), "test": SplitData(X[80:], labels[80:])}
        root = tmp_path / name
        stored_dataset(root / "features", splits, classes=("no", "yes"))
        probe(root)
        saved = load_probe(only_folder(root))

        assert saved.probe.temperature == 3.0
        assert np.allclose(saved.to_sklearn().predict_proba(X), saved.predict_proba(X), atol=1e-5)


def test_a_temperature_that_is_not_applied_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heated(monkeypatch, 2.0, applied=False)
    stored_dataset(tmp_path / "features", some_splits("train", "test"), classes=CLASSES)
    text, result = probe(tmp_path), result_of(tmp_path)

    assert load_probe(only_folder(tmp_path)).probe.temperature == result.T == 1.0
    assert result.raw == tuple(s for s in result.scores if s in result.raw)
    assert "without it" not in text
    assert "negative log likelihood" in text
    assert "ECE" in text


def test_probabilities_that_cannot_be_used_are_a_warning(tmp_path: Path) -> None:
    X, y = features(800, 10, 4, noise=0.3)
    splits = {"train": SplitData(X[:400], y[:400]), "test": SplitData(X[400:], y[400:])}
    stored_dataset(tmp_path / "features", splits, classes=CLASSES)
    useless = probe(tmp_path, "--C", "0.01")

    assert "the probabilities cannot be used: they are off by" in useless
    assert "--protocol default" in useless
    assert "cannot be used" not in probe(tmp_path)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_an_impossible_temperature_is_refused(tmp_path: Path, temperature: float) -> None:
    fitted = Temperature(temperature, 5.0, True, "val", 10)
    stored_dataset(tmp_path / "features", some_splits("train", "test"), classes=CLASSES)
    probe(tmp_path)
    with pytest.raises(ValueError, match="a temperature of"):
        ProbeResult(**{**vars(result_of(tmp_path)), "temperature": fitted})
