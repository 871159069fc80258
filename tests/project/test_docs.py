"""What the documents say is what the scripts do."""

import re
import subprocess
from pathlib import Path

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


def test_no_absolute_path_of_a_home_or_work_folder_is_in_the_project() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    for name in tracked or [str(p.relative_to(ROOT)) for p in ROOT.glob("*/**/*.py")]:
        if name != "tests/project/test_docs.py" and (ROOT / name).suffix in (".py", ".md", ".toml"):
            assert not re.search(r"/(?:root|home|work)/", (ROOT / name).read_text()), name
