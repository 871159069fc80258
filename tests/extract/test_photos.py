"""From a folder of photos to a classifier, and after every change again, as the README says."""

import io
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from encoder_factories import SmallModel
from PIL import Image
from store_command import Result, run_command

from linprobe_extract.encoders import loading
from linprobe_extract.encoders.encoder import Encoder
from linprobe_extract.encoders.family import EncoderChoice, resolve_model
from linprobe_store.format.spec import EncoderNames
from linprobe_train.results.answers import read_result
from linprobe_train.results.result import ProbeResult

ROOT = Path(__file__).parents[2]
COLOURS = {"daisy": (230, 220, 60), "iris": (70, 60, 200), "rose": (200, 40, 60)}

pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, model: SmallModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, where ViT-B/16 is a small encoder that is loaded once."""
    ref = replace(
        resolve_model(str(model.config), weights=model.weights),
        names=EncoderNames("ViT-B/16", "vit-b-16-openai"),
    )
    load = cache(loading.load_encoder)

    def load_once(choice: EncoderChoice, local_rank: int = 0) -> Encoder:
        return load(replace(choice, device="cpu", precision="fp32"))

    monkeypatch.setattr("linprobe_extract.encoders.family.resolve_model", lambda *_, **__: ref)
    monkeypatch.setattr("linprobe_extract.encoders.loading.load_encoder", load_once)
    for plot in ("curve_svg", "calibration_svg"):  # which take longer than all the rest
        monkeypatch.setattr(f"linprobe_train.show.report.{plot}", lambda *_: "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photo(kind: str, seed: int) -> bytes:
    """A picture of one colour, with noise; another seed is another picture."""
    rng = np.random.default_rng([sorted(COLOURS).index(kind), seed])
    pixels = rng.normal(COLOURS[kind], 25, (40, 32, 3)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def add(kind: str, seeds: range, *, to: str | None = None) -> None:
    for seed in seeds:
        path = Path("photos", to or kind, f"{kind}_{seed}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(kind, seed))


def printed_commands(first: str) -> list[str]:
    """The five commands of the README that begin with ``first``, without their comments."""
    lines = iter((ROOT / "README.md").read_text().splitlines())
    block = [next(line for line in lines if line.startswith(f"    {first}"))]
    block += [next(lines) for _ in range(4)]
    return [line.partition("#")[0].strip() for line in block]


def make_words(words: list[str]) -> list[str]:
    """What our Makefile runs ``linprobe`` with, in an environment that has all installed."""
    venv = Path(".venv")
    if not venv.exists():
        (venv / "bin").mkdir(parents=True)
        for name in ("pyproject.toml", "constraints.txt"):
            Path(name).touch()
            os.utime(name, (0, 0))
        for stamp in (".python", ".base", ".extract", ".report"):
            (venv / stamp).touch()
        linprobe = venv / "bin" / "linprobe"
        linprobe.write_text("#!/bin/sh\nfor word; do printf '%s\\0' \"$word\" >> calls; done\n")
        linprobe.chmod(0o755)
    Path("calls").unlink(missing_ok=True)
    line = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), *words]
    subprocess.run(line, check=True, capture_output=True)
    return Path("calls").read_text().split("\0")[:-1]


def execute(line: str) -> Result:
    """Run a line as a person would type it."""
    words = shlex.split(line)
    run = make_words(words[1:]) if words[0] == "make" else words[1:]
    done = run_command(*run)
    assert done.code == 0, (line, done.err)
    return done


def next_of(done: Result) -> str:
    """The next command that one printed; what a person has to fill in is filled in."""
    (line,) = re.findall(r"^next:? +(.*)", f"{done.out}\n{done.err}", re.MULTILINE)
    return str(line).replace("FOLDER", "new_photos")


def follow(first: str) -> list[Result]:
    """The five commands, each but the first as the one before printed it."""
    done = [execute(first)]
    while len(done) < 5:
        done.append(execute(next_of(done[-1])))
    return done


def newest_result() -> ProbeResult:
    read = (read_result(path) for path in Path("results").iterdir())
    return max((result for result in read if result), key=lambda each: each.environment.time)


def classes_said(predicted: Result) -> dict[str, str]:
    """The class of every image, by its name."""
    rows = (line.split() for line in predicted.out.splitlines())
    return {Path(row[0]).stem: row[1] for row in rows}


def remove_images() -> None:
    for seed in range(3):
        Path("photos/iris", f"iris_{seed}.jpg").unlink()


def relabel() -> None:
    Path("photos/rose/iris_9.jpg").rename("photos/iris/iris_9.jpg")


def add_images() -> None:
    add("iris", range(9, 10), to="rose")
    add("daisy", range(9, 12))


CHANGES: dict[str, tuple[Callable[[], object], int]] = {
    "images added": (add_images, 4),
    "images removed": (remove_images, 0),
    "an image in another class": (relabel, 0),
    "a class removed": (lambda: shutil.rmtree("photos/rose"), 0),
    "a class renamed": (lambda: Path("photos/daisy").rename("photos/marguerite"), 0),
}
"""Changes of the folder, with the images of each that were not encoded before."""


def encoded(extracted: Result) -> int:
    """Images that a run has encoded, not taken from the store."""
    images = re.findall(r"shards.*, (\d+) images[, ]", extracted.err)
    taken = re.findall(r"\((\d+) images taken from the store\)", extracted.err)
    return int(images[0]) - sum(map(int, taken))


def test_ones_own_folder_is_packed_extracted_probed_reported_and_predicted_after_every_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in COLOURS:
        add(kind, range(9))
        path = Path("new_photos", f"{kind}.jpg")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo(kind, 99))
    (Path("new_photos") / ".venv").mkdir()
    (Path("new_photos") / ".venv" / "icon.jpg").write_bytes(photo("rose", 98))
    ways = {first: printed_commands(first) for first in ("make data", "linprobe pack")}

    def go(first: str) -> None:
        monkeypatch.delenv("LINPROBE_MAKE", raising=False)
        if first == "make data":
            monkeypatch.setenv("LINPROBE_MAKE", ".venv/bin/linprobe")

    go("make data")
    *_, predicted = (execute(line) for line in ways["make data"])
    assert classes_said(predicted) == {kind: kind for kind in COLOURS}
    ids = [newest_result().question.dataset_id]
    for i, (change, new_images) in enumerate(CHANGES.values()):
        change()
        first, second = sorted(ways, reverse=i % 2 == 0)
        go(first)
        packed, extracted, probed, reported, predicted = follow(ways[first][0])
        go(second)
        *_, again = (execute(line) for line in ways[second])  # which finds nothing to do

        names = sorted(path.name for path in Path("photos").iterdir())
        result = newest_result()
        digits = result.question.dataset_id[:12]
        assert "packed again, its source has changed" in packed.err
        assert digits in extracted.out
        assert encoded(extracted) == new_images
        assert result.classes == tuple(names)
        assert f"'photos' is {digits}, the newest of {i + 2} datasets of this name" in probed.err
        assert result.question.dataset_id not in ids
        said = classes_said(predicted)
        assert said["iris"] == "iris"
        assert said["daisy"] == next(name for name in names if name in ("daisy", "marguerite"))
        assert again.out == predicted.out
        assert len(reported.out.splitlines()) == 1
        ids.append(result.question.dataset_id)
    compared = run_command("compare", "--format", "csv")
    assert "left out: 5 results on older datasets of their names" in compared.err
    assert compared.out.count("\n") == 2
    listed = run_command("store", "ls").out
    assert all(each[:12] in listed for each in ids)
