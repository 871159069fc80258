"""JSON on disk: one canonical writer, one strict reader.

What is written is a frozen dataclass; what is read is checked against its annotations by msgspec
and refused by place and field where it differs: another type, a missing field, an unknown one.
Files may come from anybody, so that only regular ones are read, up to a size.
"""

import errno
import hashlib
import io
import json
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Annotated, TypeAlias, TypeVar, cast

import msgspec

from linprobe.errors import REPAIR, IntegrityError, LinprobeError, unreadable

JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
"""What JSON can hold. Floats must be finite; they are written as Python's shortest repr."""
NonNegative: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""A count or a size as JSON holds it."""
MAX_BYTES = 64 << 20
"""The largest file that is read whole; a commit of 40,000 parts has 7 MiB."""
MAX_DEPTH = 64
"""How deep lists and objects may lie in each other."""
MAX_VALUES = 1 << 22
"""Commas and brackets of a file: a value takes some 100 bytes, however short it is written."""
T = TypeVar("T")

_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def canonical_json(value: JsonValue) -> bytes:
    """Serialise with sorted keys, no spaces, UTF-8, and no NaN or infinity.

    The bytes are hashed into ids, so the writer is the standard library's: msgspec writes
    ``1e-6`` where it writes ``1e-06``.

    Raises
    ------
    ValueError : a float is not finite.
    """
    return _CANONICAL.encode(value).encode()


def digest_json(value: JsonValue) -> str:
    """Sha256 of the canonical JSON of ``value``, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def plain(value: object) -> JsonValue:
    """What JSON holds of a dataclass, or of a container of them.

    Numbers of numpy become Python's, paths become text; a field that is UNSET is left out.
    """
    if value is None or type(value) in (str, int, float, bool):
        return cast("JsonValue", value)
    if is_dataclass(value) and not isinstance(value, type):
        # Not by msgspec, which leaves out what reading left at its default.
        items = ((name, getattr(value, name)) for name in _field_names(type(value)))
        return {name: plain(item) for name, item in items if item is not msgspec.UNSET}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    built: JsonValue = msgspec.to_builtins(value, enc_hook=_built)
    return built


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _built(value: object) -> object:
    if isinstance(value, PurePath):
        return str(value)
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"{type(value).__name__} is no JSON")
    return item()


def encode(value: object) -> bytes:
    """Serialise a dataclass for a file that people may read: indented, fields in their order.

    Raises
    ------
    ValueError : a float is not finite.
    """
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def parse(
    kind: type[T],
    data: bytes | Mapping[str, object],
    place: str,
    *,
    error: type[LinprobeError] = IntegrityError,
    hint: str = REPAIR,
) -> T:
    """Read JSON as a dataclass, strictly.

    Parameters
    ----------
    kind : the dataclass; nested ones, tuples, unions with None, ``Literal`` and ``Annotated``
        bounds are understood.
    data : UTF-8 JSON, or the fields that were read of it.
    place : the file, as the message shall name it.
    error : what to raise.
    hint : its hint.

    Raises
    ------
    LinprobeError : of class ``error``: no JSON, one that is read in different ways (a field that
        comes twice, a whole number beyond 64 bits), nested too deep, of too many values, or a field
        missing, unknown or of another type.
    """
    try:
        value = _decoded(data) if isinstance(data, bytes) else data
        record = msgspec.convert(value, kind)
    except (ValueError, RecursionError) as failure:  # msgspec's own are ValueErrors
        raise error(f"{place}: {failure}", hint=hint) from None
    if unknown := _unknown_field(value, msgspec.to_builtins(record)):
        raise error(f"{place}: unknown field - at `${unknown}`", hint=hint)
    return record


def _decoded(data: bytes) -> object:
    if (n := sum(map(data.count, (b",", b"[", b"{")))) > MAX_VALUES:
        raise ValueError(f"expected at most {MAX_VALUES:,} values, found some {n:,}")
    msgspec.json.decode(data)  # refuses NaN, lone surrogates and 1e999, which json takes
    value: object = _JSON.decode(data.decode())
    _check_depth(value, data)
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields_by_name = dict(pairs)
    if len(fields_by_name) != len(pairs):
        repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"expected every field once, found `{repeated[:80]}` repeated")
    return fields_by_name


def _whole(text: str) -> int:
    if len(text) > 20 or not -(1 << 63) <= (number := int(text)) < 1 << 64:
        raise ValueError(f"expected whole numbers of 64 bits, found {text[:40]}")
    return number


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole)


def _check_depth(value: object, data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(f"expected a depth of at most {MAX_DEPTH}, found more")


def read(
    kind: type[T],
    path: Path,
    *,
    error: type[LinprobeError] = IntegrityError,
    hint: str = REPAIR,
) -> T:
    """Read a JSON file as a dataclass; see :func:`read_bytes` and :func:`parse`.

    Raises
    ------
    LinprobeError : of class ``error``: the file is missing, or not the JSON of a ``kind``.
    StoreError : the file cannot be read.
    """
    return parse(kind, read_bytes(path, error=error, hint=hint), str(path), error=error, hint=hint)


def read_bytes(
    path: Path,
    *,
    limit: int = MAX_BYTES,
    error: type[LinprobeError] = IntegrityError,
    hint: str = REPAIR,
) -> bytes:
    """Content of a small file that must be there.

    Parameters
    ----------
    limit : the most bytes that it may have; none are read of one that has more.

    Raises
    ------
    LinprobeError : of class ``error``: the file is missing, is no regular file, or too large.
    StoreError : the file cannot be read.
    """
    fd, n_bytes = _open_fd(path, error, hint)
    content = b""
    try:
        while n_bytes <= limit and (piece := os.read(fd, min(max(n_bytes, 1 << 12), limit) + 1)):
            content = content + piece if content else piece
            n_bytes = max(n_bytes, len(content))  # of one that grows meanwhile
    except OSError as failure:
        raise unreadable(path, failure) from failure
    finally:
        os.close(fd)
    if n_bytes > limit:
        raise error(f"{path}: expected at most {limit:,} bytes, found {n_bytes:,}", hint=hint)
    return content


def open_regular(
    path: Path, *, error: type[LinprobeError] = IntegrityError, hint: str = REPAIR
) -> io.FileIO:
    """Open a file, unbuffered, without waiting for the other end of a FIFO or a device.

    Raises
    ------
    LinprobeError : of class ``error``: the file is missing, or no regular file.
    StoreError : the file cannot be opened.
    """
    fd, _ = _open_fd(path, error, hint)
    return os.fdopen(fd, "rb", buffering=0)


def _open_fd(path: Path, error: type[LinprobeError], hint: str) -> tuple[int, int]:
    """A descriptor of a regular file, and the file's size."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path}: missing", hint=hint) from None
    except ValueError as failure:  # a NUL, or a lone surrogate
        raise error(f"{str(path)!r}: {failure}", hint=hint) from None
    except OSError as failure:
        if failure.errno != errno.ENXIO:
            raise unreadable(path, failure) from failure
        raise error(f"{path}: expected a regular file, found a socket", hint=hint) from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise error(f"{path}: expected a regular file, found {kind}", hint=hint)
    return fd, status.st_size


def _unknown_field(given: object, taken: object) -> str | None:
    """Place of the first field that the dataclass did not take; msgspec passes over them."""
    if isinstance(given, dict) and isinstance(taken, dict) and given != taken:
        for name, value in given.items():
            if name not in taken:
                return f".{name}"
            if deeper := _unknown_field(value, taken[name]):
                return f".{name}{deeper}"
    elif isinstance(given, list) and isinstance(taken, list | tuple) and given != [*taken]:
        for i, (value, kept) in enumerate(zip(given, taken, strict=True)):
            if deeper := _unknown_field(value, kept):
                return f"[{i}]{deeper}"
    return None
