"""The notebook of the documents, its cells run one after the other in a folder of its own."""

import ast
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from linprobe.door import app

NOTEBOOK = Path(__file__).parents[2] / "docs" / "from_images_to_a_report.ipynb"


def run_cell(source: str, names: dict[str, object]) -> object:
    """Run a cell as Jupyter does: a command of the shell, or code whose last value is shown."""
    if source.startswith("!linprobe "):
        words = shlex.split(source.removeprefix("!linprobe "))
        ran = CliRunner().invoke(app, words, catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        return ran.output
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_the_notebook_goes_from_images_to_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") for cell in cells)
    names: dict[str, object] = {}
    shown = [run_cell(source, names) for source in sources]

    last: Any = shown[-1]
    report, result, score = last
    assert report == "report.html"
    assert "3 classes: one, two, zero" in repr(result)
    assert score > 0.5
    text = " ".join(map(repr, shown))
    assert "Encoder('demo'" in text
    assert "ImagePredictions(6 images; 0: " in text
    assert "Split(test of photos by demo: " in text
