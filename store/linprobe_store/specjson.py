"""The specs as files: canonical JSON whose sha256 is the id, and back."""

from dataclasses import asdict
from typing import Literal, cast

from linprobe_store.canonical import canonical_json
from linprobe_store.checksums import REPAIR
from linprobe_store.errors import IntegrityError
from linprobe_store.jsonread import JsonObject, damaged
from linprobe_store.records import EncoderNames
from linprobe_store.spec import (
    DatasetSpec,
    EncoderSpec,
    PreprocessSpec,
    ShardFingerprint,
    SplitSpec,
    StorageDtype,
    Tap,
)


def encoder_json(spec: EncoderSpec) -> bytes:
    """Bytes of ``encoder.json``; their sha256 is the encoder id."""
    return canonical_json(asdict(spec))


def dataset_json(spec: DatasetSpec) -> bytes:
    """Bytes of ``dataset.json``; their sha256 is the dataset id."""
    return canonical_json(asdict(spec))


def encoder_spec_from(json: JsonObject) -> EncoderSpec:
    """Encoder spec from ``encoder.json``.

    Raises
    ------
    IntegrityError : not an encoder spec of this version.
    """
    preprocess = json.get("preprocess")
    precision = json.one_of("precision", "fp32", "bf16", "unknown")
    return EncoderSpec(
        architecture=json.text("architecture"),
        config=json.object("config").fields,
        activation=json.text("activation"),
        weights_sha256=json.text("weights_sha256"),
        taps=taps_from(json),
        preprocess=None if preprocess is None else _preprocess(json.object("preprocess")),
        precision=cast(Literal["fp32", "bf16", "unknown"], precision),
        storage_dtype=storage_dtype_from(json, "storage_dtype"),
        key_version=json.integer("key_version"),
    )


def encoder_names_from(json: JsonObject) -> EncoderNames:
    """Names of an encoder from ``names.json``."""
    return EncoderNames(json.text("model"), json.text("slug"))


def dataset_spec_from(json: JsonObject) -> DatasetSpec:
    """Dataset spec from ``dataset.json``.

    Raises
    ------
    IntegrityError : not a dataset spec.
    """
    splits = tuple(
        SplitSpec(split.text("name"), tuple(shard_from(shard) for shard in split.objects("shards")))
        for split in json.objects("splits")
    )
    return DatasetSpec(splits, json.text("label_source"), json.texts("classes"))


def check_id(place: str, found: str, folder_digits: str) -> None:
    """Check that a spec's id begins with the digits in the name of its folder.

    Raises
    ------
    IntegrityError : it does not: the spec was changed, or the folder renamed.
    """
    if not found.startswith(folder_digits):
        raise IntegrityError(
            f"{place}: expected an id that begins with {folder_digits}, found {found[:12]}",
            hint=REPAIR,
        )


def taps_from(json: JsonObject) -> tuple[Tap, ...]:
    """Taps of a spec or commit."""
    return tuple(Tap(tap.text("name"), tap.integer("dim")) for tap in json.objects("taps"))


def shard_from(json: JsonObject) -> ShardFingerprint:
    """Fingerprint of a source tar."""
    return ShardFingerprint(json.text("name"), json.integer("bytes"), json.text("sha256"))


def storage_dtype_from(json: JsonObject, name: str) -> StorageDtype:
    """Storage dtype of a spec or commit."""
    return cast(StorageDtype, json.one_of(name, "float16", "float32"))


def _preprocess(json: JsonObject) -> PreprocessSpec:
    return PreprocessSpec(
        image_size=json.integer("image_size"),
        mean=_triple(json, "mean"),
        std=_triple(json, "std"),
        interpolation=json.text("interpolation"),
        resize_mode=json.text("resize_mode"),
        fill_color=json.integer("fill_color"),
        crop_pct=json.number("crop_pct"),
        path=cast(Literal["fast", "exact"], json.one_of("path", "fast", "exact")),
        canary=json.text("canary"),
    )


def _triple(json: JsonObject, name: str) -> tuple[float, float, float]:
    values = tuple(v for v in json.list(name) if isinstance(v, int | float))
    if len(values) != 3:
        raise damaged(f"{json.place}: {name}", "three numbers", json.get(name))
    return values[0], values[1], values[2]
