"""The paper's numbers are found for the paper's questions and for no others."""

import pytest

from linprobe_extract.pack.known import KNOWN_DATASETS
from linprobe_train.scores.published import METRICS, TABLE_10, published


def test_the_table_of_numbers_and_the_table_of_datasets_have_the_same_rows() -> None:
    assert list(TABLE_10) == [row.slug for row in KNOWN_DATASETS]


def test_both_tables_name_the_same_metric() -> None:
    assert {slug: METRICS.get(slug, "top1") for slug in TABLE_10} == {
        row.slug: row.metric.value for row in KNOWN_DATASETS
    }


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
    found = published(model, dataset, "pre_projection", "clip-paper")

    assert found is not None
    assert found.percent == percent


@pytest.mark.parametrize(
    ("model", "dataset", "tap", "protocol"),
    [
        ("ViT-B/16", "cifar10", "embedding", "clip-paper"),
        ("ViT-B/16", "cifar10", "pre_projection", "default"),
        ("ViT-B/16", "flowers12", "pre_projection", "clip-paper"),
        ("ViT-B-16:laion2b_s34b_b88k", "cifar10", "pre_projection", "clip-paper"),
        ("ViT-H-14:openai", "cifar10", "pre_projection", "clip-paper"),
        ("demo", "cifar10", "pre_projection", "clip-paper"),
    ],
)
def test_any_other_question_has_none(model: str, dataset: str, tap: str, protocol: str) -> None:
    assert published(model, dataset, tap, protocol) is None


def test_a_result_is_told_with_its_difference() -> None:
    found = published("ViT-B/16", "cifar10", "pre_projection", "clip-paper")

    assert found is not None
    assert found.beside(0.9571) == "Radford et al. 2021, Table 10: 96.2 (ours -0.5)"
