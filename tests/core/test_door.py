"""The one command and the one import."""

import os
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

import linprobe
from linprobe.door import VERBS, Verb, app

STAGES = ("linprobe_extract", "linprobe_store", "linprobe_train")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "linprobe", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("words", [["--help"], ["store", "--help"], ["--version"]])
def test_no_stage_is_imported_before_its_verb_is_called(words: list[str]) -> None:
    code = (
        "import sys; from linprobe.door import app\n"
        f"try: app({words!r})\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'torch', 'zarr', 'sklearn', *"
        f"{STAGES!r}}} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr == "[]\n"


def test_the_version_is_that_of_the_distribution() -> None:
    assert run("--version").stdout == f"linprobe {version('linprobe')}\n"


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.words)
def test_the_table_of_verbs_says_what_the_functions_say(verb: Verb) -> None:
    module, _, function = verb.home.partition(":")
    text = getattr(import_module(module), function).__doc__

    assert text.splitlines()[0] == verb.help


def test_every_verb_is_listed_and_has_options() -> None:
    listed = run("--help").stdout + run("store", "--help").stdout
    for verb in VERBS:
        assert f" {verb.words.split()[-1]} " in listed
        done = CliRunner().invoke(app, [*verb.words.split(), "--help"])
        assert done.exit_code == 0
        assert "--" in done.stdout.split("Options:")[1]


def test_a_mistyped_verb_gets_the_right_one() -> None:
    done = run("prob")

    assert done.returncode == 2
    assert "probe" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("words", "completed"), [("pro", "probe"), ("store ver", "verify")])
def test_verbs_are_completed_in_the_shell(words: str, completed: str) -> None:
    asked = {"_LINPROBE_COMPLETE": "complete_bash", "COMP_WORDS": f"linprobe {words}"}
    code = "import sys; sys.argv[0] = 'linprobe'; from linprobe.door import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | asked | {"COMP_CWORD": str(len(words.split()))},
    )

    assert done.stdout.split() == [completed]


def test_a_verb_without_its_extra_names_the_extra_and_this_python() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv[1:] = ['doctor']\n"
        "from linprobe.door import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert "torch" in error
    assert f"{sys.executable} -m pip install 'linprobe[extract]'" in hint


def test_the_public_names_are_there_and_cost_nothing_before_they_are_used() -> None:
    code = (
        "import sys, linprobe; before = {'numpy', 'torch', 'zarr', 'sklearn'} & set(sys.modules)\n"
        "from linprobe import LinearProbe; print(before, 'sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set() True"
    with pytest.raises(AttributeError, match="nothing"):
        _ = linprobe.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", dir(linprobe))
def test_every_public_name_is_what_the_stub_says(name: str) -> None:
    if name in ("Encoder", "extract_features"):
        pytest.importorskip("torch")
    assert getattr(linprobe, name) is not None


def test_a_name_in_an_error_or_a_complaint_does_not_act(tmp_path: Path) -> None:
    name = "\x1b]0;owned\x07\nerror: nothing"
    done = run("store", "show", name, "--store", str(tmp_path))
    unknown = run("store", "ls", "--store", str(tmp_path), name)

    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
    assert unknown.returncode == 2
    assert r"\x1b]0;owned\x07\nerror: nothing" in done.stderr
    for text in (done.stderr, unknown.stderr):
        assert "owned" in text
        assert "\x1b" not in text


@pytest.mark.parametrize(
    "setting", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_a_terminal_without_unicode_is_no_traceback(
    setting: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "日本").mkdir()
    done = run(
        "store", "show", "日本", "--store", str(tmp_path), PYTHONCOERCECLOCALE="0", **setting
    )

    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
