"""What a person is told: next commands, tables, progress."""

import io
import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linprobe.names import csv_cell
from linprobe.terminal import (
    MAKE_VARIABLE,
    Progress,
    command,
    emit,
    emit_json,
    human_age,
    human_bytes,
    json_text,
    note,
    one_line,
    printable,
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


@pytest.mark.parametrize("option", ["model", "data", "store", "protocol"])
def test_make_does_not_run_what_stands_in_a_name(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setenv(MAKE_VARIABLE, "linprobe")
    name = "$(shell touch${IFS}x)"

    line = command("probe", **{option: name})

    assert shlex.split(line) == ["linprobe", "probe", f"--{option}", name]


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


HOSTILE = {
    "\x1b[31mred\x1b[0m": "\\x1b[31mred\\x1b[0m",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "\x9b2J": "\\x9b2J",
    "over\rwritten\x08\x7f": "over\\rwritten\\x08\\x7f",
    "a\tb\x00": "a\\tb\\x00",
    "\u202egnp.exe\u2066": "\\u202egnp.exe\\u2066",
    "lone\udcff": "lone\\udcff",
    "next\u2028line\u2029\x85": "next\\u2028line\\u2029\\x85",
}


@pytest.mark.parametrize(("text", "shown"), HOSTILE.items())
def test_what_would_act_on_a_terminal_is_shown_as_escapes(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    emit(f"{text}\nnext")
    note(f"{text}\nnext")

    assert printable(text) == shown
    assert capsys.readouterr() == (f"{shown}\nnext\n", f"{shown}\\nnext\n")


def test_letters_of_every_language_are_shown_as_they_are() -> None:
    text = "naïve 日本語 עברית العربية 🦩 [red] \\x1b"

    assert printable(text) == one_line(text) == text


@given(st.text(st.characters(codec=None)))
def test_json_keeps_the_data_and_holds_nothing_that_acts(text: str) -> None:
    written = json_text({"name": text})

    assert json.loads(written) == {"name": text}
    assert printable(written) == written


def test_a_name_keeps_to_its_cell() -> None:
    table = text_table(("name", "rows"), [("a\nb\tc\x1b", "1"), ("d", "2")], "<>")

    assert table.splitlines() == ["name         rows", r"a\nb\tc\x1b     1", "d               2"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_lacks_a_character_gets_its_escape(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    emit("日本 \udcff")
    emit_json({"name": "日本 \udcff"})
    note("日本")
    out.seek(0)
    err.seek(0)

    first, _, rest = out.read().partition("\n")
    assert first == r"\u65e5\u672c \udcff"
    assert json.loads(rest) == {"name": "日本 \udcff"}
    assert err.read() == "\\u65e5\\u672c\n"


def test_names_in_a_bar_are_no_markup_format_or_emoji(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    name = "[red]{x}:smile:[link=http://a.b][/]"
    with watching(name) as watch:
        watch(Progress(1, 2, name, line=f"{name}\x1b]0;title\x07\nnext"))

    err = capsys.readouterr().err
    assert err.count(name) >= 3
    assert r"\x1b]0;title\x07\nnext" in err
    assert "\x1b]" not in err


def test_the_guard_of_cells_changes_texts_that_spreadsheets_run_alone() -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"]

    assert [csv_cell(text, guard=True) for text in texts] == [f"'{text}" for text in texts]
    assert [csv_cell(text, guard=False) for text in texts] == texts
    assert csv_cell("a=b", guard=True) == "a=b"
    assert csv_cell("", guard=True) == ""


def test_a_name_without_end_makes_no_table_without_end() -> None:
    table = text_table(("name", "n"), [("x" * 1_000_000, "1"), *[("y", "2")] * 100], "<>")

    assert len(table) < 200_000
    assert f"{'x' * 1000}...  1" in table
