"""Of several datasets of one name the newest is meant, and says so; the others go by their ids."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from result_factories import CLASSES, command, some_splits, where
from store_command import run_command
from train_factories import SplitData, stored_dataset

from linprobe.errors import LinprobeError, StoreError
from linprobe_store.care.copy import copy_store
from linprobe_store.format.layout import folder_named
from linprobe_store.handles.dataset import StoredDataset
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.newest import name_newest
from linprobe_store.handles.store import FeatureStore
from linprobe_train.results.collect import collect
from linprobe_train.results.saved_probe import load_probe


def two_of_one_name(root: Path, *, is_recorded: bool = True) -> tuple[StoredEncoder, list[str]]:
    """A dataset called toys, and another made after it: the encoder, and both ids."""
    ids: list[str] = []
    for tars, n in (("first", 120), ("second", 100)):
        splits = {
            name: SplitData(s.features[:n], s.labels[:n]) for name, s in some_splits().items()
        }
        encoder = stored_dataset(root / "features", splits, classes=CLASSES, tars=tars)
        ids += [d.dataset_id for d in encoder.datasets() if d.dataset_id not in ids]
    if is_recorded:
        name_newest(dataset_with(encoder, ids[1]), encoder.datasets())
    return encoder, ids


def dataset_with(encoder: StoredEncoder, dataset_id: str) -> StoredDataset:
    return next(d for d in encoder.datasets() if d.dataset_id == dataset_id)


def test_a_name_means_the_newest_dataset_and_ids_and_folders_mean_the_others(
    tmp_path: Path,
) -> None:
    encoder, (first, second) = two_of_one_name(tmp_path)
    lines: list[str] = []

    for query in ("toys", None):
        found = encoder.dataset(query, lambda progress: lines.append(progress.line))
        assert found.dataset_id == second
    assert len(lines) == 2
    assert all(part in lines[0] for part in ("'toys'", second[:12], "newest of 2", first[:12]))
    for query in (first, first[:12], first[:5], dataset_with(encoder, first).path.name):
        assert encoder.dataset(query).dataset_id == first
    name_newest(dataset_with(encoder, first), encoder.datasets())  # the folder is as it was
    assert encoder.dataset("toys").dataset_id == first
    before = (encoder.path / "provenance.jsonl").read_bytes()
    name_newest(dataset_with(encoder, first), encoder.datasets())
    assert (encoder.path / "provenance.jsonl").read_bytes() == before
    assert encoder.provenance() == ()


def test_which_is_the_newest_is_a_record_that_copies_take_along_and_no_time_of_a_file(
    tmp_path: Path,
) -> None:
    encoder, (first, second) = two_of_one_name(tmp_path)
    dataset_with(encoder, first).path.touch()
    list(copy_store(str(tmp_path / "features"), str(tmp_path / "copy")))
    shutil.copytree(tmp_path / "features", tmp_path / "tree", symlinks=True)

    for store in ("features", "copy", "tree"):
        assert FeatureStore(tmp_path / store).encoder().dataset("toys").dataset_id == second


def test_without_a_record_a_name_of_several_is_refused_with_their_ids(tmp_path: Path) -> None:
    encoder, ids = two_of_one_name(tmp_path, is_recorded=False)

    with pytest.raises(StoreError, match="found 2 called 'toys'") as caught:
        encoder.dataset("toys")
    assert all(digits[:12] in caught.value.message for digits in ids)
    two_of_one_name(tmp_path)
    (encoder.path / "provenance.jsonl").write_text('{"damaged": true}\n')
    with pytest.raises(StoreError, match="found 2 called 'toys'"):
        encoder.dataset("toys")


def test_what_is_removed_is_never_the_newest_of_a_name_by_chance(tmp_path: Path) -> None:
    encoder, (first, second) = two_of_one_name(tmp_path)
    words = ("store", "rm", encoder.short_id, "--store", tmp_path / "features", "--yes")

    refused = run_command(*words, "--dataset", "toys")
    assert refused.code == 1
    assert "2 datasets are called 'toys'" in refused.err
    assert run_command(*words, "--dataset", second[:12]).code == 0
    assert [d.dataset_id for d in encoder.datasets()] == [first]
    assert encoder.dataset("toys").dataset_id == first


def test_ls_shows_the_ids_of_datasets(tmp_path: Path) -> None:
    _, ids = two_of_one_name(tmp_path)

    listed = run_command("store", "ls", "--store", tmp_path / "features").out

    assert all(digits[:12] in listed for digits in ids)


def test_probing_takes_the_newest_of_each_name_and_an_older_one_by_its_id(tmp_path: Path) -> None:
    encoder, (first, second) = two_of_one_name(tmp_path)
    base = ["probe", *where(tmp_path), "--C", "1", "--threads", "1", "--json"]

    for words in ((), ("--data", "toys")):
        done = run_command(*base, *words)
        (answer,) = json.loads(done.out)["results"]
        assert answer["question"]["dataset_id"] == second
        assert done.err.count("newest of 2") == 1
    for query in (first[:12], dataset_with(encoder, first).path.name):
        (answer,) = json.loads(command(*base, "--data", query))["results"]
        assert answer["question"]["dataset_id"] == first
    every = ["--all", "--jobs", "1"]
    (task,) = json.loads(command(*base, *every))["probes"]
    assert task["task"]["dataset_id"] == second
    (task,) = json.loads(command(*base, *every, "--data", first[:12]))["probes"]
    assert task["task"]["dataset_id"] == first
    for query in (first[:12], dataset_with(encoder, first).path.name):
        text = command("compare", *where(tmp_path), "--data", query, "--format", "csv")
        assert text.count("\n") == 2


def test_predict_takes_the_newest_probe_of_the_protocol_default_and_says_which(
    tmp_path: Path,
) -> None:
    encoder, (first, second) = two_of_one_name(tmp_path)
    base = ["probe", *where(tmp_path), "--threads", "1"]
    command(*base, "--data", second[:12])
    command(*base, "--data", first[:12])
    command(*base, "--protocol", "clip-readme")
    every = collect(tmp_path / "results")
    by_question = {
        (r.result.question.dataset_id, r.result.question.protocol.name): r.folder for r in every
    }

    def taken(*words: str) -> str:
        done = run_command("predict", *where(tmp_path), "--format", "csv", *words)
        assert done.code == 0, done.err
        return done.err

    assert str(by_question[second, "default"]) in taken()
    assert "the newest by default among 3; another: linprobe predict FOLDER" in taken()
    for query in (first[:12], folder_named("ds-", "toys", first)):
        assert str(by_question[first, "default"]) in taken("--data", query)
    name_newest(dataset_with(encoder, first), encoder.datasets())
    assert str(by_question[first, "default"]) in taken()
    with pytest.raises(LinprobeError, match="no probe of 'other'"):
        command("predict", *where(tmp_path), "--model", "other")
    older = by_question[second, "default"]  # whose name means another dataset by now
    rows = command("predict", older, *where(tmp_path), "--format", "csv").splitlines()
    assert len(rows) == 1 + 100


def test_a_probe_without_a_result_is_used_on_the_dataset_of_its_name(tmp_path: Path) -> None:
    two_of_one_name(tmp_path)
    command("probe", *where(tmp_path), "--C", "1", "--threads", "1")
    (probe,) = collect(tmp_path / "results")
    (probe.folder / "result.json").unlink()

    rows = command("predict", probe.folder, *where(tmp_path), "--format", "csv").splitlines()

    assert len(rows) == 1 + 100
    assert replace(load_probe(probe.folder).card, C=1.0).dataset == "toys"


def test_report_and_compare_leave_results_on_older_datasets_to_who_names_them(
    tmp_path: Path,
) -> None:
    _, (first, second) = two_of_one_name(tmp_path)
    for digits in (first, second):
        command("probe", *where(tmp_path), "--C", "1", "--threads", "1", "--data", digits)
    by_id = {r.result.question.dataset_id: r.folder for r in collect(tmp_path / "results")}

    done = run_command("compare", *where(tmp_path), "--format", "csv")
    assert done.out.count("\n") == 2
    assert "left out: 1 results on older datasets of their names" in done.err
    older = command("compare", *where(tmp_path), "--format", "csv", "--data", first[:12])
    assert by_id[first].name in older
    named = command("compare", by_id[first], by_id[second], *where(tmp_path), "--format", "csv")
    assert named.count("\n") == 3
