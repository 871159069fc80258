"""Results side by side: the paired statistics, the matching of rows, and the command."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from result_factories import CLASSES, command, probed, signed_again, some_splits
from train_factories import SplitData, stored_dataset
from typer.testing import CliRunner

from linprobe.door import app
from linprobe.errors import ResultError
from linprobe_train.cli import CompareFormat
from linprobe_train.results.collect import collect
from linprobe_train.show.compare_text import FORMATS
from linprobe_train.tasks.compare import compare, mcnemar, overview_of


def test_one_dataset_under_two_names_is_one_comparison(tmp_path: Path) -> None:
    words: list[str | Path] = []
    for split, data in some_splits().items():
        np.savez(tmp_path / f"{split}.npz", x=data.features, y=data.labels)
        words += ["--split", f"{split}={tmp_path}/{split}.npz"]
    for name in ("toys", "dolls"):
        store = tmp_path / name
        command(
            "store", "import", *words, "--encoder-name", "e", "--dataset", name, "--store", store
        )
        command("probe", "--store", store, "--out", store, "--C", "1", "--threads", "1")
    results = [collected for name in ("toys", "dolls") for collected in collect(tmp_path / name)]

    assert len(results) == 2
    assert len(compare(results)) == 1


def test_results_are_compared_on_the_same_rows_whatever_their_order(tmp_path: Path) -> None:
    splits = some_splits()
    good = probed(tmp_path, "good", splits)
    noisy = some_splits(noise=4.0)
    order = np.random.default_rng(0).permutation(120)
    shuffled = {
        "train": noisy["train"],
        "test": SplitData(noisy["test"].features[order], noisy["test"].labels[order]),
    }
    keys = {
        "train": tuple(f"train-{i}" for i in range(120)),
        "test": tuple(f"test-{i}" for i in order),
    }
    bad = probed(tmp_path, "bad", shuffled, keys=keys)
    (found,) = compare([bad, good], store=tmp_path / "features")

    by_row = dict(zip(bad.predictions().keys, bad.predictions().hits(), strict=True))
    bad_hits = np.array([by_row[key] for key in good.predictions().keys])
    good_hits = good.predictions().hits()
    first, second = found.standings
    assert (first.encoder, second.encoder) == ("good", "bad")
    assert second.difference == pytest.approx(bad_hits.mean() - good_hits.mean())
    assert second.mcnemar == mcnemar(good_hits, bad_hits)
    assert second.difference_interval.low < second.difference < second.difference_interval.high < 0
    assert (first.bytes_per_image, first.bytes) == (20, 240 * 20)
    assert (found.rows, found.notes) == (120, ())


def test_classes_in_another_order_are_the_same_classes(tmp_path: Path) -> None:
    splits = some_splits()
    turned = {
        name: SplitData(data.features, len(CLASSES) - 1 - data.labels.astype(np.int64))
        for name, data in splits.items()
    }
    one = probed(tmp_path, "one", splits)
    two = probed(tmp_path, "two", turned, classes=CLASSES[::-1])
    (found,) = compare([one, two])

    assert found.rows == 120
    assert found.standings[1].difference == pytest.approx(0, abs=0.02)


def test_another_truth_for_the_same_key_is_refused_with_both(tmp_path: Path) -> None:
    splits = some_splits()
    labels = splits["test"].labels.copy()
    labels[7] = (labels[7] + 1) % len(CLASSES)
    one = probed(tmp_path, "one", splits)
    other = {**splits, "test": SplitData(splits["test"].features, labels)}
    two = probed(tmp_path, "two", other)

    with pytest.raises(ResultError, match="1 of 120 test rows; the first is 'test-7'"):
        compare([one, two])


def test_rows_without_a_counterpart_are_left_out_and_told(tmp_path: Path) -> None:
    splits = some_splits()
    whole = probed(tmp_path, "whole", splits)
    test = SplitData(splits["test"].features[:100], splits["test"].labels[:100])
    part = probed(tmp_path, "part", {**splits, "test": test})
    (found,) = compare([whole, part])

    assert found.rows == 100
    assert len(found.notes) == 1
    assert "20 of 120" in found.notes[0]
    assert "whole" in found.notes[0]


def test_test_sets_without_a_common_row_are_never_mixed(tmp_path: Path) -> None:
    splits = some_splits()
    one = probed(tmp_path, "one", splits)
    keys = {split: tuple(f"new-{split}-{i}" for i in range(120)) for split in splits}
    two = probed(tmp_path, "two", splits, keys=keys)

    apart = compare([one, two])
    assert [len(found.standings) for found in apart] == [1, 1]
    assert all("share no key" in found.notes[0] for found in apart)
    with pytest.raises(ResultError, match="share no key"):
        compare([one, two], strict=True)


def test_features_that_changed_since_are_told(tmp_path: Path) -> None:
    one = probed(tmp_path, "one", some_splits())
    path = one.folder / "result.json"
    found = json.loads(path.read_text())
    found["question"]["splits"][0][1] = "f" * 64
    path.write_bytes(signed_again(found))
    (comparison,) = compare(collect(tmp_path / "results"), store=tmp_path / "features")

    assert any("test of toys has changed in the store since" in n for n in comparison.notes)


def test_the_grid_averages_only_what_is_complete(tmp_path: Path) -> None:
    for name in ("toys", "pets"):
        probed(tmp_path, "both", some_splits(), name=name)
    probed(tmp_path, "half", some_splits(noise=0.1), name="toys")
    comparisons = compare(collect(tmp_path / "results"))
    grid = overview_of(comparisons)

    assert grid.datasets == ("pets", "toys")
    both = [part.standings[-1].value for part in comparisons]
    assert [label.split(" ")[0] for label in grid.labels] == ["both", "half"]
    assert grid.averages[0] == pytest.approx(float(np.mean(both)))
    assert grid.averages[1] is None
    assert grid.values[1][0] is None


def test_every_format_holds_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="needs the extra report")
    probed(tmp_path, "good", some_splits())
    probed(tmp_path, "bad|<b>", some_splits(noise=4.0))
    where: list[str | Path] = [
        "compare",
        "--out",
        tmp_path / "results",
        "--store",
        tmp_path / "features",
    ]
    found = json.loads(command(*where, "--json"))["comparisons"][0]["standings"]
    rows = list(csv.DictReader(io.StringIO(command(*where, "--format", "csv"))))
    page = command(*where, "--format", "html")

    assert [float(row["value"]) for row in rows] == [one["value"] for one in found]
    shown = f"{100 * found[1]['value']:.2f}"
    for text in (command(*where), command(*where, "--format", "markdown"), page):
        assert shown in text
    assert r"bad\|<b>" in command(*where, "--format", "markdown")
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "http" not in page


def test_a_damaged_result_is_told_and_keeps_no_other_from_being_compared(tmp_path: Path) -> None:
    kept = probed(tmp_path, "kept", some_splits())
    lost = probed(tmp_path, "lost", some_splits(noise=3))
    (lost.folder / "result.json").write_text("{")
    told: list[str] = []
    found = collect(tmp_path / "results", watch=lambda seen: told.append(seen.line))

    assert [one.folder for one in found] == [kept.folder]
    assert "lost" in told[0]
    with pytest.raises(ResultError, match="damaged or of another version"):
        collect(tmp_path / "results", [lost.folder])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04nonsense", b"\x93NUMPY"])
def test_damaged_predictions_are_refused_by_name(tmp_path: Path, damage: bytes) -> None:
    one = probed(tmp_path, "one", some_splits())
    (one.folder / "predictions.npz").write_bytes(damage)
    with pytest.raises(ResultError, match=r"predictions\.npz: expected bytes"):
        compare([one])


def test_predictions_of_another_result_are_refused(tmp_path: Path) -> None:
    one = probed(tmp_path, "one", some_splits())
    two = probed(tmp_path, "two", some_splits(60), name="pets")
    shutil.copy(two.folder / "predictions.npz", one.folder / "predictions.npz")
    with pytest.raises(ResultError, match=r"predictions\.npz: expected bytes"):
        compare([one])


def test_nothing_to_compare_and_unknown_names_are_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no results in"):
        command("compare", "--out", tmp_path / "none")
    probed(tmp_path, "one", some_splits())
    where: list[str | Path] = ["compare", "--out", tmp_path / "results"]
    with pytest.raises(ResultError, match="'cars'"):
        command(*where, "--data", "cars")
    with pytest.raises(ResultError, match=r"holds no result\.json"):
        command("compare", tmp_path)


@pytest.mark.parametrize(
    ("verb", "option", "known"),
    [
        ("compare", "--format", "csv"),
        ("predict", "--format", "csv"),
        ("probe", "--solver", "sklearn"),
    ],
)
def test_an_unknown_choice_is_wrong_usage_and_the_known_ones_are_named(
    verb: str, option: str, known: str
) -> None:
    done = CliRunner().invoke(app, [verb, option, "adam"])

    assert done.exit_code == 2
    assert "'adam' is not one of" in done.stderr
    assert f"'{known}'" in done.stderr


def test_every_format_of_a_comparison_can_be_asked_for() -> None:
    assert get_args(CompareFormat) == tuple(FORMATS)


def test_a_metric_in_which_less_is_better_is_compared_as_such(tmp_path: Path) -> None:
    for model, noise in (("good", 1.0), ("bad", 4.0)):
        splits = some_splits(noise=noise)
        stored_dataset(tmp_path / "features", splits, classes=CLASSES, model=model, metric="nll")
    where: list[str | Path] = ["--out", tmp_path / "results", "--store", tmp_path / "features"]
    command("probe", "--all", *where, "--C", "1", "--jobs", "1")
    best, worst = json.loads(command("compare", *where, "--json"))["comparisons"][0]["standings"]

    assert (best["encoder"], worst["encoder"]) == ("good", "bad")
    assert 0 < best["value"] < worst["value"]
    assert worst["difference"] > 0
    text = command("compare", *where)
    assert "negative log likelihood in nats" in text
    assert f"{best['value']:.4f}" in text

    labels = overview_of(compare(collect(tmp_path / "results"))).labels
    assert [label.split(" ")[0] for label in labels] == ["good", "bad"]


def test_every_row_says_its_protocol_and_its_C_and_what_it_was_asked_otherwise(
    tmp_path: Path,
) -> None:
    stored_dataset(tmp_path / "features", some_splits(), classes=CLASSES, model="m", metric="top1")
    where: list[str | Path] = ["--out", tmp_path / "results", "--store", tmp_path / "features"]
    asked = {
        "default": (),
        "default-custom (C of 1)": ("--C", "1"),
        "default-custom (C of 10)": ("--C", "10"),
        "default-custom (C of 1, by nll)": ("--C", "1", "--metric", "nll"),
        "default-custom (C of 0.1, 1, 10 and 1 more)": ("--grid", "0.1,1,10,100"),
        "default-custom (searched on 60 rows)": ("--coarse-rows", "60"),
        "clip-readme": ("--protocol", "clip-readme"),
    }
    for words in asked.values():
        command("probe", *where, *words, "--threads", "1")
    (comparison,) = json.loads(command("compare", *where, "--json"))["comparisons"]
    rows = {
        line["label"].removeprefix("m · embedding · "): line for line in comparison["standings"]
    }
    table = [line.split("  ") for line in command("compare", *where).splitlines()]
    shown = {cells[0].removeprefix("m · embedding · "): cells for cells in table}

    assert set(rows) == set(asked)
    assert {name: f"{line['C']:.4g}" for name, line in rows.items()} == {
        name: next(cell for cell in shown[name][1:] if cell).strip() for name in rows
    }
