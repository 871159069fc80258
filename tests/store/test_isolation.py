"""One bad thing is named and stops nothing else."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from result_factories import CLASSES, some_splits
from store_command import run_command
from store_factories import unprivileged
from train_factories import stored_dataset

from linprobe.errors import IntegrityError, NotFoundError, StoreError
from linprobe.records import canonical_json, digest_json
from linprobe_store.care.remove import find_unit
from linprobe_store.format.spec import EncoderNames
from linprobe_store.handles.store import FeatureStore

Fault = Callable[[Path], object]


@contextmanager
def unprivileged_in(root: Path) -> Iterator[None]:
    """Without root's privilege in a store; what its commands import may not be read then."""
    for verb in ("ls", "gc", "verify", "show"):
        run_command("store", verb, "--store", root)
    with unprivileged():
        yield


def edit_names(folder: Path, **changes: object) -> None:
    """Rewrite names.json with other fields, under a digest that is right."""
    path = folder / "names.json"
    fields = json.loads(path.read_bytes())
    fields = {name: value for name, value in fields.items() if name != "digest"} | changes
    path.write_bytes(canonical_json({**fields, "digest": digest_json(fields)}))


def become(path: Path, make: Callable[[Path], object]) -> None:
    shutil.rmtree(path)
    make(path)


BROKEN: dict[str, tuple[Fault, str]] = {
    "no spec": (
        lambda path: next(path.glob("*er.json"), path / "dataset.json").unlink(),
        "missing",
    ),
    "empty spec": (lambda path: os.truncate(spec_of(path), 0), "truncated"),
    "cut spec": (lambda path: os.truncate(spec_of(path), 40), "json"),
    "no names": (lambda path: (path / "names.json").unlink(), "names.json: missing"),
    "cut names": (lambda path: os.truncate(path / "names.json", 10), "names.json"),
    "names of another version": (lambda path: edit_names(path, version=9), "linprobe-store 9"),
    "unknown field in names": (lambda path: edit_names(path, color="red"), "color"),
    "empty folder": (lambda path: become(path, Path.mkdir), "missing"),
    "a file": (lambda path: become(path, Path.touch), "expected a folder, found a file"),
    "a link to nothing": (lambda path: become(path, lambda p: p.symlink_to("gone")), "a link to"),
    "renamed": (lambda path: path.rename(path.with_name(path.name[:-1] + "x")), "expected an id"),
    "not UTF-8": (
        lambda path: shutil.copytree(path, os.fsdecode(os.fsencode(path)[:-3] + b"\xff12")),
        "expected an id",
    ),
}
"""What is done to a folder of an encoder or dataset, and what is told."""


def spec_of(path: Path) -> Path:
    return path / ("encoder.json" if path.name.startswith("enc-") else "dataset.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two encoders; the first has two datasets. Each dataset has a train and a test split."""
    root = tmp_path_factory.mktemp("isolation")
    for model, name in (("good", "Pets"), ("good", "Toys"), ("bad", "Pets")):
        stored_dataset(root, some_splits(60), classes=CLASSES, model=model, name=name)
    return root


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "store", symlinks=True))


@pytest.fixture
def open_store(whole: Path) -> Iterator[Path]:
    """A copy where anybody may go, unlike the folders of pytest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(shutil.copytree(whole, Path(folder, "store"), symlinks=True))
        root.chmod(0o755)
        yield root
        for path in root.glob("enc-*"):
            path.chmod(0o755)


def commands(store: Path, out: Path, model: str) -> dict[str, tuple[str | Path, ...]]:
    """Every command that looks at a store, for an encoder that is sound."""
    of, to = ("--store", store), ("--out", out)
    return {
        "ls": ("store", "ls", *of),
        "ls --json": ("store", "ls", *of, "--json"),
        "show": ("store", "show", model, *of),
        "gc": ("store", "gc", *of),
        "export": ("store", "export", out / "x.npz", "--split", "test", "--encoder", model,
                   "--dataset", "Pets", *of),
        "copy": ("store", "copy", store, out / "copied", "--encoder", model, "--dataset", "Pets"),
        "probe": ("probe", "--model", model, "--data", "Pets", "--C", "1", *of, *to),
        "probe --all": ("probe", "--all", "--jobs", "1", "--C", "1", *of, *to),
        "knn": ("knn", "--model", model, "--data", "Pets", "--k", "3", *of, *to),
        "fewshot": ("fewshot", "--model", model, "--data", "Pets", "--shots", "2",
                    "--repeats", "1", *of, *to),
        "rm": ("store", "rm", model, *of, "--dataset", "Pets", "--split", "train", "--yes"),
    }  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_encoder_stops_no_command_for_another(
    store: Path, tmp_path: Path, fault: str
) -> None:
    spoil, told = BROKEN[fault]
    (folder,) = store.glob("enc-bad-*")
    spoil(folder)

    done = {name: run_command(*words) for name, words in fast(commands(store, tmp_path, "good"))}

    assert {name: (result.code, result.err) for name, result in done.items() if result.code} == {}
    assert told in done["ls"].out
    (broken,) = json.loads(done["ls --json"].out)["broken"]
    assert broken["kind"] == "encoder"
    assert told in broken["reason"]
    assert broken["next"]
    for name in ("show", "export", "rm"):
        assert told in done[name].err, name
        assert "left out: " in done[name].err
    verified = run_command("store", "verify", "--store", store)
    assert verified.code == 1
    assert told in verified.out


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_dataset_stops_no_command_for_another(
    store: Path, tmp_path: Path, fault: str
) -> None:
    spoil, told = BROKEN[fault]
    (folder,) = store.glob("enc-good-*/sets/ds-toys-*")
    spoil(folder)

    done = {name: run_command(*words) for name, words in fast(commands(store, tmp_path, "good"))}

    assert {name: result.err for name, result in done.items() if result.code} in (
        {},
        {"copy": done["copy"].err},
    )
    assert told in done["ls"].out
    assert [item["kind"] for item in json.loads(done["ls --json"].out)["broken"]] == ["dataset"]
    for name in ("show", "export", "rm"):
        assert told in done[name].err + done[name].out, name
    assert run_command("store", "verify", "--store", store).code == 1


def fast(commands: dict[str, tuple[str | Path, ...]]) -> list[tuple[str, tuple[str | Path, ...]]]:
    """The commands that fit nothing."""
    slow = ("probe", "probe --all", "knn", "fewshot")
    return [(name, words) for name, words in commands.items() if name not in slow]


def test_the_commands_that_fit_go_on_too(store: Path, tmp_path: Path) -> None:
    (folder,) = store.glob("enc-bad-*")
    (folder / "encoder.json").unlink()
    (dataset,) = store.glob("enc-good-*/sets/ds-toys-*")
    os.truncate(dataset / "names.json", 3)

    for name, words in commands(store, tmp_path, "good").items():
        if name in ("probe", "probe --all", "knn", "fewshot"):
            done = run_command(*words)
            # What "all" leaves out is a gap, though everything else was probed.
            assert done.code == (name == "probe --all"), (name, done.err)
            assert "encoder.json: missing" in done.err, name
            assert "ds-toys" in done.err, name


def test_a_damaged_split_of_one_dataset_leaves_the_probes_of_the_others(
    store: Path, tmp_path: Path
) -> None:
    (commit,) = store.glob("enc-good-*/sets/ds-toys-*/test/COMMIT.json")
    commit.unlink()

    done = run_command("probe", "--model", "good", "--C", "1", "--store", store, "--out", tmp_path)

    assert done.code == 0, done.err
    assert "Pets" in done.out
    assert "COMMIT.json: missing" in done.err
    named = ("probe", "--model", "good", "--data", "Toys", "--C", "1")
    assert run_command(*named, "--store", store, "--out", tmp_path).code == 1


@pytest.mark.parametrize("name", ["sets", "parts"])
@pytest.mark.parametrize("kind", ["a file", "a link to nothing", "unreadable"])
def test_a_folder_of_an_encoder_that_cannot_be_listed_is_told(
    open_store: Path, name: str, kind: str
) -> None:
    (encoder,) = open_store.glob("enc-bad-*")
    (encoder / "parts").mkdir(exist_ok=True)
    shutil.rmtree(encoder / name)
    if kind == "a file":
        (encoder / name).touch()
    elif kind == "a link to nothing":
        (encoder / name).symlink_to("gone")
    else:
        (encoder / name).mkdir(mode=0)

    with unprivileged_in(open_store):
        listed, gone = (run_command("store", verb, "--store", open_store) for verb in ("ls", "gc"))
        verified = run_command("store", "verify", "--store", open_store)
        show = run_command("store", "show", "bad", "--store", open_store)
        asked = run_command("store", "export", open_store.parent / "x.npz", "--split", "test",
                            "--encoder", "bad", "--store", open_store)  # fmt: skip

    told = "Permission denied" if kind == "unreadable" else f"expected a folder, found {kind}"
    for result in (listed, verified):
        assert told in result.out
    assert (listed.code, gone.code, show.code, verified.code) == (0, 0, 0, 1)
    assert told in gone.err or "is a link" in gone.err
    if name == "sets":
        assert asked.code == 1
        assert told in asked.err


def test_an_encoder_that_may_not_be_entered_is_told(open_store: Path) -> None:
    (encoder,) = open_store.glob("enc-bad-*")
    encoder.chmod(0)

    with unprivileged_in(open_store):
        results = [
            run_command("store", verb, "--store", open_store) for verb in ("ls", "gc", "verify")
        ]
        damaged = run_command(
            "store", "gc", "--damaged", "--dry-run", "--json", "--store", open_store
        )

    encoder.chmod(0o755)
    assert [result.code for result in results] == [0, 0, 1]
    assert all("Permission denied" in result.out + result.err for result in results)
    assert json.loads(damaged.out)["leftovers"] == []


@pytest.mark.parametrize("query", ["bad", "BAD", "digits", "id", "folder"])
def test_a_name_that_only_a_broken_one_has_says_so(store: Path, query: str) -> None:
    encoder = FeatureStore(store).encoder("bad")
    (encoder.path / "encoder.json").unlink()
    texts = {"digits": encoder.short_id[:5], "id": encoder.encoder_id, "folder": encoder.path.name}

    with pytest.raises(IntegrityError, match=r"is broken: .*encoder\.json: missing"):
        FeatureStore(store).encoder(texts.get(query, query))
    with pytest.raises(NotFoundError, match="nothing") as caught:
        FeatureStore(store).encoder("nothing")
    assert "1 cannot be opened" in caught.value.hint


def test_the_only_encoder_is_the_only_sound_one(store: Path) -> None:
    (next(store.glob("enc-bad-*")) / "encoder.json").unlink()
    told: list[str] = []

    encoder = FeatureStore(store).encoder(None, lambda progress: told.append(progress.line))

    assert encoder.names.model == "good"
    assert len(told) == 1
    (encoder.path / "encoder.json").unlink()
    with pytest.raises(IntegrityError, match="is broken"):
        FeatureStore(store).encoder()


def test_rm_takes_what_has_no_spec_by_its_folder_name(store: Path) -> None:
    (encoder,) = store.glob("enc-bad-*")
    (encoder / "encoder.json").unlink()
    (dataset,) = store.glob("enc-good-*/sets/ds-toys-*")
    (dataset / "dataset.json").unlink()
    words = ("store", "rm", "--store", store)

    asked = run_command(*words, encoder.name)
    taken = [
        run_command(*words, encoder.name, "--yes"),
        run_command(*words, "good", "--dataset", dataset.name, "--yes"),
    ]

    assert asked.code == 1
    assert str(encoder) in asked.err
    assert [result.code for result in taken] == [0, 0]
    assert not encoder.exists()
    assert not dataset.exists()
    assert run_command("store", "verify", "--store", store).code == 0


def test_gc_damaged_takes_what_has_no_spec_or_names(store: Path) -> None:
    (encoder,) = store.glob("enc-bad-*")
    (encoder / "encoder.json").unlink()
    (dataset,) = store.glob("enc-good-*/sets/ds-toys-*")
    os.truncate(dataset / "names.json", 5)
    (store / "enc-notes.txt").write_text("mine")

    done = run_command("store", "gc", "--damaged", "--store", store)

    assert done.code == 0
    assert not encoder.exists()
    assert not dataset.exists()
    assert (store / "enc-notes.txt").exists()
    (store / "enc-notes.txt").unlink()
    assert run_command("store", "verify", "--store", store, "--deep").code == 0


def test_gc_damaged_spares_names_of_another_version(store: Path) -> None:
    (encoder,) = store.glob("enc-bad-*")
    edit_names(encoder, version=9)

    done = run_command("store", "gc", "--damaged", "--store", store)

    assert done.code == 0
    assert (encoder / "encoder.json").exists()


def test_gc_damaged_spares_an_encoder_whose_witnesses_are_damaged(store: Path) -> None:
    (encoder,) = store.glob("enc-bad-*")
    (encoder / "canary").mkdir()
    (encoder / "provenance.jsonl").write_bytes(b'{"time":1}\n')

    verified = run_command("store", "verify", "--store", store)
    done = run_command("store", "gc", "--damaged", "--store", store)

    assert verified.code == 1
    assert verified.out.count("witness") == 2
    assert done.code == 0
    assert (encoder / "encoder.json").exists()


@pytest.mark.parametrize("change", ['"kind":"dataset-names"', '"model":"Bad"'])
def test_verify_checks_names(store: Path, change: str) -> None:
    """Names of another kind, and names without their digest (finding 16)."""
    (path,) = store.glob("enc-bad-*/names.json")
    field = change.partition(":")[0]
    fields = json.loads(path.read_bytes())
    fields[field.strip('"')] = json.loads(change.partition(":")[2])
    path.write_bytes(canonical_json(fields))

    done = run_command("store", "verify", "--store", store)

    assert done.code == 1
    assert "names.json" in done.out


def test_a_store_that_is_none_is_told(tmp_path: Path) -> None:
    for verb in ("ls", "verify", "gc"):
        for place in (tmp_path / "none", "s3://bucket/features"):
            done = run_command("store", verb, "--store", place)
            assert (done.code, done.out) == (1, "")
            assert "no such folder" in done.err or "found a URL" in done.err
    (tmp_path / "photo.jpg").touch()
    assert "expected a feature store" in run_command("store", "ls", "--store", tmp_path).err


def test_copy_leaves_out_what_is_broken_and_fails_at_the_end(store: Path, tmp_path: Path) -> None:
    (next(store.glob("enc-bad-*")) / "encoder.json").unlink()
    (commit,) = store.glob("enc-good-*/sets/ds-toys-*/train/COMMIT.json")
    commit.unlink()

    done = run_command("store", "copy", store, tmp_path / "copied")

    assert done.code == 1
    assert done.err.count("left out: ") == 2
    assert "2 left out that cannot be read" in done.err
    copied = FeatureStore(tmp_path / "copied")
    assert copied.encoder().dataset("Pets").splits == ("test", "train")
    assert copied.encoder().dataset("Toys").splits == ("test",)


def test_copy_goes_on_past_a_split_whose_bytes_are_damaged(store: Path, tmp_path: Path) -> None:
    (features,) = store.glob("enc-good-*/sets/ds-pets-*/test/data.zarr/features_embedding/c/0/0")
    content = features.read_bytes()
    features.write_bytes(bytes([content[0] ^ 1]) + content[1:])

    done = run_command("store", "copy", store, tmp_path / "copied")

    assert done.code == 1
    assert done.err.count(f"left out: {features}: expected crc32c ") == 1
    assert "gc --damaged --deep" in done.err.splitlines()[-1]
    copied = FeatureStore(tmp_path / "copied").encoder("good")
    assert copied.dataset("Pets").splits == ("train",)
    assert copied.dataset("Toys").splits == ("test", "train")


def test_names_are_among_the_sound_whatever_lies_beside(store: Path) -> None:
    (store / "enc-bad").mkdir()

    assert FeatureStore(store).encoder("bad").names == EncoderNames("bad", "bad")


def test_what_lies_behind_a_link_is_not_removed(store: Path, tmp_path: Path) -> None:
    (encoder,) = store.glob("enc-bad-*")
    encoder.rename(tmp_path / "elsewhere")
    encoder.symlink_to(tmp_path / "elsewhere")
    opened = FeatureStore(store)

    with pytest.raises(StoreError, match="is a link"):
        find_unit(opened, "bad", "Pets", None, parts=False)
    assert run_command("store", "rm", "bad", "--yes", "--store", store).code == 0

    assert not encoder.is_symlink()
    assert len(list((tmp_path / "elsewhere").glob("sets/ds-*/t*/COMMIT.json"))) == 2


def test_a_store_that_may_not_be_entered_is_told(open_store: Path) -> None:
    open_store.chmod(0)

    with unprivileged_in(open_store):
        results = [run_command("store", verb, "--store", open_store) for verb in ("ls", "verify")]
    open_store.chmod(0o755)

    assert [result.code for result in results] == [1, 1]
    assert all("Permission denied" in result.err for result in results)


HARMS: dict[str, Fault] = {
    "a file": Path.touch,
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
}
PLACES = (
    "sets", "sets/ds-*", "sets/ds-*/names.json", "sets/ds-*/train", "sets/ds-*/train/COMMIT.json",
    "parts", "parts/part-*train*",
)  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("place", PLACES)
def test_no_command_has_a_traceback_whatever_stands_in_the_place_of_a_file_or_folder(
    store: Path, tmp_path: Path, place: str, harm: str
) -> None:
    (encoder,) = store.glob("enc-bad-*")
    (spoilt,) = encoder.glob(place)
    shutil.rmtree(spoilt) if spoilt.is_dir() else spoilt.unlink()
    HARMS[harm](spoilt)
    of = ("--store", store)

    listed = run_command("store", "ls", *of)
    cleaned = run_command("store", "gc", "--damaged", "--dry-run", *of)
    verified = run_command("store", "verify", *of)
    copied = run_command("store", "copy", store, tmp_path / "copied")

    assert (listed.code, cleaned.code) == (0, 0)
    is_sound = harm == "a folder" and place in ("sets", "parts")  # they may be empty
    assert verified.code == (0 if is_sound else 1)
    assert copied.code in (0, 1)
    assert set(FeatureStore(tmp_path / "copied").encoder("good").dataset("Pets").splits) == {
        "test", "train",
    }  # fmt: skip
