"""What the documents for contributors name is there: files, tests, targets, imports."""

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TypeGuard

import pytest

import linprobe

ROOT = Path(__file__).parents[2]
PACKAGES = ("linprobe", "linprobe_extract", "linprobe_store", "linprobe_train")
SOURCES = {
    path: path.read_text(encoding="utf-8")
    for stage in ("extract", "store", "train")
    for path in sorted((ROOT / stage).rglob("*.py"))
}
BETWEEN_OUR_STAGES = "linprobe.image_features"
"""The one entry-point group that is no place for a user to add something."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows_of_table(document: str, *head: str) -> list[list[str]]:
    """Cells of the table of a document whose head is this."""
    lines = [line.strip() for line in read(document).splitlines()]
    start = lines.index(f"| {' | '.join(head)} |") + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def to_add() -> list[list[str]]:
    return rows_of_table("CONTRIBUTING.md", "to add", "here", "outside", "held by")


def groups_of(text: str) -> set[str]:
    """Entry-point groups that a text names in code quotes."""
    return set(re.findall(r"`(linprobe\.\w+)`", text))


@pytest.mark.parametrize(("what", "ours", "outside", "test"), to_add())
def test_each_line_of_the_table_names_its_place_and_a_test_that_adds_one(
    what: str, ours: str, outside: str, test: str
) -> None:
    *names, place = re.findall(r"`([^`]+)`", ours)
    file, _, function = test.strip("`").partition("::")
    tests = {node.name for node in ast.walk(ast.parse(read(file))) if _is_function(node)}

    assert (ROOT / place).exists(), what
    assert function in tests
    for name in names:
        assert name in read(place)
    for word in re.findall(r"`(?:--)?([^`]+)`", outside):
        assert any(word in text for text in SOURCES.values()), word
    for group in groups_of(outside):
        assert f"{group}]" in read(file) or f'"{group}"' in read(file)


def _is_function(node: ast.AST) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef)


def test_every_entry_point_group_that_the_code_reads_is_in_the_table() -> None:
    readers = [
        text
        for text in SOURCES.values()
        if re.search(r"entry_points\(|declared\(|installed\(", text)
    ]
    groups = {group for text in readers for group in re.findall(r'"(linprobe\.[a-z_]+)"', text)}

    assert groups - {BETWEEN_OUR_STAGES} == groups_of(" ".join(row[2] for row in to_add()))


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/architecture.md", "SECURITY.md"])
def test_every_path_that_a_document_names_exists(document: str) -> None:
    roots = [ROOT, *(path for package in PACKAGES for path in ROOT.glob(f"*/{package}"))]
    words = re.findall(r"`([\w./]+(?:/|/[\w.]+))`", read(document))

    assert words or document == "SECURITY.md"
    for word in words:
        assert any((root / word).exists() for root in roots), word


def test_the_floors_that_the_architecture_draws_are_the_import_contracts() -> None:
    contracts = re.findall(
        r'containers = \["(\w+)"\]\nexhaustive = true\nlayers = \[(.*?)\]',
        read("pyproject.toml"),
        re.DOTALL,
    )
    drawn = {
        package.strip("`"): [re.findall(r"\w+", floor) for floor in floors.split(" > ")]
        for package, floors in rows_of_table(
            "docs/architecture.md", "package", "floors, the highest first"
        )
    }

    assert contracts
    for package, layers in contracts:
        floors = [re.findall(r"\w+", floor) for floor in re.findall(r'"([^"]+)"', layers)]
        assert drawn[package] == floors


def test_the_workflow_and_the_documents_name_make_targets() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    for document in (".github/workflows/ci.yml", "CONTRIBUTING.md", ".pre-commit-config.yaml"):
        named = set(re.findall(r"(?:`|run: |^    )make ([a-z]+)", read(document), re.MULTILINE))

        assert named
        assert named <= targets


def test_every_import_that_the_changelog_gives_works() -> None:
    table = rows_of_table("CHANGELOG.md", "import in 0.1", "in 0.2")
    imports = re.findall(r"`from ([\w.]+) import ([^`]+)`", " ".join(row[-1] for row in table))

    assert imports
    for module, names in imports:
        if module.startswith("linprobe_extract") and find_spec("torch") is None:
            continue
        for name in names.split(", "):
            assert module != "linprobe" or name in dir(linprobe)
            assert name == "Encoder" or hasattr(import_module(module), name), (module, name)


def test_the_version_is_said_once_and_cited_alike() -> None:
    (version,) = re.findall(r'^version = "(.+)"$', read("pyproject.toml"), re.MULTILINE)

    assert f"\nversion: {version}\n" in read("CITATION.cff")
    assert f"\n## {version}" in read("CHANGELOG.md")


def test_rooms_and_modules_keep_to_the_sizes_that_contributing_says() -> None:
    stages = (ROOT / stage for stage in ("extract", "store", "train"))
    for module in [path for stage in stages for path in stage.rglob("*.py")]:
        assert len(module.read_text().splitlines()) <= 290, module
        assert len([p for p in module.parent.glob("*.py") if p.name != "__init__.py"]) <= 13, module
