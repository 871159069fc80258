"""The doctor tells what is there, and times the very tower that a run would use."""

import json
from pathlib import Path

import pytest
import torch
from encoder_factories import load_small, make_model

from linprobe.errors import LinprobeError
from linprobe_extract import cli, doctor
from linprobe_extract.encoders.encoder import BATCH_SIZE
from linprobe_extract.encoders.family import EncoderChoice
from linprobe_extract.encoders.loading import UntrainedTower, load_untrained
from linprobe_extract.encoders.precision import PrecisionPlan


@pytest.mark.parametrize("kind", ["vit-quickgelu", "resnet", "siglip"])
def test_the_timed_tower_has_the_shapes_of_the_loaded_one(tmp_path: Path, kind: str) -> None:
    small = make_model(tmp_path, kind)
    encoder = load_small(small)

    tower = load_untrained(EncoderChoice(str(small.config), small.weights, "cpu"))

    with torch.inference_mode():
        features = tower.taps(tower.pixels)
    side = encoder.image_size
    assert tower.pixels.shape == (BATCH_SIZE["cpu"], 3, side, side)
    assert {name: tap.shape[1] for name, tap in features.items()} == {
        tap.name: tap.dim for tap in encoder.spec.taps
    }


def untrained() -> UntrainedTower:
    """One small convolution, for a batch of the usual size."""
    pixels = torch.zeros(BATCH_SIZE["cpu"], 3, 4, 4)
    return UntrainedTower(torch.nn.Conv2d(3, 1, 1), pixels, PrecisionPlan("fp32", "a stand-in"))


def test_the_rate_is_of_batches_as_a_run_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves 0.5 s with each look, 16 images a batch come to 32 images/s or less."""
    ticks = iter(range(1000))
    monkeypatch.setattr("linprobe_extract.doctor.time.perf_counter", lambda: next(ticks) / 2)
    tower = untrained()
    batches = []
    tower.taps.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    monkeypatch.setattr(doctor, "load_untrained", lambda _: tower)

    diagnosis = doctor.diagnose("demo")

    assert set(batches) == {BATCH_SIZE["cpu"]}
    assert 16 <= diagnosis.images_per_s <= 32
    assert "images/s for demo" in diagnosis.verdict


def test_what_is_missing_is_told_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "load_untrained", lambda _: untrained())
    monkeypatch.setattr(doctor, "_TIMED_SECONDS", 0.01)

    cli.doctor("demo")
    lines = capsys.readouterr().out.splitlines()
    cli.doctor("demo", as_json=True)
    parsed = json.loads(capsys.readouterr().out)

    assert any(line.startswith("gpu      none") for line in lines)
    assert any(line.startswith("missing  a CUDA GPU: extract on") for line in lines)
    assert parsed["checks"]["gpu"]["advice"].startswith("a CUDA GPU")
    assert parsed["images_per_s"] > 0


def test_an_unknown_model_is_told() -> None:
    with pytest.raises(LinprobeError, match="unknown model"):
        doctor.diagnose("no-such-model")
