"""k-NN and few-shot: exact neighbours, the convention's votes, nested draws, kept answers."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_factories import CLASSES, command, some_splits
from sklearn.neighbors import KNeighborsClassifier
from train_factories import SplitData, features, make_rows, stored_dataset

from linprobe.errors import DataError, OptionError
from linprobe_train.protocol.search import SplitUse
from linprobe_train.show.plots import fewshot_svg
from linprobe_train.solver.passes import Crew, crew_of
from linprobe_train.solver.rows import Block, Rows, rows_of_array
from linprobe_train.tasks import knn
from linprobe_train.tasks.fewshot import (
    HELD_OUT,
    DrawScore,
    FewshotQuestion,
    FewshotResult,
    ShotScore,
    draw_rows,
)
from linprobe_train.tasks.knn import (
    Neighbours,
    knn_scores,
    ranking,
    votes,
    with_neighbours,
)


def all_neighbours(queries: Rows, bank: Rows, k: int, crew: Crew) -> list[Neighbours]:
    """The neighbours of all queries, block by block."""
    return with_neighbours(queries, bank, k, crew, lambda start, block: block)


@given(
    n=st.integers(1, 60),
    m=st.integers(1, 70),
    k=st.integers(1, 70),
    block=st.integers(1, 9),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_the_neighbours_are_those_of_a_full_sort_whatever_the_blocks(
    n: int, m: int, k: int, block: int, seed: int
) -> None:
    """Rows from a small grid, so that there are many ties: these go to the earlier row."""
    rng = np.random.default_rng(seed)
    grid = np.array([[3, 4], [4, 3], [0, 5], [5, 0], [-3, 4], [-4, -3]], np.float32)
    queries, bank = grid[rng.integers(0, 6, n)], grid[rng.integers(0, 6, m)]
    views = [bank[i : i + block] for i in range(0, m, block)]
    rows = Rows(tuple(Block(view) for view in views), np.zeros(m, np.int64), 1)
    with pytest.MonkeyPatch.context() as patch, crew_of(1) as crew:
        patch.setattr(knn, "QUERY_ROWS", 7)
        k = min(k, m)
        found = all_neighbours(rows_of_array(queries, np.zeros(n, np.int64), 1), rows, k, crew)

    exact = np.round((queries / 5) @ (bank / 5).T, 4)
    expected = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    similarity = np.concatenate([one.similarity for one in found])
    np.testing.assert_allclose(similarity, np.take_along_axis(exact, expected, 1), atol=1e-5)
    got = np.concatenate([one.row for one in found])
    assert all(len(set(line)) == k for line in got.tolist())
    np.testing.assert_allclose(np.take_along_axis(exact, got, 1), similarity, atol=1e-5)


@given(m=st.integers(1, 40), k=st.integers(1, 40), block=st.integers(1, 9), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_of_equally_similar_rows_the_earlier_are_taken(
    m: int, k: int, block: int, seed: int
) -> None:
    """Rows along the axes, whose products are exact."""
    rng = np.random.default_rng(seed)
    axes = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    bank = axes[rng.integers(0, 6, m)]
    views = tuple(Block(bank[i : i + block]) for i in range(0, m, block))
    rows, queries = Rows(views, np.zeros(m, np.int64), 1), Rows((Block(axes),), np.zeros(6, int), 1)
    with crew_of(1) as crew:
        (found,) = all_neighbours(queries, rows, min(k, m), crew)

    expected = np.argsort(-(axes @ bank.T), axis=1, kind="stable")[:, : min(k, m)]
    np.testing.assert_array_equal(found.row, expected)


def test_the_number_of_threads_changes_nothing() -> None:
    queries, bank = make_rows(3000, 8, 4), make_rows(2500, 8, 4, seed=1)
    results = []
    for threads in (1, 3):
        with crew_of(threads) as crew:
            results.append(all_neighbours(queries, bank, 20, crew))

    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one.row, other.row)
        np.testing.assert_array_equal(one.similarity, other.similarity)


def test_accuracy_is_that_of_scikit_learn_with_the_same_weights() -> None:
    bank, test = make_rows(400, 12, 7, noise=2), make_rows(300, 12, 7, seed=5, noise=2)
    unit = [
        np.concatenate([b.read() for b in rows.blocks]).astype(np.float64) for rows in (bank, test)
    ]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in unit]
    for one in knn_scores(bank, test, (1, 10, 100)):
        peer = KNeighborsClassifier(
            one.k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
        ).fit(unit[0], bank.labels)
        expected = float((peer.predict(unit[1]) == test.labels).mean())

        assert one.score("top1").value == pytest.approx(expected, abs=1.01 / 300)


def test_votes_are_summed_by_class_and_a_class_without_one_is_never_in_the_top() -> None:
    block = Neighbours(
        np.array([[0.9, 0.8, 0.8]], np.float32), np.array([[2, 0, 1]], dtype=np.int64)
    )
    found = votes(block, 3, np.array([4, 4, 1], np.int64), 6, 0.1)

    expected = np.zeros(6)
    expected[1], expected[4] = 1, 2 * np.exp(-1)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    assert ranking(found).tolist() == [[1, 4, -1, -1, -1]]


def test_a_bank_smaller_than_k_votes_whole(tmp_path: Path) -> None:
    stored_dataset(tmp_path / "features", some_splits(), classes=CLASSES)
    where = ["--store", str(tmp_path / "features"), "--out", str(tmp_path / "results")]
    found = json.loads(command("knn", *where, "--json"))

    assert [one["k"] for one in found["results"]] == [10, 20, 100, 120]
    assert found["bank"] == {"source": "train", "n": 120}


@pytest.mark.parametrize("name", ["knn", "fewshot"])
def test_a_companion_is_answered_once_and_then_from_disk(tmp_path: Path, name: str) -> None:
    stored_dataset(tmp_path / "features", some_splits(), classes=CLASSES)
    base = [name, "--store", str(tmp_path / "features"), "--out", str(tmp_path / "results")]
    base += ["--shots", "1,2", "--repeats", "2"] if name == "fewshot" else []
    first, again = (json.loads(command(*base, "--json")) for _ in range(2))

    assert (first.pop("fresh"), again.pop("fresh")) == (True, False)
    assert first == again
    assert name in command(*base)
    (folder,) = (tmp_path / "results").iterdir()
    (folder / f"{name}.json").write_text('{"question": 1}')
    assert json.loads(command(*base, "--json"))["fresh"]
    assert not json.loads(command(*base, "--json"))["fresh"]


@pytest.mark.parametrize("name", ["knn", "fewshot"])
def test_several_labels_a_row_are_refused(tmp_path: Path, name: str) -> None:
    X, y = features(40, 6, 2)
    split = SplitData(X, np.eye(2, dtype=np.uint8)[y])
    stored_dataset(tmp_path / "features", {"train": split, "test": split}, classes=("a", "b"))
    with pytest.raises(DataError, match="several labels a row"):
        command(name, "--store", tmp_path / "features", "--out", tmp_path / "results")


@pytest.mark.parametrize(
    "options",
    [
        ["knn", "--k", "0"],
        ["knn", "--k", "a"],
        ["knn", "--T", "0"],
        ["knn", "--threads", "0"],
        ["fewshot", "--shots", "0,1"],
        ["fewshot", "--repeats", "0"],
    ],
)
def test_options_out_of_range_are_refused_before_the_store_is_opened(
    tmp_path: Path, options: list[str]
) -> None:
    with pytest.raises(OptionError):
        command(*options, "--store", tmp_path / "none", "--out", tmp_path / "results")


@pytest.mark.parametrize("with_val", [True, False])
@given(seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_draws_are_nested_balanced_seeded_and_never_held_out(with_val: bool, seed: int) -> None:
    rows, val = make_rows(120, 4, 5), make_rows(60, 4, 5, seed=9)
    shots = (1, 2, 4, 8, 16)
    draw = draw_rows(rows, val if with_val else None, shots, seed, 0)
    again = draw_rows(rows, val if with_val else None, shots, seed, 0)
    other = draw_rows(rows, val if with_val else None, shots, seed, 1)

    for mine, same, held in zip(draw.shots, again.shots, draw.held, strict=True):
        assert np.array_equal(mine, same)
        assert len(mine) == 16
        if not with_val:
            assert not set(mine.tolist()) & set(held.tolist())
    assert any(not np.array_equal(a, b) for a, b in zip(draw.shots, other.shots, strict=True))
    before: set[tuple[float, ...]] = set()
    for s in shots:
        fitted, held_out = draw.rows(s)
        assert np.bincount(fitted.labels).tolist() == [s] * 5
        assert np.bincount(held_out.labels).tolist() == [min(s, HELD_OUT)] * 5
        rows_now = {tuple(x) for x in np.concatenate([b.read() for b in fitted.blocks]).tolist()}
        assert before < rows_now
        before = rows_now


def test_a_class_with_too_few_rows_gives_what_it_has_and_is_named() -> None:
    labels = np.array([0] * 30 + [1] * 5, np.int64)
    X = np.random.default_rng(0).standard_normal((35, 3)).astype(np.float32)
    draw = draw_rows(rows_of_array(X, labels, 2), None, (1, 16), 0, 0)

    assert [len(rows) for rows in draw.shots] == [16, 3]
    assert draw.warnings(["cat", "dog"]) == (
        "1 classes have fewer than 16 rows and give what they have: dog",
    )
    with pytest.raises(DataError, match="class 1 has a single training row"):
        draw_rows(rows_of_array(X[:31], labels[:31], 2), None, (1,), 0, 0)


def test_more_shots_are_better_and_the_summary_is_that_of_its_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    stored_dataset(tmp_path / "features", some_splits(240, noise=1.0), classes=CLASSES)
    where = ["--store", str(tmp_path / "features"), "--out", str(tmp_path / "results")]
    found = json.loads(command("fewshot", *where, "--repeats", "3", "--json"))
    results = found["results"]

    assert [one["shots"] for one in results] == [1, 2, 4, 8, 16]
    assert results[-1]["mean"] > results[0]["mean"] + 0.05
    for one in results:
        values = [draw["value"] for draw in one["draws"]]
        assert one["mean"] == pytest.approx(np.mean(values))
        assert one["deviation"] == pytest.approx(np.std(values, ddof=1))
        assert {draw["rows"] for draw in one["draws"]} == {one["shots"] * len(CLASSES)}
    plot = (Path(found["folder"]) / "fewshot.svg").read_text()
    assert "16" in re.findall(r"<text[^>]*>([^<]*)", plot)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.3)), min_size=1, max_size=6),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8),
)
@settings(max_examples=20, deadline=None)
def test_a_plot_is_well_formed_and_has_a_dot_for_every_number_of_shots(
    points: list[tuple[float, float]], name: str
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    draws = (DrawScore(0.5, 1.0, 9),)
    scores = [ShotScore(2**i, mean, sd, draws) for i, (mean, sd) in enumerate(points)]
    question = FewshotQuestion(
        "", "", (), "embedding", tuple(s.shots for s in scores), 2, 0, "fewshot-2"
    )
    use = SplitUse("test", 9)
    result = FewshotResult(
        question, "<a> & $b", name, 4, {}, "top1", "val", use, tuple(scores), (), 0.0
    )
    root = ET.fromstring(fewshot_svg(result))

    text = "".join(node.text or "" for node in root.iter())
    assert "<a> & $b" in text
    # matplotlib draws a dot by <use> of its outline, inside the group of the line.
    (line,) = [node for node in root.iter() if node.get("id") == "mean"]
    assert len([node for node in line.iter() if node.tag.endswith("use")]) == len(points)


def test_without_the_plotting_library_few_shots_are_answered_and_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    stored_dataset(tmp_path / "features", some_splits(60), classes=CLASSES)
    where = ["--store", str(tmp_path / "features"), "--out", str(tmp_path / "results")]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = command("fewshot", *where, "--shots", "1", "--repeats", "2")
    assert "-m pip install 'linprobe[report]'" in text
    monkeypatch.undo()
    text = command("fewshot", *where, "--shots", "1", "--repeats", "2")

    (path,) = re.findall(r"plot +(.*)", text)
    assert path.endswith("fewshot.svg")
    ET.parse(path)
