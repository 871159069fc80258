"""An id is a function of the content, and of nothing else."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from linprobe.records import canonical_json
from linprobe_store.format.spec import DatasetSpec, EncoderSpec, ShardFingerprint, SplitSpec, Tap

SPEC = EncoderSpec(
    architecture="open_clip:ViT-B-16",
    config={"width": 768, "layers": 12},
    activation="quick_gelu",
    weights_sha256="0" * 64,
    taps=(Tap("embedding", 512),),
    preprocess=None,
    precision="fp32",
    storage_dtype="float16",
)


def test_encoder_id_does_not_depend_on_the_order_of_config_keys() -> None:
    assert replace(SPEC, config={"layers": 12, "width": 768}).encoder_id == SPEC.encoder_id


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, architecture="open_clip:ViT-B-32"),
        lambda s: replace(s, config={"width": 768, "layers": 11}),
        lambda s: replace(s, activation="gelu"),
        lambda s: replace(s, weights_sha256="1" * 64),
        lambda s: replace(s, taps=(Tap("embedding", 512), Tap("pre_projection", 768))),
        lambda s: replace(s, precision="bf16"),
        lambda s: replace(s, storage_dtype="float32"),
        lambda s: replace(s, key_version=2),
    ],
)
def test_every_field_of_the_encoder_spec_changes_its_id(
    change: Callable[[EncoderSpec], EncoderSpec],
) -> None:
    assert change(SPEC).encoder_id != SPEC.encoder_id


def test_dataset_id_depends_on_shard_order() -> None:
    shards = (ShardFingerprint("a.tar", 1, "a" * 64), ShardFingerprint("b.tar", 1, "b" * 64))
    spec = DatasetSpec((SplitSpec("train", shards),), "cls", ("cat", "dog"))
    turned = DatasetSpec((SplitSpec("train", shards[::-1]),), "cls", ("cat", "dog"))

    assert spec.dataset_id != turned.dataset_id


def test_canonical_json_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))
