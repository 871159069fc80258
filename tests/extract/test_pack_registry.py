"""A source is one file, here or in a package of one's own."""

import sys
from pathlib import Path

import pytest

from linprobe.errors import PackError
from linprobe_extract.pack.listing import PackOptions
from linprobe_extract.pack.pack import pack
from linprobe_extract.pack.registry import forms, named_source, sources

NOISE = '''
"""Squares of noise in two classes."""

import numpy as np

from linprobe_extract.pack.listing import Listing
from linprobe_extract.pack.png import pixel_samples

NAME = "noise"
FORM = "noise:SIDE"
HELP = "squares of noise"
IS_PATH = False
NEVER_CHANGES = True


def list_samples(words, options):
    side = int(words)
    pixels = np.random.default_rng(options.seed).integers(0, 256, (8, side, side), dtype=np.uint8)
    samples = pixel_samples(pixels, [0, 1] * 4, "{:02d}")
    return Listing("noise", ("a", "b"), {"train": samples[:6], "test": samples[6:]})
'''


def install(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A package of one module with an entry point, as an installer would leave it."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[linprobe.sources]\n{name} = {name}\n")
    monkeypatch.syspath_prepend(folder)


def test_a_source_of_another_package_packs_like_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, NOISE, monkeypatch, "noise_source")

    card = pack("noise:5", tmp_path / "out", PackOptions(jobs=1)).card

    assert (card.name, card.source, card.splits["train"].samples) == ("noise", "noise:5", 6)
    assert not pack("noise:5", tmp_path / "out", PackOptions(jobs=1)).is_new
    assert "noise:SIDE" in forms()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (NOISE.replace('"noise"', '"csv"'), "two sources are called csv, one of them bad_source"),
        (NOISE.replace("IS_PATH = False", ""), "bad_source is no source: expected NAME, FORM"),
    ],
)
def test_an_entry_point_that_is_no_source_is_told(
    code: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, code, monkeypatch, "bad_source")
    monkeypatch.delitem(sys.modules, "bad_source", raising=False)

    with pytest.raises(PackError, match=told) as caught:
        named_source("digits")

    assert "linprobe.sources" in caught.value.hint


def test_our_own_sources_are_the_files_of_their_folder() -> None:
    assert set(sources()) == {"csv", "digits", "hf", "imagefolder", "torchvision"}


@pytest.mark.parametrize("source", ["digits:3", "csv", "csv:", "hf", "torchvision:", "nothing:x"])
def test_words_where_none_belong_and_none_where_they_do_are_told(source: str) -> None:
    with pytest.raises(PackError, match="unknown"):
        named_source(source)


def test_the_page_on_datasets_says_what_each_source_is() -> None:
    page = (Path(__file__).parents[2] / "extract" / "DATASETS.md").read_text(encoding="utf-8")

    for source in sources().values():
        assert f"| `{source.FORM}` | {source.HELP} |" in page
