"""Every field of every JSON file of a store is checked by name, whatever becomes of it."""

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from store_factories import (
    block,
    dataset_of,
    encoder_of,
    encoder_spec,
    fingerprint,
    sealed_split,
    write_part,
)

from linprobe.errors import IntegrityError, MismatchError, StoreError
from linprobe.records import canonical_json, digest_json, parse, plain
from linprobe_store.format.commit import PartCommit, SplitCommit, parse_signed
from linprobe_store.format.names import parse_names, sign_names
from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    EncoderNames,
    EncoderSpec,
    PreprocessSpec,
    SkippedSample,
    parse_spec,
)
from linprobe_store.handles.witness import Provenance

Json = dict[str, Any]
Record = tuple[Json, Callable[[Json], object]]

FREE = ("config", "files", "versions")
"""Objects whose fields have any names."""
PREPROCESS = PreprocessSpec(
    image_size=224,
    mean=(0.48, 0, 0.41),
    std=(0.27, 1, 1e-6),
    interpolation="bicubic",
    resize_mode="shortest",
    fill_color=0,
    crop_pct=1,
    path="fast",
    canary="0" * 64,
)


def spec_reader(kind: type[EncoderSpec] | type[DatasetSpec]) -> Callable[[Json], object]:
    def read(value: Json) -> object:
        data = canonical_json(value)
        digits = hashlib.sha256(data).hexdigest()[:12]
        if kind is EncoderSpec:
            return parse_spec(EncoderSpec, data, "FILE", digits)
        return parse_spec(DatasetSpec, data, "FILE", digits)

    return read


def commit_reader(kind: type[PartCommit] | type[SplitCommit]) -> Callable[[Json], object]:
    """Reader that signs what it is given, so that no digest hides a field."""
    return lambda value: parse_signed(kind, canonical_json(signed(value)), "FILE")


def signed(value: Json) -> Json:
    """A record with the digest of its fields, if it has one."""
    body = {name: field for name, field in value.items() if name != "digest"}
    return {**body, "digest": digest_json(body)} if isinstance(value.get("digest"), str) else value


def reader(kind: type[object]) -> Callable[[Json], object]:
    return lambda value: parse(kind, canonical_json(value), "FILE")


def names_reader(kind: type[EncoderNames] | type[DatasetNames]) -> Callable[[Json], object]:
    """Reader that signs what it is given, so that no digest hides a field."""

    def read(value: Json) -> object:
        data = canonical_json(signed(value))
        if kind is EncoderNames:
            return parse_names(EncoderNames, data, "FILE", str(value.get("id")))
        return parse_names(DatasetNames, data, "FILE", str(value.get("id")))

    return read


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """One of each JSON file of a store, and its reader."""
    split, _ = sealed_split(tmp_path_factory.mktemp("store"), (3, 2))
    encoder = encoder_of(split)
    write_part(encoder, fingerprint(9), block(encoder.spec, 1), skipped=[SkippedSample("x", "cut")])
    (part,) = encoder.path.glob("parts/part-train-00009*/COMMIT.json")
    run = Provenance("2026-01-01T00:00:00+00:00", "a", "cpu", ("linprobe",), {"python": "3"}, 8)

    def read_json(path: Path) -> Json:
        value: Json = json.loads(path.read_bytes())
        return value

    def as_json(value: object) -> Json:
        built: Json = json.loads(canonical_json(plain(value)))
        return built

    return {
        "encoder.json": (
            as_json(replace(encoder.spec, preprocess=PREPROCESS)),
            spec_reader(EncoderSpec),
        ),
        "dataset.json": (as_json(split.dataset_spec), spec_reader(DatasetSpec)),
        "encoder names": (read_json(encoder.path / "names.json"), names_reader(EncoderNames)),
        "dataset names": (read_json(split.path.parent / "names.json"), names_reader(DatasetNames)),
        "part": (read_json(part), commit_reader(PartCommit)),
        "split": (read_json(split.path / "COMMIT.json"), commit_reader(SplitCommit)),
        "provenance": (as_json(run), reader(Provenance)),
    }


KINDS = [
    "encoder.json",
    "dataset.json",
    "encoder names",
    "dataset names",
    "part",
    "split",
    "provenance",
]


def objects(value: Any, name: str = "") -> Iterator[tuple[str, Json]]:  # noqa: ANN401 - any JSON
    """All objects within a JSON value, by the names of the fields that hold them."""
    if isinstance(value, dict):
        yield name, value
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list) and name != "config":
            yield from objects(item, str(key))


def changed(value: Json, change: Callable[[str, Json], Iterator[None]]) -> Iterator[Json]:
    """The value with one change made at a time, undone before the next."""
    work = copy.deepcopy(value)
    for name, holder in list(objects(work)):
        for _ in change(name, holder):
            yield work


def without(name: str, holder: Json) -> Iterator[None]:
    """Each field left out in turn."""
    for field in list(holder) if name not in FREE else []:
        kept = holder.pop(field)
        yield
        holder[field] = kept


def retyped(name: str, holder: Json) -> Iterator[None]:
    """Each field in turn of a type that it never has."""
    for field in list(holder) if name != "config" else []:
        kept = holder[field]
        holder[field] = "text" if isinstance(kept, dict | list) else {"no": "such"}
        yield
        holder[field] = kept


def added(name: str, holder: Json) -> Iterator[None]:
    """Each object in turn with a field that no version has."""
    if name not in FREE:
        holder["unheard_of"] = 1
        yield
        del holder["unheard_of"]


@pytest.mark.parametrize("change", [without, retyped, added])
@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_is_missing_unknown_or_of_another_type_is_refused(
    records: dict[str, Record], kind: str, change: Callable[[str, Json], Iterator[None]]
) -> None:
    value, read = records[kind]
    read(value)

    n_changes = 0
    for wrong in changed(value, change):
        with pytest.raises((IntegrityError, MismatchError), match="FILE"):
            read(wrong)
        n_changes += 1

    assert n_changes >= (len(value) if change is not added else 1)
    read(value)


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/COMMIT.json", "a//b", "./a"])
def test_a_path_that_leaves_its_unit_is_refused(records: dict[str, Record], name: str) -> None:
    for kind in ("part", "split"):
        value, read = copy.deepcopy(records[kind][0]), records[kind][1]
        value["files"][name] = next(iter(value["files"].values()))

        with pytest.raises(IntegrityError, match="bad path"):
            read(value)


def test_numbers_of_a_spec_keep_the_way_they_are_written(records: dict[str, Record]) -> None:
    value, read = records["encoder.json"]
    spec = replace(encoder_spec(), preprocess=PREPROCESS)

    assert '"crop_pct":1,' in canonical_json(value).decode()
    assert read(value) == spec
    assert spec.encoder_id == hashlib.sha256(canonical_json(value)).hexdigest()


def test_a_spec_that_is_not_canonical_is_refused(records: dict[str, Record]) -> None:
    data = json.dumps(records["dataset.json"][0]).encode()

    with pytest.raises(StoreError, match="canonical"):
        parse_spec(DatasetSpec, data, "FILE", hashlib.sha256(data).hexdigest()[:12])


def test_a_name_edited_on_disk_is_refused(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path)
    for name, file, read in (
        ("ViT-T/8", split.path.parents[2] / "names.json", lambda: encoder_of(split)),
        ("Pets", split.path.parent / "names.json", lambda: dataset_of(split)),
    ):
        data = file.read_bytes()
        file.write_bytes(data.replace(name.encode(), name[::-1].encode()))

        with pytest.raises(IntegrityError, match=re.escape(f"{file}: expected digest")):
            read()

        file.write_bytes(data)
        read()


def test_names_of_the_other_kind_are_refused() -> None:
    with pytest.raises(IntegrityError, match="FILE"):
        parse_names(EncoderNames, sign_names(DatasetNames("Pets"), "0" * 64), "FILE", "0" * 64)
    names = sign_names(EncoderNames("ViT-T/8", "vit"), "0" * 64)
    with pytest.raises(IntegrityError, match="FILE"):
        parse_names(DatasetNames, names, "FILE", "0" * 64)


def test_names_of_another_encoder_or_dataset_are_refused(tmp_path: Path) -> None:
    split, _ = sealed_split(tmp_path)
    for file, names, read in (
        (split.path.parents[2] / "names.json", EncoderNames("B", "b"), lambda: encoder_of(split)),
        (split.path.parent / "names.json", DatasetNames("B"), lambda: dataset_of(split)),
    ):
        data = file.read_bytes()
        file.write_bytes(sign_names(names, "ab" * 32))

        with pytest.raises(IntegrityError, match=re.escape(f"{file}: expected the names of")):
            read()

        file.write_bytes(data)
