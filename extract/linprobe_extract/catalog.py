"""The names open_clip knows, read from its files without importing it.

Importing open_clip imports torch: seconds, to say that a name is misspelt. Architectures are the
JSON files of its ``model_configs`` folder; tags stand in ``pretrained.py`` as literal calls, which
are parsed and never executed.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from linprobe_store.errors import LinprobeError


@cache
def open_clip_catalog() -> Mapping[str, tuple[str, ...]]:
    """Every architecture of the installed open_clip, with the tags of its pretrained weights.

    Raises
    ------
    LinprobeError : open_clip is not installed.
    """
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise LinprobeError("open_clip is not installed", hint='pip install "linprobe[extract]"')
    folder = Path(spec.origin).parent
    tags = _tags_by_architecture((folder / "pretrained.py").read_text(encoding="utf-8"))
    architectures = sorted(path.stem for path in (folder / "model_configs").glob("*.json"))
    return {name: tags.get(name, ()) for name in architectures}


def _tags_by_architecture(source: str) -> Mapping[str, tuple[str, ...]]:
    """Read ``_PRETRAINED`` and the ``dict(tag=..., ...)`` assignments it refers to.

    open_clip adds a ``-quickgelu`` twin of every architecture for its tags trained with QuickGELU.
    """
    tables: dict[str, ast.expr] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            tables[node.targets[0].id] = node.value
    root = tables.get("_PRETRAINED")
    if not isinstance(root, ast.Dict):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for key, value in zip(root.keys, root.values, strict=True):
        if isinstance(key, ast.Constant):
            table = tables.get(value.id) if isinstance(value, ast.Name) else value
            entries = tuple(_entries(table))
            name = str(key.value)
            found[name] = tuple(tag for tag, _ in entries)
            found[f"{name}-quickgelu"] = tuple(tag for tag, quick_gelu in entries if quick_gelu)
    return found


def _entries(table: ast.expr | None) -> Iterator[tuple[str, bool]]:
    """The (tag, trained with QuickGELU) pairs of one ``dict(tag=..., ...)`` call."""
    if not isinstance(table, ast.Call):
        return
    for keyword in table.keywords:
        call = keyword.value
        if keyword.arg is not None and isinstance(call, ast.Call):
            flags = {k.arg: k.value for k in call.keywords}
            flag = flags.get("quick_gelu")
            yield keyword.arg, isinstance(flag, ast.Constant) and flag.value is True
