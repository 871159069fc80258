"""The store, the results and the words of the train and store stages are what they were.

How the files under ``tests/golden`` are written anew: see :mod:`golden_files`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from golden_files import (
    Texts,
    blanked,
    check_golden,
    draws,
    file_table,
    help_texts,
    json_text,
    made_rows,
    output_of,
    small_json_files,
    visible_lines,
    without_times,
)
from numpy.typing import NDArray
from safetensors import safe_open

from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    EncoderNames,
    EncoderSpec,
    FeatureBlock,
    ShardFingerprint,
    SkippedSample,
    SplitSpec,
    StorageDtype,
    Tap,
)
from linprobe_store.handles.store import FeatureStore
from linprobe_store.handles.witness import Provenance

FLOWERS = ("aster", "bluebell", "crocus", "dahlia", "été <3")
SIZES = {"train": 160, "val": 50, "test": 40}
JSON_FILES = ("encoder.json", "names.json", "dataset.json", "COMMIT.json")
OF_THIS_RUN = frozenset(
    (
        "versions",
        "seconds",
        "cpu_seconds",
        "time",
        "bound",
        "estimate",
        "iterations",
        "passes",
        "bytes",
        "crc32c",
        "sha256",
        "digest",
    )
)
"""Fields of results that another machine or release may change: times, and the last bits' work."""


@dataclass
class Place:
    """A folder with a store in ``features`` and results in ``results``."""

    folder: Path
    printed: dict[str, str] = field(default_factory=dict)
    """What each command printed, by the name of its golden file."""

    def store(self, name: str, *words: str) -> None:
        """Run a command of the store stage."""
        self.printed[f"{name}.txt"] = without_times(output_of(self.folder, "store", *words))

    def train(self, name: str, *words: str) -> None:
        """Run a command of the train stage."""
        self.printed[f"{name}.txt"] = without_times(output_of(self.folder, *words))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A store of three imports, and everything that can be asked about it."""
    made = Place(tmp_path_factory.mktemp("golden"))
    fill_store(made)
    one_thread = ("--threads", "1")
    toy16 = ("--model", "Toy/16", "--data", "flora")
    made.train("probe", "probe", *toy16, *one_thread)
    made.train("probe-again", "probe", *toy16, *one_thread)
    made.train("probe-paper", "probe", *toy16, "--protocol", "clip-paper", "--tap", "embedding",
               *one_thread)  # fmt: skip
    made.train("probe-tap", "probe", "--model", "Toy/32", "--tap", "pre_projection", *one_thread)
    made.train("probe-tags", "probe", "--model", "Toy/tags", *one_thread)
    made.train("knn", "knn", *toy16, "--k", "1,5,20", "--out", "companions", *one_thread)
    made.train("fewshot", "fewshot", *toy16, "--shots", "4,16", "--repeats", "2", "--out",
               "companions", *one_thread)  # fmt: skip
    made.train("compare", "compare")
    made.train("compare-csv", "compare", "--format", "csv")
    (probe,) = (made.folder / "results").glob("toy-16--flora--default--*")
    made.train("predict", "predict", f"results/{probe.name}")
    made.train("predict-csv", "predict", f"results/{probe.name}", "--format", "csv", "--top", "2")
    made.store("ls", "ls")
    made.store("show", "show", "Toy/16")
    made.store("verify", "verify", "--deep")
    return made


def fill_store(place: Place) -> None:
    """Import float16 and float32 features of the same samples, and a multi-label dataset."""
    (place.folder / "classes.txt").write_text("\n".join(FLOWERS) + "\n", encoding="utf-8")
    flora, tags = {}, {}
    for i, (split, n) in enumerate(SIZES.items()):
        labels = draws(i, n) % len(FLOWERS)
        keys = np.array([f"{split}/é{row:03d}" for row in range(n)])
        hot = np.eye(len(FLOWERS), dtype=np.int64)[labels]
        flora[split] = (hot, labels, keys)
        tags[split] = (draws(100 + i, n * 3).reshape(n, 3) > 2500).astype(np.int64)
    for name, d, dtype, tap in (
        ("Toy/16", 8, np.float16, "embedding"),
        ("Toy/32", 12, np.float32, "pre_projection"),
    ):
        words = []
        for i, (split, (hot, labels, keys)) in enumerate(flora.items()):
            file = place.folder / f"{d}-{split}.npz"
            rows = made_rows(10 * d + i, hot, d).astype(dtype)
            np.savez(file, features=rows, labels=labels, keys=keys)
            words += ["--split", f"{split}={file.name}"]
        place.store(f"import-{d}", "import", *words, "--encoder-name", name, "--dataset", "flora",
                    "--tap", tap, "--classes", "classes.txt")  # fmt: skip
    words = []  # two .npy files a split, numbered keys, numbered classes, no val
    for i, split in enumerate(("train", "test")):
        np.save(place.folder / f"{split}-x.npy", made_rows(200 + i, tags[split], 6))
        np.save(place.folder / f"{split}-y.npy", tags[split])
        words += ["--split", f"{split}={split}-x.npy,{split}-y.npy"]
    place.store("import-tags", "import", *words, "--encoder-name", "Toy/tags", "--dataset", "tags")


def capture_store(place: Place) -> Texts:
    """Every file of the store by its digest, its small JSON files, and all ids."""
    return store_texts(place.folder / "features")


def store_texts(root: Path) -> dict[str, str]:
    """What is in a store."""
    return {
        "files.txt": file_table(root),
        "ids.json": json_text(ids_of(FeatureStore(root))),
        **small_json_files(root, JSON_FILES),
    }


def ids_of(store: FeatureStore) -> dict[str, dict[str, Mapping[str, str]]]:
    """Digests of splits by encoder id and dataset id."""
    return {
        encoder.encoder_id: {
            dataset.dataset_id: {name: dataset.split(name).digest for name in dataset.splits}
            for dataset in encoder.datasets()
        }
        for encoder in store.encoders()
    }


def capture_parts(place: Place) -> Texts:
    """Parts written block by block, with skipped samples, sealed: class ids and multi-hot."""
    root = place.folder / "parts"
    write_and_seal(root, "float16", multi_label=False)
    write_and_seal(root, "float32", multi_label=True)
    return store_texts(root)


def write_and_seal(root: Path, dtype: StorageDtype, *, multi_label: bool) -> None:
    """Two parts of an encoder with two taps, and the split made of them."""
    taps = (Tap("embedding", 5), Tap("pre_projection", 7))
    spec = EncoderSpec(
        "test:Toy", {"width": 8, "patch": [8, 8]}, "gelu", "0" * 64, taps, None, "fp32", dtype
    )
    shards = tuple(ShardFingerprint(f"train-{i:05d}.tar", 1000 + i, f"{i:064x}") for i in (0, 1))
    dataset = DatasetSpec((SplitSpec("train", shards),), "cls", FLOWERS)
    encoder = FeatureStore(root).register_encoder(spec, EncoderNames(f"Toy {dtype}", "toy"))
    encoder.record_provenance(
        Provenance("2026-01-01T00:00:00+00:00", "host", "cpu", ("a", "é"), {"numpy": "2"}, 32)
    )
    for shard, sizes in zip(shards, ((4, 3), (2500,)), strict=True):
        with encoder.part_writer(shard) as writer:
            for i, n in enumerate(sizes):
                writer.append(made_block(f"{shard.name}/{i}", taps, dtype, n, multi_label))
            skipped = (SkippedSample("bad", "truncated"), SkippedSample("é", "empty"))
            n = sum(sizes) + len(skipped)
            writer.commit(skipped=skipped, batch_size=32, planned=n, labelling="cls")
    encoder.seal(dataset, "train", names=DatasetNames("Pets & co", None))


def made_block(
    prefix: str, taps: tuple[Tap, ...], dtype: StorageDtype, n: int, multi_label: bool
) -> FeatureBlock:
    """Rows (n, d); the prefix goes into the keys and the length into the numbers."""
    labels = draws(n, n) % len(FLOWERS)
    hot = np.eye(len(FLOWERS), dtype=np.int64)[labels]
    features: dict[str, NDArray[np.float32]] = {
        tap.name: made_rows(n + tap.dim, hot, tap.dim) for tap in taps
    }
    return FeatureBlock(
        tuple(f"{prefix}/é{row}" for row in range(n)),
        {tap: rows.astype(dtype) for tap, rows in features.items()},
        hot.astype(np.uint8) if multi_label else labels,
        draws(n + 1, n * 32).reshape(n, 32).astype(np.uint8),
    )


def capture_results(place: Place) -> Texts:
    """The files of every result; of arrays the names, shapes and types."""
    pytest.importorskip("matplotlib", reason="the plot of few-shot results needs the extra report")
    texts = {}
    for root in (place.folder / "results", place.folder / "companions"):
        files = sorted(path for path in root.rglob("*.*") if path.name != "report.html")
        texts[f"{root.name}.txt"] = "".join(f"{path.relative_to(root)}\n" for path in files)
        for path in files:
            name = path.relative_to(root).as_posix()
            if path.suffix == ".json":
                content = json.loads(path.read_text(encoding="utf-8"))
                texts[name] = json_text(blanked(content, OF_THIS_RUN))
            elif path.suffix in (".npz", ".safetensors"):
                texts[f"{name}.json"] = json_text(array_table(path))
    return texts


def array_table(path: Path) -> dict[str, object]:
    """Names, types and shapes of the arrays of a file, and a safetensors file's own words."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: [arrays[name].dtype.str, list(arrays[name].shape)] for name in arrays}
    with safe_open(path, framework="np") as file:
        table: dict[str, object] = {"metadata": file.metadata()}
        for name in sorted(file.keys()):
            tensor = file.get_slice(name)
            table[name] = [tensor.get_dtype(), list(tensor.get_shape())]
        return table


def capture_printed(place: Place) -> Texts:
    """What the commands print."""
    pytest.importorskip("matplotlib", reason="the plot of few-shot results needs the extra report")
    return place.printed


def capture_report(place: Place) -> Texts:
    """The visible text of two reports; what a run took and was made with is blanked."""
    pytest.importorskip("matplotlib", reason="needs the extra report")
    texts = {}
    for name in ("toy-16--flora--default", "toy-tags--tags--default"):
        (folder,) = (place.folder / "results").glob(f"{name}--*")
        output_of(place.folder, "report", f"results/{folder.name}")
        lines = visible_lines((folder / "report.html").read_text(encoding="utf-8"))
        for i, line in enumerate(lines):
            if line in ("made with", "took", "final fit"):
                lines[i + 1] = "blank"
        texts[f"{name}.txt"] = "\n".join(lines) + "\n"
    return texts


def capture_help(place: Place) -> Texts:
    """``--help`` of every verb."""
    del place
    return help_texts()


@pytest.mark.parametrize(
    "capture",
    [capture_store, capture_parts, capture_results, capture_printed, capture_report, capture_help],
)
def test_nothing_has_changed(capture: Callable[[Place], Texts], place: Place) -> None:
    name = re.sub("^capture_", "", capture.__name__)
    check_golden(name, capture(place))
