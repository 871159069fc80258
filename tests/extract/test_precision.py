"""Precision: chosen by facts of a device, cast, kept in the identity, and told."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_factories import SmallModel, load_small, make_model, random_pixels, save_weights
from run_factories import Steps, extract_small
from tar_factories import image_bytes

from linprobe.errors import LinprobeError
from linprobe_extract import doctor
from linprobe_extract.encoders import loading as encoders
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import EncoderChoice
from linprobe_extract.encoders.loading import load_untrained
from linprobe_extract.encoders.precision import (
    DeviceFacts,
    device_facts,
    place_tower,
    plan_precision,
)
from linprobe_extract.images import image_rows
from linprobe_extract.run.report import forecast_text
from linprobe_extract.run.run import Extraction
from linprobe_extract.shards.locate import plan_dataset
from linprobe_store.handles.store import FeatureStore
from linprobe_store.image_encoder import ImageRequest

DEVICES: Mapping[str, tuple[DeviceFacts, tuple[str, ...]]] = {
    "CPU without units": (DeviceFacts("cpu"), ("fp32",)),
    "AVX512-BF16": (DeviceFacts("cpu", bf16_units="AVX512-BF16"), ("bf16", "fp32")),
    "AMX": (DeviceFacts("cpu", bf16_units="AMX"), ("bf16", "fp32")),
    "P100": (DeviceFacts("cuda", capability=(6, 0)), ("fp32",)),
    "V100": (DeviceFacts("cuda", capability=(7, 0)), ("fp16", "fp32")),
    "T4": (DeviceFacts("cuda", capability=(7, 5)), ("fp16", "fp32")),
    "A100": (DeviceFacts("cuda", capability=(8, 0)), ("fp16", "bf16")),
    "H100": (DeviceFacts("cuda", capability=(9, 0)), ("fp16", "bf16")),
}
"""Facts of devices, and what ``auto`` tries on each, in order."""


@pytest.fixture
def huge(tmp_path: Path) -> SmallModel:
    """A tower whose features are finite in float32 alone: 1e6, beyond float16."""
    small = make_model(tmp_path, "vit", seed=2)
    small.model.visual.proj.data *= 1e6
    save_weights(small.model, small.weights)
    return small


def units(monkeypatch: pytest.MonkeyPatch, **flags: bool) -> None:
    """Let torch see a CPU with such flags and no others."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)


@pytest.mark.parametrize("device", DEVICES)
def test_auto_is_a_rule_over_facts(device: str) -> None:
    facts, expected = DEVICES[device]

    plans = plan_precision("auto", facts, "fast")

    assert tuple(plan.precision for plan in plans) == expected
    assert len({plan.reason for plan in plans}) == len(plans)
    assert [plan.precision for plan in plan_precision("auto", facts, "exact")] == ["fp32"]
    for asked in ("fp32", "bf16", "fp16"):
        assert [plan.precision for plan in plan_precision(asked, facts, "fast")] == [asked]


def test_the_units_of_a_cpu_are_those_that_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    units(monkeypatch, amx_bf16=True, avx512_bf16=True)
    assert device_facts(cpu).bf16_units == "AMX"
    units(monkeypatch, amx_bf16=False, avx512_bf16=True)
    assert device_facts(cpu).bf16_units == "AVX512-BF16"
    units(monkeypatch, avx2=True)
    assert device_facts(cpu) == DeviceFacts("cpu")
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in an old torch
    assert device_facts(cpu) == DeviceFacts("cpu")


def test_auto_on_a_cpu_that_multiplies_in_bf16_is_bf16_and_the_same_each_time(
    model: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    units(monkeypatch, amx_bf16=True)
    first, second = (load_small(model, precision="auto") for _ in range(2))
    units(monkeypatch)
    plain = load_small(model, precision="auto")

    assert first.spec.precision == "bf16"
    assert first.spec == second.spec
    assert plain.spec.precision == "fp32"
    assert plain.spec.encoder_id != first.spec.encoder_id


@pytest.mark.parametrize(("device", "fallback"), [("H100", "bf16"), ("T4", "fp32")])
def test_auto_on_a_gpu_is_fp16_where_the_built_in_images_stay_finite(
    huge: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, fallback: str
) -> None:
    monkeypatch.setattr(encoders, "device_facts", lambda _: DEVICES[device][0])
    usual = load_small(make_model(tmp_path, "vit"), precision="auto")
    overflowing = load_small(huge, precision="auto", storage_dtype="float32")

    assert usual.spec.precision == "fp16"
    assert overflowing.spec.precision == fallback
    assert "overflows in fp16" in overflowing.precision_reason
    as_asked = load_small(huge, precision=fallback, storage_dtype="float32")
    pixels = random_pixels(2, 32)
    ours, theirs = (e.encode_pixels(pixels)["embedding"] for e in (overflowing, as_asked))
    assert torch.equal(ours, theirs)  # the weights were not cut to fp16 on the way
    with pytest.raises(LinprobeError, match="infinities or NaN, in fp16"):
        load_small(huge, precision="fp16")


def test_a_tower_that_cannot_compute_in_bf16_is_left_in_fp32_on_a_cpu(
    model: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Encoder, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        if self.spec.precision == "bf16":
            raise RuntimeError('"fft" not implemented for BFloat16')
        return encode(self, pixels)

    encode = Encoder.encode_pixels
    units(monkeypatch, avx512_bf16=True)
    monkeypatch.setattr(Encoder, "encode_pixels", refuse)

    assert load_small(model, precision="auto").spec.precision == "fp32"
    with pytest.raises(LinprobeError, match="does not run in bf16 on a CPU"):
        load_small(model, precision="bf16")


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm-head"])
def test_16_bits_are_those_of_the_layers_not_of_the_norms_and_fp16_is_finer(
    tmp_path: Path, kind: str
) -> None:
    small = make_model(tmp_path, kind)
    encoder = load_small(small)
    pixels = random_pixels(4, encoder.image_size)
    expected = encoder.encode_pixels(pixels)["embedding"]
    error = {}
    for precision, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        half = load_small(small, precision=precision)
        features = half.encode_pixels(pixels)["embedding"]
        assert features.dtype == torch.float32
        error[precision] = float((features - expected).norm() / expected.norm())
        modules = list(half._taps.modules())
        norms = (torch.nn.LayerNorm, torch.nn.BatchNorm2d)
        kept = norms if precision == "fp16" else norms[1:]
        of_norms = {m.weight.dtype for m in modules if isinstance(m, kept)}
        layers = (torch.nn.Linear, torch.nn.Conv2d)
        assert of_norms <= {torch.float32}
        assert {m.weight.dtype for m in modules if isinstance(m, layers)} == {dtype}

    assert 0 < 4 * error["fp16"] < error["bf16"] < 0.05


def test_a_norm_in_fp16_takes_what_squares_beyond_float16() -> None:
    norm = torch.nn.LayerNorm(8)
    with torch.no_grad():
        norm.weight.mul_(3)
    tower = torch.nn.Sequential(norm, torch.nn.Linear(8, 3))
    place_tower(tower, torch.device("cpu"), "fp16", "fast")
    rows = 30000 * torch.tensor([[1.0, -1.0] * 4])

    with torch.inference_mode():
        normed = norm(rows.half())

    assert normed.dtype == torch.float16
    torch.testing.assert_close(normed.float(), 3 * rows.sign())


def test_convolutions_lie_channels_last_unless_the_librarys_own_arithmetic_is_asked_for(
    tmp_path: Path,
) -> None:
    small = make_model(tmp_path, "timm-head")
    fast, exact = load_small(small), load_small(small, preprocess="exact")
    layouts = [
        {m.weight.is_contiguous(memory_format=torch.channels_last) for m in e._taps.modules()
         if isinstance(m, torch.nn.Conv2d) and min(m.weight.shape) > 1}
        for e in (fast, exact)
    ]  # fmt: skip
    pixels = random_pixels(3, fast.image_size)
    one, other = (e.encode_pixels(pixels)["embedding"] for e in (fast, exact))

    assert layouts == [{True}, {False}]
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_fp32_rounds_no_operand_to_tf32(model: SmallModel) -> None:
    torch.set_float32_matmul_precision("medium")
    load_small(model)

    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_a_run_says_what_it_computes_in_and_who_computed_otherwise(
    model: SmallModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train on one machine, test on another that shares the store."""
    store, told = tmp_path / "features", (Steps(), Steps(), Steps())
    units(monkeypatch, amx_bf16=True)
    small = (model, data, store)
    extract_small(*small, splits=["train"], watch=told[0], precision="auto")
    (first,) = FeatureStore(store).encoders()
    units(monkeypatch, avx2=True)
    choice = EncoderChoice(str(model.config), model.weights, "cpu")
    forecast = Extraction(choice, plan_dataset(str(data)), store).forecast()
    extract_small(*small, splits=["test"], watch=told[1], precision="auto")
    report = extract_small(*small, splits=["test"], watch=told[2], precision="bf16")

    assert any("bf16: this CPU multiplies in it, by AMX; about" in line for line in told[0].lines)
    assert not any("another encoder" in line for line in told[0].lines)
    assert any("fp32: torch" in line and "images/s" in line for line in told[1].lines)
    beside = [line for line in told[1].lines if "another encoder" in line]
    assert len(beside) == 1
    assert first.path.name in beside[0]
    assert "--precision bf16 goes on with" in beside[0]
    assert (forecast.precision, forecast.other_precisions) == ("fp32", tuple(beside))
    assert beside[0] in forecast_text(forecast)
    assert not any("another encoder" in line for line in told[2].lines)
    assert report.encoder.encoder_id == first.encoder_id


def test_the_doctor_says_the_precision_and_why(
    model: SmallModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    units(monkeypatch, avx512_bf16=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "_TIMED_SECONDS", 0.01)

    choice = EncoderChoice(str(model.config), model.weights, "cpu")
    monkeypatch.setattr(doctor, "load_untrained", lambda _: load_untrained(choice))

    diagnosis = doctor.diagnose(str(model.config))

    states = {check.name: check.state for check in diagnosis.checks}
    assert states["numbers"] == "bf16: this CPU multiplies in it, by AVX512-BF16"
    assert "on the CPU in bf16 at about" in diagnosis.verdict


def test_images_are_encoded_in_the_recorded_precision_whatever_auto_is_here(
    model: SmallModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(image_bytes(1))
    recorded = load_small(model, precision="fp16")
    units(monkeypatch, amx_bf16=True)
    request = ImageRequest(
        recorded.spec, str(model.config), model.weights, "cpu", (tmp_path / "a.jpg",)
    )

    (rows,) = image_rows(request)

    assert np.isfinite(rows.features["embedding"]).all()
