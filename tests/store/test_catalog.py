"""Encoders are registered once and found by what people call them."""

from dataclasses import replace
from pathlib import Path

import pytest
from store_factories import NAMES, encoder_spec, register, sealed_split

from linprobe.errors import IntegrityError, LinprobeError, MismatchError, NotFoundError, StoreError
from linprobe_store.format.spec import EncoderNames, Tap
from linprobe_store.handles.store import FeatureStore


@pytest.mark.parametrize("taps", [(), (Tap("a", 1), Tap("a", 2)), (Tap("a", 0),), (Tap("A/b", 1),)])
def test_an_encoder_needs_taps_that_can_be_stored(tmp_path: Path, taps: tuple[Tap, ...]) -> None:
    with pytest.raises(MismatchError, match="tap"):
        register(tmp_path, replace(encoder_spec(), taps=taps))

    assert not tmp_path.joinpath("FORMAT").exists()


def test_every_error_has_a_hint(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "none")
    with pytest.raises(LinprobeError) as caught:
        store.split("train")

    assert caught.value.hint
    assert not store.root.exists()


def test_encoders_are_found_by_id_slug_and_model_name(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    a = store.register_encoder(encoder_spec(weights="a"), NAMES)
    b = store.register_encoder(encoder_spec(weights="b"), EncoderNames("RN/50", "rn-50"))

    assert store.encoder(a.encoder_id[:6]) == store.encoder("ViT-T/8") == a
    assert store.encoder("rn-50") == store.encoder(b.encoder_id) == b
    with pytest.raises(StoreError, match="expected one encoder, found 2"):
        store.encoder()
    with pytest.raises(NotFoundError, match="nothing") as caught:
        store.encoder("nothing")
    assert a.short_id in caught.value.hint


def test_an_encoder_that_an_interrupted_run_left_is_not_counted_beside_others(
    tmp_path: Path,
) -> None:
    split, _ = sealed_split(tmp_path)
    left = register(tmp_path, encoder_spec(weights="b"))

    store = FeatureStore(tmp_path)
    assert store.encoder().encoder_id == split.encoder_id
    assert store.encoder(left.encoder_id) == left
    with pytest.raises(StoreError, match="expected one encoder, found 2"):
        FeatureStore(tmp_path).encoder("ViT-T/8")


def test_one_model_name_for_two_encoders_is_ambiguous(tmp_path: Path) -> None:
    a, b = (register(tmp_path, encoder_spec(weights=w)) for w in "ab")

    with pytest.raises(StoreError, match="found 2 called 'ViT-T/8'") as caught:
        FeatureStore(tmp_path).encoder("ViT-T/8")

    assert a.short_id in caught.value.message
    assert b.short_id in caught.value.message


def test_registering_again_keeps_the_folder_and_the_first_names(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    first = store.register_encoder(encoder_spec(), NAMES)

    second = store.register_encoder(encoder_spec(), EncoderNames("other", "other"))

    assert first == second == store.encoder()


@pytest.mark.parametrize("change", [('"000', '"001'), ("quick_gelu", "gelu"), ("fp32", "bf16")])
def test_a_spec_that_was_changed_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    path = register(tmp_path).path / "encoder.json"
    path.write_text(path.read_text().replace(*change))

    with pytest.raises(IntegrityError, match="expected an id that begins with"):
        FeatureStore(tmp_path).encoder()
