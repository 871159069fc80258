"""Packed datasets, encoders, and the words of the extract stage are what they were.

How the files under ``tests/golden`` are written anew: see :mod:`golden_files`. The digest of the
canary's pixels depends on the releases of image libraries and on the processor, so encoders are
compared with another word in its place, and features are not compared at all.
"""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_factories import SmallModel, load_small, make_model, save_weights
from golden_files import (
    GOLDEN,
    Texts,
    check_golden,
    draws,
    file_table,
    json_text,
    output_of,
    without_times,
)

from linprobe import Encoder
from linprobe.records import plain
from linprobe_store.format.spec import EncoderSpec
from linprobe_store.handles.store import FeatureStore

KINDS = ("vit-quickgelu", "resnet", "timm-head")
NO_CANARY = "0" * 64
"""Stands for the digest of the canary's pixels."""
PACKED = {
    "animals": ("imagefolder:animals", "--shard-samples", "4"),
    "no-leaks": ("imagefolder:animals", "--drop-leaks"),
    "cut-by-rule": ("imagefolder:animals/train", "--val-fraction", "0.3", "--seed", "7"),
    "tags": ("csv:animals/tags.csv", "--label-separator", "|", "--name", "Tags"),
}
"""Source and options of each packed dataset."""


@dataclass
class Packing:
    """A folder of packed datasets, and what packing them printed."""

    folder: Path
    printed: Mapping[str, str]


@pytest.fixture(scope="module")
def packing(tmp_path_factory: pytest.TempPathFactory) -> Packing:
    """The committed images, with one time for all files, packed in several ways."""
    folder = tmp_path_factory.mktemp("golden")
    shutil.copytree(GOLDEN / "images", folder, dirs_exist_ok=True)
    for path in folder.rglob("*.*"):
        os.utime(path, ns=(10**18, 10**18))
    printed = {
        name: without_times(output_of(folder, "pack", *words, "--out", name + ".data"))
        for name, words in PACKED.items()
    }
    return Packing(folder, printed)


def capture_card(packing: Packing) -> Texts:
    """The card of each packed dataset, the digests of its files, and what was printed."""
    texts = {}
    for name, printed in packing.printed.items():
        out = packing.folder / f"{name}.data"
        texts[f"{name}/dataset.json"] = (out / "dataset.json").read_text(encoding="utf-8")
        texts[f"{name}/files.txt"] = file_table(out)
        texts[f"{name}/printed.txt"] = printed
    return texts


def capture_extracted(packing: Packing) -> Texts:
    """Ids, keys and labels of the datasets that a run seals, by any encoder."""
    model = dyadic_model(packing.folder, "vit-quickgelu")
    words = ["--model", str(model.config), "--weights", str(model.weights), "--device", "cpu"]
    for name in ("animals", "tags"):
        output_of(packing.folder, "extract", *words, "--data", f"{name}.data")
    texts = {}
    for dataset in FeatureStore(packing.folder / "features").encoder().datasets():
        splits = {name: dataset.split(name) for name in dataset.splits}
        rows = {
            name: {"keys": list(split.keys), "labels": split.labels.tolist()}
            for name, split in splits.items()
        }
        spec = plain(dataset.spec)
        texts[f"{dataset.name}.json"] = json_text(
            {"dataset_id": dataset.dataset_id, "spec": spec, "rows": rows}
        )
    return texts


def capture_encoders(packing: Packing) -> Texts:
    """Specs and ids of small towers, of one with other choices, and of the demo encoder."""
    towers = {kind: dyadic_model(packing.folder, kind) for kind in KINDS}
    specs = {kind: load_small(tower).spec for kind, tower in towers.items()}
    vit = towers["vit-quickgelu"]
    specs["vit-exact-bf16"] = load_small(vit, preprocess="exact", precision="bf16").spec
    specs["vit-float32"] = load_small(vit, storage_dtype="float32").spec
    specs["demo"] = Encoder("demo", device="cpu", precision="fp32").spec
    return {f"{name}.json": spec_text(spec) for name, spec in specs.items()}


def spec_text(spec: EncoderSpec) -> str:
    """A spec without the canary's digest, and its id then."""
    assert spec.preprocess is not None
    fixed = replace(spec, preprocess=replace(spec.preprocess, canary=NO_CANARY))
    return json_text({"encoder_id": fixed.encoder_id, "spec": plain(fixed)})


def dyadic_model(folder: Path, kind: str) -> SmallModel:
    """A small model whose weights are whole numbers over 2^15: the same on every machine."""
    model = make_model(folder, kind)
    with torch.no_grad():
        for i, (name, tensor) in enumerate(sorted(model.model.state_dict().items())):
            if tensor.is_floating_point():
                values = (draws(i, tensor.numel()) - 2048) / np.float32(2**15)
                values = np.abs(values) + 1 if name.endswith("running_var") else values
                tensor.copy_(torch.from_numpy(values.astype(np.float32)).reshape(tensor.shape))
    save_weights(model.model, model.weights)
    return model


def capture_datasets(packing: Packing) -> Texts:
    """The table of known datasets."""
    return {
        "datasets.txt": output_of(packing.folder, "datasets"),
        "datasets.json": output_of(packing.folder, "datasets", "--json"),
    }


@pytest.mark.parametrize(
    "capture",
    [
        capture_card,
        capture_extracted,
        capture_encoders,
        capture_datasets,
    ],
)
def test_nothing_has_changed(capture: Callable[[Packing], Texts], packing: Packing) -> None:
    name = re.sub("^capture_", "", capture.__name__)
    check_golden(name, capture(packing))
