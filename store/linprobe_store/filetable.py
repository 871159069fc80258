"""The file table of a unit: what every file must be."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from linprobe_store.checksums import REPAIR, FileDigest, check_content, check_size
from linprobe_store.errors import IntegrityError
from linprobe_store.jsonread import JsonObject


def check_files(
    unit: Path, files: Mapping[str, FileDigest], level: Literal["open", "deep"]
) -> None:
    """Check a unit against its file table.

    ``open``: every file is there at its exact size, and the metadata has its exact content.
    ``deep``: every byte of every file.

    Raises
    ------
    IntegrityError : naming the file, what was expected and what was found.
    """
    for name, expected in files.items():
        if level == "deep":
            check_content(unit / name, expected, strong=True)
        elif name.endswith("zarr.json"):
            check_content(unit / name, expected)
        else:
            check_size(unit / name, expected)


def file_table_from(json: JsonObject) -> Mapping[str, FileDigest]:
    """File table of a signed JSON object; refuses paths that leave the unit's folder."""
    table = json.object("files")
    files = {}
    for name in table.fields:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name:
            raise IntegrityError(f"{json.place}: bad path {name!r} among its files", hint=REPAIR)
        entry = table.object(name)
        sha256 = None if entry.get("sha256") is None else entry.text("sha256")
        files[name] = FileDigest(entry.integer("bytes"), entry.text("crc32c"), sha256)
    return files
