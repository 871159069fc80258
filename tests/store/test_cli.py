"""The commands print results to stdout, the rest to stderr, and tell failures in two lines."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from store_factories import block, encoder_spec, fingerprint, register, sealed_split, write_part

from linprobe.door import VERBS, main
from linprobe_store.handles.store import FeatureStore


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command as the script does."""

    def call(*args: str | Path) -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        monkeypatch.setattr(sys, "argv", ["linprobe", "store", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return Result(int(caught.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two encoders: one with a sealed split, one with a part only."""
    sealed_split(tmp_path / "store", (2000, 10))
    other = register(tmp_path / "store", encoder_spec(4, 3, weights="7"))
    write_part(other, fingerprint(0), block(other.spec, 3))
    return tmp_path / "store"


def as_json(result: Result) -> dict[str, Any]:
    assert result.code == 0
    value = json.loads(result.out)
    assert isinstance(value, dict)
    return value


def test_ls_shows_every_encoder_dataset_and_split(cli: Cli, store: Path) -> None:
    result = cli("ls", "--store", store)

    assert (result.code, result.err) == (0, "")
    header, *lines = result.out.splitlines()
    assert header.split()[:6] == ["encoder", "id", "dataset", "id", "split", "rows"]
    assert any("1 parts, not sealed" in line and "pre_projection 3" in line for line in lines)
    assert any("Pets" in line and "train" in line and "2,010" in line for line in lines)


def test_ls_lists_a_damaged_split_and_goes_on(cli: Cli, store: Path) -> None:
    next(store.rglob("sets/ds-*/train/COMMIT.json")).unlink()

    listed = as_json(cli("ls", "--store", store, "--json"))["datasets"]

    states = [split["state"] for entry in listed for split in entry["splits"]]
    assert states == ["damaged"]
    assert "damaged" in cli("ls", "--store", store).out


def test_ls_of_an_empty_folder_is_no_error(cli: Cli, tmp_path: Path) -> None:
    result = cli("ls", "--store", tmp_path)

    assert (result.code, result.out) == (0, "")
    assert "empty" in result.err
    assert as_json(cli("ls", "--store", tmp_path, "--json"))["datasets"] == []


def test_show_tells_the_identity_and_the_splits(cli: Cli, store: Path) -> None:
    encoder = FeatureStore(store).encoder(encoder_spec().encoder_id)

    text = cli("show", encoder.short_id, "--store", store).out
    value = as_json(cli("show", encoder.short_id, "--store", store, "--json"))

    for word in (encoder.encoder_id, "quick_gelu", "embedding 5", "2,010 rows", "Pets"):
        assert word in text
    assert value["spec"]["weights_sha256"] == "0" * 64
    assert value["datasets"][0]["splits"][0]["rows"] == 2010


def test_verify_finds_what_is_wrong_and_exits_1(cli: Cli, store: Path) -> None:
    assert cli("verify", "--store", store, "--deep").code == 0
    path = next(store.rglob("sets/ds-*/train/data.zarr/features_embedding/c/0/0"))
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)

    shallow = cli("verify", "--store", store)
    deep = cli("verify", "--store", store, "--deep")

    assert shallow.code == 0
    assert deep.code == 1
    assert "crc32c" in deep.out
    assert deep.err.splitlines()[0].startswith("error: ")
    assert "1 of 7 units" in deep.err
    assert "gc --damaged" in deep.err.splitlines()[1]


def test_gc_damaged_removes_the_unit_that_fails_and_only_that(cli: Cli, store: Path) -> None:
    path = next(store.rglob("parts/part-train-00001*/COMMIT.json"))
    path.write_bytes(b"{}")

    dry = as_json(cli("gc", "--store", store, "--damaged", "--dry-run", "--json"))
    assert path.exists()
    wet = cli("gc", "--store", store, "--damaged")

    assert [item["path"] for item in dry["leftovers"]] == [str(path.parent)]
    assert str(path.parent) in wet.out
    assert not path.parent.exists()
    assert cli("verify", "--store", store, "--deep").code == 0


def test_gc_damaged_spares_what_another_version_wrote(cli: Cli, store: Path) -> None:
    path = next(store.rglob("parts/part-train-00001*/COMMIT.json"))
    path.write_text(path.read_text().replace('"version":3', '"version":4'))

    result = as_json(cli("gc", "--store", store, "--damaged", "--json"))

    assert result["leftovers"] == []
    assert path.exists()
    assert cli("verify", "--store", store).code == 1


def test_rm_asks_and_removes_only_what_it_named(cli: Cli, store: Path) -> None:
    encoder = FeatureStore(store).encoder(encoder_spec().encoder_id)
    base = ("rm", encoder.short_id, "--store", store)

    refused = cli(*base)
    assert refused.code == 1
    assert str(encoder.path) in refused.err
    assert encoder.path.exists()

    assert cli(*base, "--dataset", "", "--yes").code == 1
    assert cli(*base, "--split", "", "--yes").code == 1
    assert encoder.path.exists()

    assert cli(*base, "--parts", "--yes").code == 0
    assert FeatureStore(store).split("train", encoder=encoder.short_id).n == 2010
    assert cli(*base, "--dataset", "Pets", "--split", "train", "--yes").code == 0
    assert encoder.dataset("Pets").splits == ()
    assert cli(*base, "--dataset", "Pets", "--split", "train", "--yes").code == 1
    assert as_json(cli(*base, "--dataset", "Pets", "--yes", "--json"))["bytes"] > 0
    assert encoder.datasets() == ()
    assert cli(*base, "--yes").code == 0
    assert len(FeatureStore(store).encoders()) == 1
    assert list(store.rglob("tmp-*")) == []
    assert cli("gc", "--store", store).err == "removed 0, 0 B\n"


def test_import_export_and_copy_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float16)
    np.savez(tmp_path / "a.npz", features=x, labels=np.arange(50) % 3)
    (tmp_path / "names.txt").write_text("cat\ndog\neel\n")
    names = ("--encoder-name", "Theirs", "--dataset", "Pets", "--store", tmp_path / "s")
    classes = ("--classes", tmp_path / "names.txt")
    importing = ("import", "--split", f"test={tmp_path}/a.npz", *names, *classes)

    imported = as_json(cli(*importing, "--json"))
    text = cli(*importing)
    exported = cli("export", tmp_path / "out.npy", "--split", "test", "--store", tmp_path / "s")
    npz = ("export", tmp_path / "out.npz", "--split", "test", "--store", tmp_path / "s")
    told = as_json(cli(*npz, "--json"))
    packed = cli("copy", tmp_path / "s", tmp_path / "p", "--pack")
    listed = cli("ls", "--store", tmp_path / "p").out
    copied = as_json(cli("copy", tmp_path / "p", tmp_path / "b", "--json"))

    assert imported["splits"][0]["rows"] == 50
    assert "theirs" in text.out
    assert exported.out.splitlines() == [str(tmp_path / "out.npy"), str(tmp_path / "out.csv")]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), x)
    assert (told["paths"], told["rows"]) == ([str(tmp_path / "out.npz")], 50)
    assert told["bytes"] == (tmp_path / "out.npz").stat().st_size
    assert packed.out.startswith("1 splits copied")
    assert "packed" in listed
    assert copied["splits"][0]["digest"] == imported["splits"][0]["digest"]
    assert FeatureStore(tmp_path / "b").split("test").classes == ("cat", "dog", "eel")


def test_import_tells_when_a_name_is_taken_by_other_features(cli: Cli, tmp_path: Path) -> None:
    for name in "ab":
        x = np.full((4, 2), ord(name), np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, y=np.arange(4))
    names = ("--encoder-name", "Theirs", "--dataset", "Pets", "--store", tmp_path / "s")

    first, second, again = (
        cli("import", "--split", f"test={tmp_path}/{name}.npz", *names) for name in "abb"
    )

    assert first.err == again.err == ""
    assert "'Theirs' is already the name of other features" in second.err


def test_import_tells_which_name_and_metric_a_dataset_keeps(cli: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((4, 2), "f2"), y=np.arange(4))
    base = ("import", "--split", f"test={tmp_path}/a.npz", "--encoder-name", "Theirs",
            "--store", tmp_path / "s")  # fmt: skip

    first = cli(*base, "--dataset", "caltech101", "--metric", "mean_per_class")
    again = cli(*base, "--dataset", "mydata", "--metric", "top1")
    same = cli(*base, "--dataset", "caltech101")
    shown = cli("show", "--store", tmp_path / "s")

    assert first.err == same.err == ""
    name, metric = again.err.splitlines()
    assert name == "these rows are in the store already as 'caltech101', and keep that name"
    assert "keeps the metric it was imported with (mean_per_class)" in metric
    assert "linprobe probe --metric top1" in metric
    assert "metric         mean_per_class" in shown.out


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("show", "nothing"), 1, "no encoder called 'nothing'"),
        (("rm",), 2, "Missing argument"),
        (("ls", "--nonsense"), 2, "nonsense"),
        (("export", "x.npz", "--split", "val", "--encoder", "{id}"), 1, "'val' is not sealed"),
    ],
)
def test_failures_are_two_lines_and_usage_is_exit_code_2(
    cli: Cli, store: Path, args: tuple[str, ...], code: int, told: str
) -> None:
    filled = [arg.format(id=encoder_spec().encoder_id) for arg in args]

    result = cli(*filled, "--store", store)

    assert result.code == code
    assert result.out == ""
    assert told in result.err
    if code == 1:
        error, hint = result.err.splitlines()
        assert error.startswith("error: ")
        assert hint.startswith("hint: ")


def test_every_command_and_option_has_a_help_text(cli: Cli) -> None:
    listed = cli("--help").out
    commands = [verb.words.split()[1] for verb in VERBS if verb.words.startswith("store ")]
    for command in commands:
        assert command in listed
        lines = cli(command, "--help").out
        assert len(lines.split("Usage")[1].splitlines()) > 4


def test_names_in_a_store_do_not_act_on_the_terminal(tmp_path: Path, cli: Cli) -> None:
    name = "Pets\x1b]0;owned\x07\nencoder  none\u202e"
    np.savez(tmp_path / "a.npz", features=np.ones((2, 3), "f4"), labels=np.arange(2))
    where = ["--store", tmp_path / "s"]
    given = ["--split", f"train={tmp_path}/a.npz", "--encoder-name", name, "--dataset", name]
    results = [cli("import", *given, *where)]
    results += [cli(*words, *where) for words in (["ls"], ["show", name], ["verify"])]
    shown = cli("show", name, "--json", *where)

    for result in (*results, shown):
        assert result.code == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(result.out + result.err)
        assert "\nencoder  none" not in result.out
    assert r"Pets\x1b]0;owned\x07\nencoder  none\u202e" in results[1].out
    assert json.loads(shown.out)["names"]["model"] == name
