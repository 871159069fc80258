"""What the documents say is what the scripts do."""

import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from linprobe.door import VERBS, Verb, app

ROOT = Path(__file__).parents[2]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_make_target_that_a_document_names_exists() -> None:
    documents = [ROOT / "README.md", *ROOT.glob("*/README.md"), ROOT / "CHANGELOG.md"]
    named = {
        target
        for document in documents
        for target in re.findall(r"(?:^|[`$] ?|    )make ([a-z]+)", document.read_text(), re.M)
    }

    assert named
    assert named <= make_targets()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.words)
def test_the_table_of_verbs_says_what_the_functions_say(verb: Verb) -> None:
    module, _, function = verb.home.partition(":")
    if module.startswith("linprobe_extract"):
        pytest.importorskip("torch", reason="needs the extra extract")
    text = getattr(import_module(module), function).__doc__

    assert text.splitlines()[0] == verb.help


def test_help_of_a_verb_shows_its_options() -> None:
    for words in (["probe"], ["store", "import"]):
        done = CliRunner().invoke(app, [*words, "--help"])
        assert "--store" in done.stdout


def test_no_absolute_path_of_a_home_or_work_folder_is_in_the_project() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    for name in tracked or [str(p.relative_to(ROOT)) for p in ROOT.glob("*/**/*.py")]:
        if name != "tests/project/test_docs.py" and (ROOT / name).suffix in (".py", ".md", ".toml"):
            assert not re.search(r"/(?:root|home|work)/", (ROOT / name).read_text()), name
