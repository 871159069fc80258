"""The wheel: three packages and nothing generic; its base install probes without torch."""

import json
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from linprobe_store.format.spec import (
    DatasetNames,
    DatasetSpec,
    EncoderNames,
    EncoderSpec,
    FeatureBlock,
    ShardFingerprint,
    SplitSpec,
    Tap,
)
from linprobe_store.handles.store import FeatureStore

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def base_distributions() -> set[str]:
    """Names of all that ``pip install linprobe`` brings, without any extra."""
    found, waiting = set[str](), ["linprobe"]
    while waiting:
        name = waiting.pop()
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and requirement.name not in found:
                found.add(requirement.name)
                waiting.append(requirement.name)
    return found


@pytest.fixture(scope="module")
def cpu_box(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the base install alone; gives its folder of scripts.

    What the base requires is linked from this environment, so that no network is needed.
    """
    environment = tmp_path_factory.mktemp("cpu_box")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    for name in base_distributions():
        files = distribution(name).files or []
        tops = {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            source = Path(str(distribution(name).locate_file(top)))
            if not (site / top).exists():
                (site / top).symlink_to(source, target_is_directory=source.is_dir())
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "-q", str(wheel)], check=True)
    return environment / "bin"


def write_store(root: Path) -> None:
    """A store made elsewhere: two separable classes, train and test."""
    spec = EncoderSpec(
        architecture="test:gaussians",
        config={},
        activation="none",
        weights_sha256="0" * 64,
        taps=(Tap("embedding", 8),),
        preprocess=None,
        precision="fp32",
        storage_dtype="float16",
    )
    stored = FeatureStore(root).register_encoder(spec, EncoderNames("gaussians", "gaussians"))
    rng = np.random.default_rng(0)
    splits = []
    for name, n in (("train", 80), ("test", 40)):
        shard = ShardFingerprint(f"{name}.tar", n, name.encode().hex().ljust(64, "0"))
        labels = np.arange(n, dtype=np.int64) % 2
        features = rng.normal(size=(n, 8)) + 3 * labels[:, None]
        keys = tuple(f"{name}{i}" for i in range(n))
        with stored.part_writer(shard) as part:
            part.append(FeatureBlock(keys, {"embedding": features.astype(np.float16)}, labels))
            part.commit(skipped=(), batch_size=n, planned=n, labelling="cls")
        splits.append(SplitSpec(name, (shard,)))
    dataset = DatasetSpec(tuple(sorted(splits, key=lambda s: s.name)), "cls", ("low", "high"))
    for split in dataset.splits:
        stored.seal(dataset, split.name, names=DatasetNames("gaussians"))


def test_the_wheel_holds_our_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        typed = {name for name in archive.namelist() if name.endswith("py.typed")}

    packages = {"linprobe", "linprobe_extract", "linprobe_store", "linprobe_train"}
    assert {top for top in tops if not top.endswith(".dist-info")} == packages
    assert typed == {f"{package}/py.typed" for package in packages}


def test_the_base_install_requires_no_torch() -> None:
    assert base_distributions().isdisjoint({"torch", "torchvision", "open_clip_torch", "timm"})


def test_the_base_install_probes_a_store_made_elsewhere(cpu_box: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "made_elsewhere")
    (tmp_path / "made_elsewhere").rename(tmp_path / "features")

    torch = subprocess.run([cpu_box / "python", "-c", "import torch"], capture_output=True)
    run = subprocess.run(
        [cpu_box / "linprobe", "probe", "--store", "features", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert b"No module named 'torch'" in torch.stderr
    assert run.returncode == 0, run.stderr
    (result,) = json.loads(run.stdout)["results"]
    (top1,) = (score["value"] for score in result["scores"] if score["name"] == "top1")
    assert result["test"]["n"] == 40
    assert top1 > 0.9


def test_the_base_install_does_all_but_images_and_plots_and_names_the_extras(
    cpu_box: Path, tmp_path: Path
) -> None:
    write_store(tmp_path / "features")

    def train(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(cpu_box / "linprobe"), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    for words in (
        ["probe", "--all", "--jobs", "2"],
        ["compare"],
        ["knn"],
        ["fewshot", "--shots", "1,2", "--repeats", "2"],
        ["predict", "--top", "1"],
    ):
        done = train(*words)
        assert done.returncode == 0, done.stderr
        assert done.stdout, words
    (tmp_path / "a.jpg").write_bytes(b"")
    for words, extra in ((["report"], "report"), (["predict", "--images", "a.jpg"], "extract")):
        done = train(*words)
        assert done.returncode == 1
        assert f"pip install 'linprobe[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr
