"""Canary features tell when a machine computes something else; provenance is only recorded."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from store_factories import NAMES, encoder_spec, register

from linprobe.errors import IntegrityError, MismatchError
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.witness import Provenance

RUN = Provenance(
    time="2024-05-01T12:00:00+00:00",
    host="box",
    device="cpu",
    argv=("linprobe", "run", "--model", "é"),
    versions={"torch": "2.6.0"},
    batch_size=64,
)
X = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float16)


def test_the_first_machine_stores_its_canary_and_the_next_compares(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    assert encoder.canary() is None

    encoder.check_canary({"embedding": X})
    encoder.check_canary({"embedding": X + np.float16(0.001)})

    stored = FeatureStore(tmp_path).encoder().canary()
    assert stored is not None
    np.testing.assert_array_equal(stored["embedding"], X)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (X + np.float16(0.2), "cosine"),
        (-X, "cosine"),
        (X[::-1].copy(), "cosine"),
        (X[:2], "expected canary features"),
        (X[:, :4], "expected canary features"),
    ],
)
def test_a_machine_that_computes_other_features_is_refused(
    tmp_path: Path, other: np.ndarray[tuple[int, ...], np.dtype[np.float16]], told: str
) -> None:
    encoder = register(tmp_path)
    encoder.check_canary({"embedding": X})

    with pytest.raises(MismatchError, match=told):
        encoder.check_canary({"embedding": other})
    with pytest.raises(MismatchError, match="expected canary"):
        encoder.check_canary({"embedding": X, "pre_projection": X})


def test_bf16_may_differ_more_between_machines(tmp_path: Path) -> None:
    """What two processors make of it differs as much as either from float32."""
    fp32, bf16 = (
        FeatureStore(tmp_path).register_encoder(replace(encoder_spec(), precision=name), NAMES)
        for name in ("fp32", "bf16")
    )
    other = X * (1 + np.linspace(-0.03, 0.03, 5, dtype=np.float16))
    for encoder in (fp32, bf16):
        encoder.check_canary({"embedding": X})

    bf16.check_canary({"embedding": other})
    with pytest.raises(MismatchError, match=r"at least 0\.9999 "):
        fp32.check_canary({"embedding": other})
    with pytest.raises(MismatchError, match=r"at least 0\.999 "):
        bf16.check_canary({"embedding": X + np.float16(0.2)})


@pytest.mark.parametrize(
    ("precision", "most", "within", "beyond"),
    [("fp32", "1%", 1.008, 1.02), ("bf16", "5%", 0.96, 0.93), ("fp16", "5%", 1.04, 10)],
)
def test_a_change_of_scale_is_refused(
    tmp_path: Path,
    precision: Literal["fp32", "bf16", "fp16"],
    most: str,
    within: float,
    beyond: float,
) -> None:
    """Every cosine stays as it is."""
    spec = replace(encoder_spec(), precision=precision)
    encoder = FeatureStore(tmp_path).register_encoder(spec, NAMES)
    x = X.astype(np.float32)
    encoder.check_canary({"embedding": x})

    encoder.check_canary({"embedding": x * np.float32(within)})
    one = x.copy()
    one[1] *= np.float32(beyond)
    with pytest.raises(MismatchError, match=f"image 1, embedding: expected a norm within {most}"):
        encoder.check_canary({"embedding": one})


def test_a_canary_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    encoder.check_canary({"embedding": X})

    with pytest.raises(MismatchError, match="nan"):
        encoder.check_canary({"embedding": np.full_like(X, np.nan)})


def test_a_damaged_canary_is_told(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    encoder.check_canary({"embedding": X})
    path = encoder.path / "canary" / "canary.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)

    with pytest.raises(IntegrityError, match="canary"):
        encoder.canary()


def test_provenance_is_appended_and_never_hashed(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    encoder.record_provenance(RUN)
    encoder.record_provenance(replace(RUN, device="gpu"))

    again = register(tmp_path)

    assert again.encoder_id == encoder_spec().encoder_id
    assert again.provenance() == (RUN, replace(RUN, device="gpu"))


def test_a_line_cut_by_a_crash_is_left_out_and_a_damaged_one_told(tmp_path: Path) -> None:
    encoder = register(tmp_path)
    encoder.record_provenance(RUN)
    path = encoder.path / "provenance.jsonl"
    path.write_bytes(path.read_bytes() + b'{"time": "cut')
    assert encoder.provenance() == (RUN,)
    encoder.record_provenance(RUN)
    assert encoder.provenance() == (RUN, RUN)

    path.write_bytes(b"{damage}\n")
    with pytest.raises(IntegrityError, match=r"provenance\.jsonl:1"):
        encoder.provenance()
