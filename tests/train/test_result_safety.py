"""Results are believed after every byte of them was verified, and nothing else leaves a reader."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from result_factories import (
    CLASSES,
    FILES,
    VERBS,
    asked,
    command,
    probed,
    signed_again,
    some_splits,
    where,
)
from train_factories import stored_dataset
from typer.testing import CliRunner

from linprobe.door import app
from linprobe.errors import IntegrityError, ResultError, StoreError
from linprobe_store.handles.verification import Verification
from linprobe_train.protocol.splits import StoredSplits
from linprobe_train.results.answers import Answers, read_result
from linprobe_train.results.collect import collect
from linprobe_train.results.result import ProbeResult
from linprobe_train.results.saved_probe import load_probe
from linprobe_train.results.signed import sign
from linprobe_train.solver.rows import Rows

FEATURES = "features/enc-*/sets/ds-*/{}/data.zarr/features_embedding/c/0/0"
"""Where the features of a split lie."""


def edit_accuracy(folder: Path) -> None:
    path = folder / "result.json"
    content = json.loads(path.read_text())
    content["scores"][0]["value"] = 0.999
    path.write_text(json.dumps(content, indent=2))


def reverse_classes(folder: Path) -> None:
    path = folder / "probe.json"
    content = json.loads(path.read_text())
    content["classes"] = content["classes"][::-1]
    path.write_text(json.dumps(content, indent=2))


def forge_classes(folder: Path) -> None:
    path = folder / "probe.json"
    content = json.loads(path.read_text())
    path.write_bytes(signed_again(content | {"classes": content["classes"][::-1]}))


def cut(name: str) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:-7])

    return harm


def missing(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


HARMS = {
    "an edited accuracy": edit_accuracy,
    "reversed classes": reverse_classes,
    "reversed classes, signed again": forge_classes,
    **{f"a cut {name}": cut(name) for name in FILES},
    **{f"no {name}": missing(name) for name in FILES},
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_result_is_told_and_made_again(result: Path, harm: str, tmp_path: Path) -> None:
    whole = {name: (result / name).read_bytes() for name in FILES}
    HARMS[harm](result)
    words = [*VERBS["probe"], *where(tmp_path), "--threads", "1", "--json"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    (answer,) = json.loads(done.stdout)["results"]

    assert "making it again" in done.stderr
    assert str(result) in done.stderr
    assert answer["fresh"]
    assert answer["scores"] == json.loads(whole["result.json"])["scores"]
    for name in FILES[1:]:
        assert (result / name).read_bytes() == whole[name]
    assert not asked(tmp_path, "probe")["fresh"]
    assert list((tmp_path / "results").iterdir()) == [result]


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_result_is_refused_by_name_and_left_out_of_a_listing(
    result: Path, harm: str, tmp_path: Path
) -> None:
    other = probed(tmp_path, "two", some_splits(noise=3))
    HARMS[harm](result)
    told: list[str] = []
    seen = collect(tmp_path / "results", watch=lambda progress: told.append(progress.line))

    assert [collected.folder for collected in seen] == [other.folder]
    assert len(told) == 1
    assert str(result) in told[0]
    for verb in ("compare", "report"):
        with pytest.raises(ResultError, match=result.name):
            command(verb, result, "--store", tmp_path / "features")


@pytest.mark.parametrize("harm", [name for name in HARMS if "predictions" not in name])
def test_a_damaged_probe_classifies_nothing(result: Path, harm: str, tmp_path: Path) -> None:
    HARMS[harm](result)
    if harm in ("no encoder.json", "a cut encoder.json", "no result.json"):
        return  # not read, or the probe is checked by its own digests alone
    with pytest.raises(ResultError, match=result.name):
        command("predict", result, *where(tmp_path))


@pytest.mark.parametrize("name", ["probe.json", "probe.safetensors"])
def test_a_probe_copied_alone_is_still_checked(result: Path, name: str, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in ("probe.json", "probe.safetensors"):
        shutil.copy(result / file, alone)
    assert load_probe(alone).classes == CLASSES
    data = bytearray((alone / name).read_bytes())
    data[-20] ^= 1
    (alone / name).write_bytes(bytes(data))
    with pytest.raises(ResultError, match=name.replace(".", r"\.")):
        load_probe(alone)
    reverse_classes(result)
    shutil.copy(result / "probe.json", alone)
    with pytest.raises(ResultError, match="expected digest"):
        load_probe(alone)


@pytest.mark.parametrize("verb", ["knn", "fewshot"])
def test_a_damaged_companion_is_made_again(result: Path, verb: str, tmp_path: Path) -> None:
    first = asked(tmp_path, verb)
    path = Path(str(first["folder"])) / f"{verb}.json"
    text = path.read_text()
    for damaged in (text.replace('"value": 0.', '"value": 0.9'), text[:-9], ""):
        path.write_text(damaged)
        again = asked(tmp_path, verb)
        assert again["fresh"]
        assert again["results"] == first["results"]
    assert not asked(tmp_path, verb)["fresh"]


def test_a_result_of_another_question_is_not_taken_for_the_answer(
    result: Path, tmp_path: Path
) -> None:
    other = json.loads(command(*VERBS["probe"], *where(tmp_path), "--seed", "1", "--json"))
    shutil.rmtree(result)
    shutil.copytree(other["results"][0]["folder"], result)
    answer = asked(tmp_path, "probe")
    assert answer["fresh"]
    assert answer["question"]["seed"] == 0  # type: ignore[index]


def test_all_probes_tell_what_was_damaged(result: Path, tmp_path: Path) -> None:
    reverse_classes(result)
    words = ["probe", "--all", "--C", "1", "--jobs", "1", *where(tmp_path)]
    text = command(*words)
    assert "made again" in text
    assert f"{result.name}/probe.json: expected" in text
    assert "was there" in command(*words)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_all_files_have_the_mode_that_the_umask_asks_for(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        folder = probed(tmp_path, "one", some_splits(40)).folder
        command("report", folder, "--store", tmp_path / "features")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys((*FILES, "report.html"), 0o666 & ~mask)


def test_what_was_verified_is_in_every_result_and_in_the_report(
    result: Path, tmp_path: Path
) -> None:
    for verb in VERBS:
        verified = asked(tmp_path, verb)["verified"]
        assert set(verified) == {"train", "test"}  # type: ignore[call-overload]
        for of_split in verified.values():  # type: ignore[attr-defined]
            assert "crc32c" in of_split["method"]
            assert of_split["files"] >= 2
            assert of_split["bytes"] > 120 * 10 * 2
    page = Path(command("report", result, *where(tmp_path)).strip()).read_text()
    assert "features verified" in page
    assert "; 2 splits," in page


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("verb", [*VERBS, "predict"])
def test_damaged_features_are_refused_by_name_and_the_repair_gives_the_right_number(
    result: Path, verb: str, split: str, tmp_path: Path
) -> None:
    def ask() -> object:
        if verb == "predict":
            return command(verb, result, *where(tmp_path), "--split", split)
        return asked(tmp_path, verb)["scores" if verb == "probe" else "results"]

    right = ask()
    if verb == "probe":
        shutil.rmtree(result)
    for folder in (tmp_path / "results").glob(f"*{verb}*"):
        shutil.rmtree(folder)
    (path,) = tmp_path.glob(FEATURES.format(split))
    whole = path.read_bytes()
    half = len(whole) // 4
    path.write_bytes(
        whole[:half] + bytes(b ^ 1 for b in whole[half : 2 * half]) + whole[2 * half :]
    )
    before = sorted((tmp_path / "results").iterdir())
    with pytest.raises(IntegrityError, match=f"{split}/data.zarr/features_embedding/c"):
        ask()
    assert sorted((tmp_path / "results").iterdir()) == before
    path.write_bytes(whole)
    assert ask() == right


def test_a_damaged_test_split_is_told_before_the_fit(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(result)
    (path,) = tmp_path.glob(FEATURES.format("test"))
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    monkeypatch.delattr("linprobe_train.tasks.probe.search")
    with pytest.raises(IntegrityError, match="test/data"):
        asked(tmp_path, "probe")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("verb", VERBS)
def test_features_that_change_during_the_fit_give_no_result(
    result: Path, verb: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change comes with the last pass: all that is verified was verified before."""
    shutil.rmtree(result)
    (path,) = tmp_path.glob(FEATURES.format(split))
    verified = StoredSplits.verified

    def late(splits: StoredSplits) -> dict[str, Verification]:
        path.write_bytes(path.read_bytes())
        return verified(splits)

    monkeypatch.setattr(StoredSplits, "verified", late)
    with pytest.raises(IntegrityError, match=f"{split}/data.zarr/features_embedding/c"):
        asked(tmp_path, verb)
    assert not list((tmp_path / "results").iterdir())
    monkeypatch.undo()
    assert asked(tmp_path, verb)["fresh"]


@pytest.mark.parametrize("verb", VERBS)
def test_labels_that_change_before_they_are_used_are_told_as_a_change(
    result: Path, verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(result)
    (path,) = tmp_path.glob(
        FEATURES.format("test").replace("features_embedding/c/0/0", "labels/c/0")
    )
    opened = StoredSplits.open_test

    def late(splits: StoredSplits) -> Rows:
        rows = opened(splits)
        with path.open("r+b") as file:  # in place: what is mapped changes
            file.write(b"\x77" * 64)
        return rows

    monkeypatch.setattr(StoredSplits, "open_test", late)
    with pytest.raises(IntegrityError, match=r"labels/c/0: changed"):
        asked(tmp_path, verb)
    assert not list((tmp_path / "results").iterdir())


def test_a_plot_that_cannot_be_written_keeps_no_answer_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("fewshot.svg: Read-only file system", hint="choose another place")

    stored_dataset(tmp_path / "features", some_splits(60), classes=CLASSES)
    monkeypatch.setattr("linprobe_train.show.plots.write_fewshot_plot", refuse)
    assert asked(tmp_path, "fewshot")["fresh"]
    words = [*VERBS["fewshot"], *where(tmp_path)]
    assert "not written: fewshot.svg: Read-only" in command(*words)


@pytest.mark.parametrize("verb", VERBS)
def test_names_of_any_length_are_cut_and_kept_apart(tmp_path: Path, verb: str) -> None:
    for last in "ab":
        name = "é/" * 150 + last
        stored_dataset(tmp_path / "features", some_splits(60), classes=CLASSES, name=name)
    folders = set()
    for dataset in ("é/" * 150 + last for last in "ab"):
        words = [*VERBS[verb], *where(tmp_path), "--data", dataset, "--threads", "1", "--json"]
        answer = json.loads(command(*words))
        answer = answer["results"][0] if verb == "probe" else answer
        assert answer["dataset"] == dataset
        folders.add(Path(answer["folder"]))
    assert len(folders) == 2
    assert all(len(folder.name.encode()) < 255 and folder.is_dir() for folder in folders)


def test_a_disk_without_room_is_told_before_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_dataset(tmp_path / "features", some_splits(), classes=CLASSES)
    full = shutil._ntuple_diskusage(10**9, 10**9 - 100, 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    monkeypatch.setattr("linprobe_train.tasks.probe.search", lambda *_, **__: pytest.fail("fit"))
    with pytest.raises(ResultError, match="free"):
        asked(tmp_path, "probe")


@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_that_fills_at_any_file_leaves_nothing(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_dataset(tmp_path / "features", some_splits(60), classes=CLASSES)
    write, room = Path.write_bytes, [0]

    def fill(path: Path, data: bytes) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            write(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device", str(path))
        return write(path, data)

    answer, tries = None, 0
    told: list[str] = []
    while answer is None:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", fill)
            room[0], tries = 4096 * tries, tries + 1
            try:
                answer = asked(tmp_path, verb)
            except ResultError as error:
                told.append(error.message)
            assert len(list((tmp_path / "results").iterdir())) == (answer is not None)
    assert told
    assert all("No space left on device" in line for line in told)
    assert not asked(tmp_path, verb)["fresh"]


def test_a_kill_at_the_rename_leaves_nothing_for_ever(result: Path, tmp_path: Path) -> None:
    reverse_classes(result)
    code = (
        "import os, linprobe.disk as disk\n"
        "disk.Staging.publish = lambda *_: os.kill(os.getpid(), 9)\n"
        "from linprobe.door import main\n"
        "main()\n"
    )
    words = [*VERBS["probe"], *where(tmp_path), "--threads", "1"]
    done = subprocess.run([sys.executable, "-c", code, *words], check=False, capture_output=True)
    assert done.returncode == -9
    (left,) = (tmp_path / "results").glob("tmp-*")
    assert asked(tmp_path, "probe")["fresh"]
    long_ago = time.time() - 60
    for path in (left, *left.iterdir()):
        os.utime(path, (long_ago, long_ago))
    assert not asked(tmp_path, "probe")["fresh"]
    assert list((tmp_path / "results").iterdir()) == [result]


def test_only_what_we_staged_is_cleared_and_no_link_is_followed(
    result: Path, tmp_path: Path
) -> None:
    results, outside = tmp_path / "results", tmp_path / "outside"
    (outside / "tmp-folder").mkdir(parents=True)
    kept = [outside / ".page.0123456789ab", results / "tmp-mine" / "a", outside / "tmp-folder/b"]
    (results / "tmp-mine").mkdir()
    (results / "link").symlink_to(outside)
    (results / "tmp-host-1-0123456789ab").symlink_to(outside / "tmp-folder")
    for path in kept:
        path.write_text("mine")
    for path in (*kept, outside / "tmp-folder", results / "tmp-mine"):
        os.utime(path, (0, 0))
    asked(tmp_path, "probe")
    assert all(path.read_text() == "mine" for path in kept)


def test_of_two_runs_that_mend_the_same_result_one_stays(result: Path, tmp_path: Path) -> None:
    """The other one finds a sound answer in the place of the damaged one, and leaves it."""
    answers = Answers(tmp_path / "results", ProbeResult)
    sound = read_result(result)
    assert sound is not None
    names = sound.encoder, sound.dataset, sound.question.protocol.name
    assert answers.folder(sound.question, *names) == result
    before = (result / "result.json").stat().st_ino
    assert answers.put(sound, *names).damage == ""
    assert (result / "result.json").stat().st_ino == before
    cut("result.json")(result)
    assert "result.json" in answers.put(sound, *names).damage
    assert read_result(result) == sound


def killed_at(event: int, work: Callable[[], object]) -> bool:
    """Do something in a child that is killed before its n-th change of the disk; whether it was."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = [event]

    def count(name: str, arguments: tuple[object, ...]) -> None:
        changes = name.startswith(("os.re", "os.mk", "os.rm", "shutil.")) or (
            name == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
        )
        left[0] -= changes
        if changes and left[0] < 0:  # the kill itself is an event too
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    try:
        work()
    finally:
        os._exit(0)


@pytest.mark.parametrize("damage", ["none is there", "a cut predictions.npz"])
def test_a_kill_before_any_change_of_the_disk_leaves_a_result_whole_or_none(
    result: Path, damage: str, tmp_path: Path
) -> None:
    answers = Answers(tmp_path / "results", ProbeResult)
    sound, whole = read_result(result), {name: (result / name).read_bytes() for name in FILES[1:]}
    assert sound is not None
    names = sound.encoder, sound.dataset, sound.question.protocol.name
    event, states = 0, set()
    while True:
        shutil.rmtree(result, ignore_errors=True)
        if damage in HARMS:
            result.mkdir()
            for name, data in {**whole, "result.json": sign(sound, whole)}.items():
                (result / name).write_bytes(data)
            HARMS[damage](result)
        was_killed = killed_at(event, lambda: answers.put(sound, *names, files=whole))
        is_there = result.exists()
        seen = answers.get(sound.question, *names)
        states.add("sound" if seen else "damaged" if is_there else "none")
        assert seen is None or seen.result == sound
        if not was_killed:
            break
        event += 1
    assert seen is not None
    assert event >= 8
    assert states == {"sound", "none"} | ({"damaged"} if damage in HARMS else set())
    for left in (tmp_path / "results").glob("tmp-*"):
        for path in (left, *left.rglob("*")):
            os.utime(path, (0, 0))
    answers.get(sound.question, *names)
    assert list((tmp_path / "results").iterdir()) == [result]


def test_runs_that_race_for_a_damaged_result_leave_a_sound_one(
    result: Path, tmp_path: Path
) -> None:
    answers = Answers(tmp_path / "results", ProbeResult)
    sound, whole = read_result(result), {name: (result / name).read_bytes() for name in FILES[1:]}
    assert sound is not None
    names = sound.encoder, sound.dataset, sound.question.protocol.name
    for _ in range(15):
        cut("result.json")(result)
        children = []
        for _ in range(4):
            if child := os.fork():
                children.append(child)
                continue
            status = 1
            try:
                answers.put(sound, *names, files=whole)
                status = 0
            finally:
                os._exit(status)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
        assert read_result(result) == sound
    assert list((tmp_path / "results").iterdir()) == [result]


def test_results_in_a_place_that_takes_none_are_refused_before_the_fit(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linprobe_train.tasks.probe.search", lambda *_, **__: pytest.fail("fit"))
    for place in ("/proc/results", "/sys/results", str(result / "result.json" / "results")):
        with pytest.raises(ResultError, match="cannot write results"):
            command("probe", "--C", "2", "--store", tmp_path / "features", "--out", place)
    with pytest.raises(StoreError, match="name too long"):
        command("probe", "--C", "2", "--store", tmp_path / "features", "--out", "o" * 300)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_answers_what_it_holds(
    result: Path, tmp_path: Path
) -> None:
    result.parent.chmod(0o555)
    try:
        assert not asked(tmp_path, "probe")["fresh"]
        with pytest.raises(ResultError, match="cannot write results"):
            command("probe", "--C", "2", *where(tmp_path))
    finally:
        result.parent.chmod(0o755)


def test_a_listing_goes_past_everything_that_is_no_result(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    (results / "dangling").symlink_to(tmp_path / "nowhere")
    (results / "loop").symlink_to(results / "loop")
    for name in ("fifo", "folder", "hollow", "unreadable", "deep", "empty"):
        (results / name).mkdir()
    os.mkfifo(results / "fifo" / "result.json")
    (results / "folder" / "result.json").mkdir()
    shutil.copy(result / "probe.json", results / "hollow")
    (results / "deep" / "result.json").write_bytes(b"[" * 200_000)
    (results / "notes.txt").write_text("mine")
    lstat = Path.lstat

    def refuse(path: Path) -> os.stat_result:
        if path.parent.name == "unreadable":
            raise PermissionError(13, "Permission denied", str(path))
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", refuse)
    told: list[str] = []
    seen = collect(results, watch=lambda progress: told.append(progress.line))
    assert [collected.folder for collected in seen] == [result]
    assert len(told) == 7
    for name in ("dangling", "loop", "fifo", "folder", "hollow", "unreadable", "deep"):
        assert sum(f"/{name}" in line for line in told) == 1
