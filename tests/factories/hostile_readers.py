"""Every reader of the project beside the oracle of what it may give."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from hostile_bytes import (
    Mutate,
    mutated_bytes,
    mutated_json,
    mutated_npy,
    mutated_npz,
    mutated_text,
    resigned,
)
from hostile_oracles import (
    IsRight,
    as_any_of_numpy_says,
    as_json_says,
    as_lines_say,
    as_numpy_says,
    as_signed_json_says,
    holds,
    same,
    strict_json,
    unchanged,
)
from result_factories import command, probed, some_splits
from store_factories import sealed_split
from tar_factories import image_bytes, labelled, tar_bytes, write_packed

from linprobe.errors import IntegrityError, MismatchError
from linprobe.names import read_class_names
from linprobe.records import plain
from linprobe_extract.shards.caches import JsonCache
from linprobe_extract.shards.card import load_card
from linprobe_extract.shards.samples import read_samples, split_member
from linprobe_extract.shards.tar import read_members
from linprobe_extract.shards.types import Labelling, Member, Shard
from linprobe_store.care.array_files import open_split
from linprobe_store.care.copy import copy_store
from linprobe_store.care.place import Place
from linprobe_store.care.remote_splits import list_splits
from linprobe_store.format.commit import PartCommit, read_commit
from linprobe_store.format.spec import ShardFingerprint
from linprobe_store.format.zarr_v3 import parse_geometry
from linprobe_store.handles.encoder import open_encoder
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.witness import Provenance
from linprobe_train.results.answers import Answers, read_result
from linprobe_train.results.collect import collect
from linprobe_train.results.saved_probe import load_probe
from linprobe_train.tasks.fewshot import FewshotResult
from linprobe_train.tasks.knn import KnnResult
from linprobe_train.tasks.predict import load_array

_Json: TypeAlias = Any


@dataclass(frozen=True)
class Reader:
    """A reader of one file."""

    name: str
    """What it reads, for people."""
    file: Path
    """The file, whose content is replaced."""
    read: Callable[[], object]
    """Reads it through the door that users take."""
    mutate: Mutate
    """Makes hostile bytes of the good ones."""
    is_right: IsRight
    """The oracle."""
    share: float = 1.0
    """Of the inputs: less for a reader that does much."""


def readers(root: Path) -> Iterator[Reader]:
    """All readers, over files made below ``root``."""
    yield from _of_store(root / "store")
    yield from _of_arrays(root)
    yield from _of_shards(root)
    yield from _of_results(root)


def _of_store(root: Path) -> Iterator[Reader]:
    split, _ = sealed_split(root)
    encoder = FeatureStore(root).encoder()
    taps = {tap.name: np.asarray(split.array(tap.name))[:3].copy() for tap in encoder.spec.taps}
    encoder.check_canary(taps)  # type: ignore[arg-type]
    run = Provenance("2026-01-01", "host", "cpu", ("linprobe", "x"), {"numpy": "2"}, 8)
    encoder.record_provenance(run)
    encoder.record_provenance(run)
    (dataset,) = encoder.datasets()
    part = next((encoder.path / "parts").iterdir())
    resign = resigned(mutated_json)

    def names() -> object:
        stored = open_encoder(encoder.path)
        return plain((stored.names, stored.open_dataset(dataset.path).names))

    def opened() -> object:
        stored = FeatureStore(root).encoder().dataset().split("train")
        return {
            "commit": plain(stored.commit),
            "features": np.array(stored.array("embedding")),
            "labels": np.array(stored.labels),
            "keys": list(stored.keys),
            "digests": np.array(stored.image_sha256),
        }

    def as_committed(value: _Json, data: bytes, original: _Json) -> bool:
        """A commit with a digest of its own may say other things, yet never of other rows."""
        rows = {k: v for k, v in value.items() if k != "commit"}
        return holds(value["commit"], strict_json(data)) and same(
            rows, {k: v for k, v in original.items() if k != "commit"}
        )

    def specs() -> object:
        stored = open_encoder(encoder.path)
        return plain((stored.spec, stored.open_dataset(dataset.path).spec))

    def part_commit() -> object:
        return plain(read_commit(PartCommit, part))

    def geometry() -> object:
        return parse_geometry((features / "zarr.json").read_bytes(), "zarr.json")

    def as_zarr_says(value: _Json, data: bytes, _: object) -> bool:
        given = strict_json(data)
        grid = given["chunk_grid"]["configuration"]["chunk_shape"]
        is_shaped = (list(value.shape), value.file_rows) == (given["shape"], grid[0])
        return is_shaped and value.dtype.name == given["data_type"]

    def format_line() -> object:
        return bool(FeatureStore(root).encoders())

    def is_our_line(value: object, data: bytes, original: object) -> bool:
        return value == original and data.decode().split() == ["linprobe-store", "3"]

    def signed_names(value: _Json, data: bytes, _: object) -> bool:
        own = dict(strict_json(data))
        return any(set(item.items()) <= set(own.items()) for item in value)

    features = split.path / "data.zarr/features_embedding"
    yield Reader("FORMAT", root / "FORMAT", format_line, mutated_text, is_our_line)
    yield Reader("encoder.json", encoder.path / "encoder.json", specs, mutated_json, unchanged)
    yield Reader(
        "dataset.json (store)", dataset.path / "dataset.json", specs, mutated_json, unchanged
    )
    for kind, folder in (("encoder", encoder.path), ("dataset", dataset.path)):
        label, file = f"names.json ({kind})", folder / "names.json"
        yield Reader(label, file, names, mutated_json, unchanged)
        yield Reader(f"{label}, signed again", file, names, resign, signed_names)
    yield Reader("COMMIT.json (part)", part / "COMMIT.json", part_commit, mutated_json, unchanged)
    yield Reader(
        "COMMIT.json (part), signed again", part / "COMMIT.json", part_commit, resign, as_json_says
    )
    yield Reader("COMMIT.json (split)", split.path / "COMMIT.json", opened, mutated_json, unchanged)
    yield Reader(
        "COMMIT.json (split), signed again",
        split.path / "COMMIT.json",
        opened,
        resign,
        as_committed,
    )
    yield Reader(
        "zarr.json, unsigned", features / "zarr.json", geometry, mutated_json, as_zarr_says
    )
    for name in (
        "zarr.json",
        "features_embedding/zarr.json",
        "features_embedding/c/0/0",
        "labels/c/0",
        "keys_bytes/c/0",
        "keys_offsets/c/0",
        "image_sha256/c/0/0",
    ):
        for file in (split.path / "data.zarr").glob(name):
            mutate = mutated_json if name.endswith("json") else mutated_bytes
            yield Reader(f"{name} of a split", file, opened, mutate, unchanged)

    canary = next(encoder.path.glob("canary*/canary.npz"))
    yield Reader(
        "canary.npz", canary, lambda: dict(encoder.canary() or {}), mutated_npz, as_numpy_says
    )
    file = encoder.path / "provenance.jsonl"
    yield Reader(
        "provenance.jsonl", file, lambda: plain(encoder.provenance()), mutated_text, as_lines_say
    )

    packed = root.parent / "packed"
    list(copy_store(str(root), str(packed), pack=True))
    (marker,) = packed.rglob("PACKED.json")

    def unpacked() -> object:
        target = root.parent / "unpacked"
        shutil.rmtree(target, ignore_errors=True)
        list(copy_store(str(packed), str(target)))
        stored = FeatureStore(target).encoder().dataset().split("train")
        return {"commit": plain(stored.commit), "features": np.array(stored.array("embedding"))}

    def listed() -> object:
        listing = list_splits(Place(str(packed)), None, None)
        if listing.broken:
            raise IntegrityError(listing.broken[0].reason, hint="")
        (item,) = listing.sound
        return plain(item.marker.commit)

    yield Reader("PACKED.json", marker, listed, mutated_json, unchanged)
    yield Reader("PACKED.json, signed again, unpacked", marker, unpacked, resign, unchanged, 0.1)


def _of_arrays(root: Path) -> Iterator[Reader]:
    x, y = np.arange(8, dtype="f4").reshape(4, 2) + 1, np.arange(4)
    folder = root / "arrays"
    unzipped = folder / "unzipped"
    unzipped.mkdir(parents=True)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    np.savez(
        folder / "a.npz", x=x, y=y, keys=np.array(list("abcd")), classes=np.array(list("abcd"))
    )

    def import_npy() -> object:
        split = open_split(f"train={folder}/x.npy,{folder}/y.npy", unzipped)
        return {"array": np.array(split.features.values)}

    def import_npz() -> object:
        try:
            split = open_split(f"train={folder}/a.npz", unzipped)
            arrays = {
                "x": split.features,
                "y": split.labels,
                "keys": split.keys,
                "classes": split.classes,
            }
            return {name: np.array(a.values) for name, a in arrays.items() if a is not None}
        finally:
            shutil.rmtree(unzipped)
            unzipped.mkdir()

    def predicted_npy() -> object:
        return {"array": np.array(load_array(folder / "x.npy"))}

    def predicted_npz() -> object:
        return np.array(load_array(archive))

    archive = folder / "a.npz"
    yield Reader("import .npy", folder / "x.npy", import_npy, mutated_npy, as_numpy_says)
    yield Reader("import .npz", folder / "a.npz", import_npz, mutated_npz, as_numpy_says)
    yield Reader("predict .npy", folder / "x.npy", predicted_npy, mutated_npy, as_numpy_says)
    yield Reader("predict .npz", archive, predicted_npz, mutated_npz, as_any_of_numpy_says)

    file = folder / "classes.txt"
    file.write_text("cat\ndog\neel\nété\n", encoding="utf-8")

    def as_text_says(value: object, data: bytes, _: object) -> bool:
        lines = data.decode("utf-8-sig").rstrip().split("\n")
        return value == tuple(line.strip() for line in lines)

    read = lambda: read_class_names(file, error=MismatchError)  # noqa: E731
    yield Reader("class names", file, read, mutated_text, as_text_says)


def _of_shards(root: Path) -> Iterator[Reader]:
    folder = root / "shards"
    write_packed(folder, metric="top1")
    card = folder / "dataset.json"
    yield Reader(
        "dataset.json (card)", card, lambda: plain(load_card(folder)), mutated_json, as_json_says
    )

    tar = folder / "train" / "9.tar"
    tar.write_bytes(tar_bytes(labelled({f"a{i}": i for i in range(3)})))

    def members() -> object:
        return [(m.key, m.extension, m.data) for m in read_members(Shard(str(tar)))]

    def as_tarfile_says(value: object, data: bytes, _: object) -> bool:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            files = [(split_member(i.name), archive.extractfile(i)) for i in archive if i.isreg()]
            return value == [(*parts, file.read()) for parts, file in files if parts and file]

    yield Reader("tar", tar, members, mutated_bytes, as_tarfile_says)

    sample = root / "sample.json"
    sample.write_text('{"label": 1, "caption": "a", "more": {"labels": [0, 2]}}')
    labelling = Labelling("json:label", ("cat", "dog", "eel"))
    image = image_bytes(0)

    def labels() -> object:
        files = [Member("a", "jpg", image), Member("a", "json", sample.read_bytes())]
        return [item.label for item in read_samples("x.tar", files, labelling)]

    def as_label_says(value: _Json, data: bytes, _: object) -> bool:
        label = json.loads(data).get("label")
        ids: dict[object, Any] = {"cat": 0, "dog": 1, "eel": 2}
        if isinstance(label, list):
            known: list[Any] = [ids.get(i, i) for i in label]
            return bool(value == [tuple(sorted(set(known)))])
        return bool(value == [-1 if label is None else ids.get(label, label)])

    yield Reader("label of a sample", sample, labels, mutated_json, as_label_says)

    cache = root / "shards.jsonl"
    lines = [{str(i): plain(ShardFingerprint(f"{i}.tar", i, f"{i:064x}"))} for i in range(3)]
    cache.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def cached() -> object:
        return plain(vars(JsonCache(cache, dict[str, ShardFingerprint]))["_known"])

    def as_good_lines_say(value: _Json, data: bytes, _: object) -> bool:
        known: dict[str, object] = {}
        for line in data.splitlines():
            try:
                item = strict_json(line)
                known |= item if all(holds(value.get(k), v) for k, v in item.items()) else {}
            except (ValueError, TypeError, AttributeError, RecursionError):
                continue
        return bool(value.keys() == known.keys())

    yield Reader("shards.jsonl", cache, cached, mutated_text, as_good_lines_say)


def _of_results(root: Path) -> Iterator[Reader]:
    fitted = probed(root / "results", "A", some_splits(60))
    out = root / "results" / "results"
    where: list[str | Path] = ["--store", root / "results" / "features", "--out", out]
    for verb in (["knn"], ["fewshot", "--shots", "1", "--repeats", "2", "--threads", "1"]):
        command(*verb, *where)
    folder = fitted.folder
    resign = resigned(mutated_json)

    def result() -> object:
        value = read_result(folder)
        if value is None:
            raise IntegrityError("no result", hint="")
        return plain(value)

    def probe() -> object:
        saved = load_probe(folder)
        probe = saved.probe
        arrays = {"coef": probe.coef, "intercept": probe.intercept, "fitted": probe.fitted}
        return {"card": plain(saved.card), **arrays}

    def predictions() -> object:
        rows = next(item for item in collect(out, [folder])).predictions()
        return dict(vars(rows))

    yield Reader("result.json", folder / "result.json", result, mutated_json, unchanged)
    yield Reader(
        "result.json, signed again", folder / "result.json", result, resign, as_signed_json_says
    )
    yield Reader("probe.json", folder / "probe.json", probe, mutated_json, unchanged)
    yield Reader("probe.safetensors", folder / "probe.safetensors", probe, mutated_bytes, unchanged)
    yield Reader("predictions.npz", folder / "predictions.npz", predictions, mutated_npz, unchanged)
    for name, kind in (("knn", KnnResult), ("fewshot", FewshotResult)):
        (file,) = out.glob(f"*/{name}.json")
        answers = Answers(out, kind, file.name)

        def read(answers: Any = answers, file: Path = file) -> object:  # noqa: ANN401
            if (value := answers.read(file.parent)) is None:
                raise IntegrityError("no result", hint="")
            return plain(value)

        yield Reader(f"{name}.json", file, read, mutated_json, unchanged)
