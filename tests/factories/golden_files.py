"""Golden files: what the code made before a change, kept as small files under ``tests/golden``.

A capture gives texts by file name; :func:`check_golden` compares them with the files of
``tests/golden/<name>/``. To write the files anew, after a change that is meant to change them, and
to look at the difference::

    LINPROBE_UPDATE_GOLDEN=1 python -m pytest tests -k golden
    git diff tests/golden

JSON is compared by structure: strings, whole numbers and keys exactly, floats to a relative 1e-4.
Other text is compared as it is, but for numbers with a decimal point, which are floats too.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import chdir
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from linprobe.door import VERBS, app

GOLDEN = Path(__file__).parents[1] / "golden"
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
UPDATE = "LINPROBE_UPDATE_GOLDEN"
TERMINAL = {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}

Texts = Mapping[str, str]
"""Texts by the file name that each has below its folder of ``tests/golden``."""


def check_golden(name: str, texts: Texts) -> None:
    """Compare texts with the files of ``tests/golden/<name>``, or write those files anew."""
    folder = GOLDEN / name
    if os.environ.get(UPDATE) == "1":
        shutil.rmtree(folder, ignore_errors=True)
        for file, text in texts.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text, encoding="utf-8")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(texts) == files
    for file in sorted(files):
        expected = (folder / file).read_text(encoding="utf-8")
        if file.endswith(".json"):
            compare_json(json.loads(texts[file]), json.loads(expected), f"{name}/{file}")
        else:
            compare_text(texts[file], expected, f"{name}/{file}")


def compare_text(text: str, expected: str, place: str) -> None:
    """Compare two texts; numbers with a decimal point to a relative 1e-4."""
    decimal = re.compile(r"\d+\.\d+")
    if decimal.sub("#", text) != decimal.sub("#", expected):
        assert text == expected, place
    for number, other in zip(decimal.findall(text), decimal.findall(expected), strict=True):
        assert float(number) == pytest.approx(float(other), rel=1e-4), f"{place}: {number}"


def compare_json(value: object, expected: object, place: str) -> None:
    """Compare two JSON values; floats to a relative 1e-4."""
    assert type(value) is type(expected), place
    if isinstance(value, dict) and isinstance(expected, dict):
        assert sorted(value) == sorted(expected), place
        for key in expected:
            compare_json(value[key], expected[key], f"{place}: {key}")
    elif isinstance(value, list) and isinstance(expected, list):
        assert len(value) == len(expected), place
        for i, (item, other) in enumerate(zip(value, expected, strict=True)):
            compare_json(item, other, f"{place}[{i}]")
    elif isinstance(value, float):
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-9), place
    else:
        assert value == expected, place


def blanked(value: object, fields: frozenset[str]) -> object:
    """A JSON value with ``fields``, wherever they are, replaced by the word ``blank``."""
    if isinstance(value, dict):
        return {
            key: "blank" if key in fields else blanked(item, fields) for key, item in value.items()
        }
    return [blanked(item, fields) for item in value] if isinstance(value, list) else value


def json_text(value: object) -> str:
    """Readable JSON, one line at the end."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def file_table(folder: Path) -> str:
    """Sha256 and relative path of every file below a folder, and the target of every link.

    Left out: ``.cache``, which holds times of this machine.
    """
    lines = []
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")):
        path = folder / name
        if path.is_symlink():
            lines.append(f"link to {path.readlink()}  {name}")
        elif path.is_file() and ".cache" not in name.split("/"):
            lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}")
    return "\n".join(lines) + "\n"


def small_json_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The text of every file below a folder that has one of these names; links are not followed."""
    chosen = frozenset(names)
    files = [Path(root, name) for root, _, here in os.walk(folder) for name in here]
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in files
        if path.name in chosen
    }


def output_of(folder: Path, *words: str) -> str:
    """Run a command inside ``folder``; its stdout."""
    with chdir(folder):
        done = CliRunner().invoke(app, list(words), catch_exceptions=False, env=TERMINAL)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.stderr
    return done.stdout


def help_texts() -> dict[str, str]:
    """``--help`` of every verb, as ``<verb>.txt``, and of the groups.

    Its layout is of the tested release of Typer: with another the test is skipped.
    """
    tested = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    if f"typer=={version('typer')}" not in tested:
        pytest.skip("another Typer than constraints.txt names")
    texts = {}
    for words in ("", "store", *(verb.words for verb in VERBS)):
        asked = [*words.split(), "--help"]
        done = CliRunner().invoke(app, asked, env=TERMINAL, prog_name="linprobe")
        assert done.exit_code == 0, done.stderr
        texts[f"{words.replace(' ', '-') or 'linprobe'}.txt"] = done.stdout
    return texts


def visible_lines(html: str) -> list[str]:
    """The text of a page, an item an element, without styles, scripts and drawings."""
    return _VisibleText(html).lines


class _VisibleText(HTMLParser):
    """The text of a page, one line an element, without styles, scripts and drawings."""

    HIDDEN = ("style", "script", "svg")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.depth = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.depth += tag in self.HIDDEN

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag in self.HIDDEN

    def handle_data(self, data: str) -> None:
        if not self.depth and data.strip():
            self.lines.append(" ".join(data.split()))


def without_times(text: str) -> str:
    """A text with durations and ages replaced by ``# s``, and the width of their column undone."""
    text = re.sub(r"\b\d[\d.]* (s|min|h)\b", "# s", text)
    return re.sub(r" +(age|# s)$", r"  \1", text, flags=re.MULTILINE)


def draws(seed: int, n: int) -> NDArray[np.int64]:
    """Whole numbers (n,) of 0 to 4095: the top bits of PCG64, the same on every machine."""
    return (np.random.PCG64(seed).random_raw(n) >> 52).astype(np.int64)


def made_rows(seed: int, classes: NDArray[np.int64], d: int) -> NDArray[np.float32]:
    """Rows (n, d) around the centres of their classes (n, k) of 0 and 1, exact in float32."""
    n, k = classes.shape
    centres = draws(1000 + d, k * d).reshape(k, d) - 2048
    noise = draws(seed, 4 * n * d).reshape(4, n, d).sum(axis=0) - 8190
    rows: NDArray[np.float64] = (classes @ centres + 0.75 * noise) / 1024
    return rows.astype(np.float32)
