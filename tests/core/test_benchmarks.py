"""Known datasets and published numbers are found for the paper's questions and for no others."""

from pathlib import Path

import pytest

from linprobe.benchmarks import OPENAI_MODELS, OWN_FILES, find_known, known_datasets, published
from linprobe.errors import LinprobeError

PAPER = ("pre_projection", "clip-paper", "top1")
ROW = '[[dataset]]\nslug = "{}"\ntitle = "Mine"\nn_classes = 3\nmetric = "top1"\n'


def test_every_dataset_of_the_paper_has_its_six_numbers() -> None:
    assert {tuple(row.published) for row in known_datasets()} == {OPENAI_MODELS}


@pytest.mark.parametrize(
    ("model", "dataset", "percent"),
    [
        ("RN50", "food101", 86.4),
        ("ViT-B/32", "cifar10", 95.1),
        ("ViT-B/16", "imagenet", 80.2),
        ("ViT-B-16:openai", "imagenet", 80.2),
        ("ViT-B-16-quickgelu:openai", "imagenet", 80.2),
        ("ViT-L/14", "imagenet", 83.9),
        ("ViT-L/14@336px", "imagenet", 85.4),
        ("ViT-L-14-336:openai", "imagenet", 85.4),
    ],
)
def test_a_question_of_the_paper_has_its_number(model: str, dataset: str, percent: float) -> None:
    result = published(model, dataset, *PAPER)

    assert result is not None
    assert result.percent == percent


@pytest.mark.parametrize(
    ("model", "dataset", "tap", "protocol", "metric"),
    [
        ("ViT-B/16", "cifar10", "embedding", "clip-paper", "top1"),
        ("ViT-B/16", "cifar10", "pre_projection", "default", "top1"),
        ("ViT-B/16", "cifar10", "pre_projection", "clip-paper", "mean_per_class"),
        ("ViT-B/16", "oxford_pets", "pre_projection", "clip-paper", "top1"),
        ("ViT-B/16", "flowers12", "pre_projection", "clip-paper", "top1"),
        ("ViT-B-16:laion2b_s34b_b88k", "cifar10", "pre_projection", "clip-paper", "top1"),
        ("ViT-H-14:openai", "cifar10", "pre_projection", "clip-paper", "top1"),
        ("demo", "cifar10", "pre_projection", "clip-paper", "top1"),
    ],
)
def test_any_other_question_has_none(
    model: str, dataset: str, tap: str, protocol: str, metric: str
) -> None:
    assert published(model, dataset, tap, protocol, metric) is None


def test_a_result_is_told_with_its_difference() -> None:
    result = published("ViT-B/16", "cifar10", *PAPER)

    assert result is not None
    assert result.beside(0.9571) == "Radford et al. 2021, Table 10: 96.2 (ours -0.5)"


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("oxford_pets", "oxford_pets"),
        ("OxfordIIITPet", "oxford_pets"),
        ("Flowers", "flowers102"),
        ("caltech-101", "caltech101"),
        ("VOC2007/multilabel", "voc2007"),
        ("PCAM", "pcam"),
    ],
)
def test_a_dataset_goes_by_its_slug_its_aliases_and_its_class(name: str, slug: str) -> None:
    row = find_known(name)

    assert row is not None
    assert row.slug == slug


def test_numbers_of_ones_own_file_are_quoted_with_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[published_in]\nsource = "Doe 2026"\ntap = "embedding"\nprotocol = "dino"\n'
        + ROW.format("Doe-Birds")
        + 'published = { "timm:vit_tiny" = 51.5 }\n'
    )
    monkeypatch.setenv(OWN_FILES, str(own))

    result = published("timm:vit_tiny", "doe_birds", "embedding", "dino", "top1")

    assert result is not None
    assert (result.dataset, result.percent, result.source) == ("Doe-Birds", 51.5, "Doe 2026")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (ROW.format("cifar10"), "two known datasets are called cifar10"),
        (ROW.format("pets"), "two known datasets are called pets"),
        (
            ROW.format("mine") + 'sizes = { train = "many" }',
            r"own\.toml: .*int.*dataset\[0\]\.sizes",
        ),
        (ROW.format("mine") + 'alias = ["me"]', r"own\.toml: .*alias"),
        (ROW.format("mine") + 'torchvision = { name = "X", split = {} }', r"own\.toml: .*split"),
        ('[[dataset]]\nslug = "mine"', r"own\.toml: .*title"),
        ("[[dataset", r"own\.toml: "),
        ("x = " + "[" * 5000, r"own\.toml: "),
        (ROW.format("mine") + "sizes = { train = nan }", r"own\.toml: "),
        (ROW.format("mine") + "sizes = { train = 1979-05-27 }", r"own\.toml: "),
        (None, r"own\.toml: missing"),
    ],
)
def test_a_file_of_ones_own_that_cannot_be_used_is_told(
    content: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "own.toml").write_text(content)
    monkeypatch.setenv(OWN_FILES, str(tmp_path / "own.toml"))

    with pytest.raises(LinprobeError, match=told) as caught:
        known_datasets()

    assert OWN_FILES in caught.value.hint
