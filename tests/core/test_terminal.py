"""What a person is told: next commands, tables, progress."""

import shlex
from pathlib import Path

import pytest

from linprobe.terminal import (
    MAKE_VARIABLE,
    Progress,
    command,
    human_age,
    human_bytes,
    text_table,
    watching,
)


@pytest.fixture(autouse=True)
def _no_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MAKE_VARIABLE, raising=False)


def test_a_next_command_can_be_pasted_into_a_shell() -> None:
    text = command("probe", store=Path("my features"), model="ViT-B/16", all=True, tap=None, C=0.5)

    assert shlex.split(text) == [
        "linprobe", "probe", "--store", "my features", "--model", "ViT-B/16", "--all", "--C", "0.5",
    ]  # fmt: skip
    assert command("store rm", "an encoder", yes=False) == "linprobe store rm 'an encoder'"
    assert command("extract", data="pets") == "linprobe extract --model MODEL --data pets"
    assert command("probe", data=["a", "b"]) == "linprobe probe --data a --data b"


def test_after_a_make_target_the_next_command_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MAKE_VARIABLE, ".venv/bin/linprobe")

    assert command("probe", store="features", model="demo") == "make probe MODEL=demo"
    assert command("probe", store="old store", data=["a", "b"], protocol="clip-readme") == (
        "make probe DATA='a b' STORE='old store' ARGS='--protocol clip-readme'"
    )
    assert command("extract") == "make extract MODEL=MODEL DATA=DATA"
    for data in ("my pets", "cub/birds"):
        assert command("probe", data=data).startswith(".venv/bin/linprobe probe --data ")
    assert command("store ls", store="x") == ".venv/bin/linprobe store ls --store x"
    assert command("report", "results/a") == ".venv/bin/linprobe report results/a"


def test_the_numbers_in_a_table_stand_below_each_other() -> None:
    table = text_table(("name", "rows"), [("a", "1,000"), ("longer", "2")], "<>")

    assert table.splitlines() == ["name     rows", "a       1,000", "longer      2"]


def test_sizes_and_ages_are_written_as_people_read_them() -> None:
    assert [human_bytes(n) for n in (0, 999, 1_970_000_000, 5e15)] == [
        "0 B", "999 B", "1.97 GB", "5000 TB",
    ]  # fmt: skip
    assert [human_age(s) for s in (3, 180, 7200, 200_000, 1e9)] == [
        "3 s", "3 min", "2 h", "2 d", "31.7 y",
    ]  # fmt: skip


def test_without_a_terminal_only_the_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with watching("packing") as watch:
        watch(Progress(1, 2, "images"))
        watch(Progress(2, 2, "images", detail="9 images/s", line="a shard was skipped"))

    out, err = capsys.readouterr()
    assert (out, err) == ("", "a shard was skipped\n")


def test_on_a_terminal_a_bar_is_drawn_and_the_lines_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with watching("packing") as watch:
        watch(Progress(1, 2, "images", detail="9 images/s", line="[a] line"))

    err = capsys.readouterr().err
    assert "packing" in err
    assert "1/2" in err
    assert "[a] line" in err
