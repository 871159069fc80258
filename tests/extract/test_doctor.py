"""The doctor tells what is there, and times the very tower that a run would use."""

from pathlib import Path

import pytest
import torch
from encoder_factories import make_model

from linprobe.errors import LinprobeError
from linprobe_extract import doctor
from linprobe_extract.encoders.encoder import load_encoder, load_untrained
from linprobe_extract.encoders.family import resolve_model


@pytest.mark.parametrize("kind", ["vit-quickgelu", "resnet", "siglip"])
def test_the_timed_tower_has_the_shapes_of_the_loaded_one(tmp_path: Path, kind: str) -> None:
    small = make_model(tmp_path, kind)
    reference = resolve_model(str(small.config), weights=small.weights)
    encoder = load_encoder(reference, device="cpu")

    tower, side = load_untrained(reference, device="cpu")

    with torch.inference_mode():
        features = tower(torch.zeros(2, 3, side, side))
    assert side == encoder.image_size
    assert {name: tap.shape[1] for name, tap in features.items()} == {
        tap.name: tap.dim for tap in encoder.spec.taps
    }


def test_the_rate_is_images_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that moves 0.5 s with each look, 8 images a batch come to 16 images/s or less."""
    ticks = iter(range(1000))
    monkeypatch.setattr("linprobe_extract.doctor.time.perf_counter", lambda: next(ticks) / 2)
    tower = torch.nn.Conv2d(3, 1, 1)
    monkeypatch.setattr(doctor, "load_untrained", lambda *_, **__: (tower, 4))

    found = doctor.diagnose("demo")

    assert 8 <= found.images_per_s <= 16
    assert "images/s for demo" in found.verdict


def test_what_is_missing_is_told_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "load_untrained", lambda *_, **__: (torch.nn.Conv2d(3, 1, 1), 4))
    monkeypatch.setattr(doctor, "_TIMED_SECONDS", 0.01)

    lines = doctor.diagnose("demo").lines()

    assert any(line.startswith("gpu      none") for line in lines)
    assert any(line.startswith("missing  a CUDA GPU: extract on") for line in lines)


def test_an_unknown_model_is_told() -> None:
    with pytest.raises(LinprobeError, match="unknown model"):
        doctor.diagnose("no-such-model")
