"""JSON on disk: one canonical writer, one strict reader.

What is written is a frozen dataclass; what is read is checked against its annotations by msgspec
and refused by place and field where it differs: another type, a missing field, an unknown one.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from linprobe.errors import REPAIR, IntegrityError, LinprobeError, unreadable

JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
"""What JSON can hold. Floats must be finite; they are written as Python's shortest repr."""
NonNegative: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""A count or a size as JSON holds it."""
T = TypeVar("T")


def canonical_json(value: JsonValue) -> bytes:
    """Serialise with sorted keys, no spaces, UTF-8, and no NaN or infinity.

    The bytes are hashed into ids, so the writer is the standard library's: msgspec writes
    ``1e-6`` where it writes ``1e-06``.

    Raises
    ------
    ValueError : a float is not finite.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest_json(value: JsonValue) -> str:
    """Sha256 of the canonical JSON of ``value``, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def plain(value: object) -> JsonValue:
    """What JSON holds of a dataclass, or of a container of them.

    Numbers of numpy become Python's, paths become text.
    """
    if is_dataclass(value) and not isinstance(value, type):
        # Not by msgspec, which leaves out what reading left at its default.
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    built: JsonValue = msgspec.to_builtins(value, enc_hook=_built)
    return built


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
    data: bytes,
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
    data : UTF-8 JSON.
    place : the file, as the message shall name it.
    error : what to raise.
    hint : its hint.

    Raises
    ------
    LinprobeError : of class ``error``: no JSON, or a field missing, unknown or of another type.
    """
    try:
        value: object = msgspec.json.decode(data)
        record = msgspec.convert(value, kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as failure:
        raise error(f"{place}: {failure}", hint=hint) from None
    unknown = _unknown_field(value, msgspec.to_builtins(record), "$")
    if unknown is not None:
        raise error(f"{place}: unknown field - at `{unknown}`", hint=hint)
    return record


def read(
    kind: type[T],
    path: Path,
    *,
    error: type[LinprobeError] = IntegrityError,
    hint: str = REPAIR,
) -> T:
    """Read a JSON file as a dataclass; see :func:`parse`.

    Raises
    ------
    LinprobeError : of class ``error``: the file is missing, or not the JSON of a ``kind``.
    StoreError : the file cannot be read.
    """
    return parse(kind, read_bytes(path, error=error, hint=hint), str(path), error=error, hint=hint)


def read_bytes(
    path: Path, *, error: type[LinprobeError] = IntegrityError, hint: str = REPAIR
) -> bytes:
    """Content of a file that must be there.

    Raises
    ------
    LinprobeError : of class ``error``: the file is missing.
    StoreError : the file cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise error(f"{path}: missing", hint=hint) from None
    except OSError as failure:
        raise unreadable(path, failure) from failure


def _unknown_field(given: object, taken: object, place: str) -> str | None:
    """Place of the first field that the dataclass did not take; msgspec passes over them."""
    if isinstance(given, dict) and isinstance(taken, dict):
        for name, value in given.items():
            if name not in taken:
                return f"{place}.{name}"
            if deeper := _unknown_field(value, taken[name], f"{place}.{name}"):
                return deeper
    elif isinstance(given, list) and isinstance(taken, list | tuple):
        for i, (value, kept) in enumerate(zip(given, taken, strict=True)):
            if deeper := _unknown_field(value, kept, f"{place}[{i}]"):
                return deeper
    return None
