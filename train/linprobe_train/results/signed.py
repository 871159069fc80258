"""Signed JSON: a record, the digests of the files beside it, and the digest of all it says."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Generic, TypeVar, cast

from linprobe.errors import ResultError
from linprobe.names import short_id
from linprobe.records import (
    JsonValue,
    canonical_json,
    digest_json,
    encode,
    parse,
    plain,
    read_bytes,
)
from linprobe_store.format.checksums import FileDigest, digest_bytes
from linprobe_train.scores.predictions import REMAKE

RESULT_FILE = "result.json"
"""What the result of a probe is written into."""
LARGEST = 2 << 30
"""Most bytes of a file of a result: a probe of 65,536 classes by 4,096 features."""
T = TypeVar("T")


@dataclass(frozen=True)
class FileTable:
    """The end of a signed file."""

    files: dict[str, FileDigest]
    """What each file beside it must be."""
    digest: str
    """Sha256 of the canonical JSON of all other fields, 64 hex digits."""

    def __post_init__(self) -> None:
        for name, expected in self.files.items():
            is_plain = name not in ("", "..") and PurePath(name).name == name
            if not is_plain or expected.sha256 is None:
                raise ValueError(f"bad entry {name!r} among its files")


@dataclass(frozen=True)
class Signed(Generic[T]):
    """A signed file whose digest is right."""

    record: T
    """What it says."""
    path: Path
    """Where it lies."""
    files: Mapping[str, FileDigest]
    """What each file beside it must be."""

    def content(self, name: str) -> bytes:
        """Content of a file beside it; ``ResultError``: it is missing, damaged or not listed."""
        path = self.path.with_name(name)
        limit = min(LARGEST, self.expected(name).bytes)
        try:
            data = read_bytes(path, limit=limit, error=ResultError, hint=REMAKE)
        except ResultError as error:
            raise ResultError(f"{error.message}, of {self.path.name}", hint=error.hint) from None
        self.check(name, data)
        return data

    def expected(self, name: str) -> FileDigest:
        """What a file must be; ``ResultError``: it is not listed."""
        if name not in self.files:
            raise ResultError(f"{self.path}: expected {name} among its files", hint=REMAKE)
        return self.files[name]

    def check(self, name: str, data: bytes) -> None:
        """Refuse, by a ``ResultError``, content of a file that is not what it must be."""
        expected, found = asdict(self.expected(name)), asdict(digest_bytes(data, strong=True))
        for field, value in expected.items():
            if found[field] != value:
                raise ResultError(
                    f"{self.path.with_name(name)}: expected {field} {value}, found {found[field]}",
                    hint=REMAKE,
                )


def sign(record: object, files: Mapping[str, bytes]) -> bytes:
    """The bytes of a signed file of a record and of the files that are written beside it."""
    digests = {name: digest_bytes(data, strong=True) for name, data in files.items()}
    fields = {**cast("dict[str, JsonValue]", plain(record)), "files": plain(digests)}
    return encode({**fields, "digest": digest_json(fields)})


def parse_signed(kind: type[T], data: bytes, path: Path) -> Signed[T]:
    """Read a signed file and check its digest.

    ``ResultError``: it was edited or cut, is of another version, or holds what it must not.
    """
    what = f"{path} is damaged or of another version"
    fields = parse(dict[str, object], data, what, error=ResultError, hint=REMAKE)
    ending = {name: fields.pop(name) for name in ("files", "digest") if name in fields}
    signed = cast("JsonValue", {**fields, "files": ending.get("files")})
    table = parse(FileTable, _json(ending), what, error=ResultError, hint=REMAKE)
    if (found := digest_json(signed)) != table.digest:
        raise ResultError(
            f"{path}: expected digest {short_id(table.digest)}, found {short_id(found)}",
            hint=REMAKE,
        )
    record = parse(kind, _json(fields), what, error=ResultError, hint=REMAKE)
    return Signed(record, path, table.files)


def _json(fields: object) -> bytes:
    return canonical_json(cast("JsonValue", fields))


def read_signed(kind: type[T], path: Path) -> Signed[T]:
    """Read a signed file as :func:`parse_signed` does; ``ResultError``: also where it is missing.

    ``StoreError``: it cannot be read.
    """
    return parse_signed(kind, read_bytes(path, error=ResultError, hint=REMAKE), path)


def read_beside(folder: Path, name: str) -> bytes:
    """Content of a file of a result, checked against ``result.json`` where that lies beside it.

    ``ResultError``: it is missing, damaged, or not what ``result.json`` lists.
    """
    if name != RESULT_FILE and os.path.lexists(folder / RESULT_FILE):
        return read_signed(dict[str, object], folder / RESULT_FILE).content(name)
    return read_bytes(folder / name, limit=LARGEST, error=ResultError, hint=REMAKE)
