"""JSON on disk: one canonical writer, one strict reader.

What is written is a frozen dataclass; what is read is checked against its annotations by msgspec
and refused by place and field where it differs: another type, a missing field, an unknown one.
"""

import hashlib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from typing import (
    Annotated,
    Literal,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

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


# --- the readers of before: each room replaces its uses, then they go ---


class JsonObject:
    """A JSON object and where it was read, for error messages that name the place."""

    def __init__(self, value: JsonValue, place: str) -> None:
        if not isinstance(value, Mapping):
            raise damaged(place, "a JSON object", value)
        self.fields: Mapping[str, JsonValue] = value
        self.place = place

    def get(self, name: str) -> JsonValue:
        """Value of a field that must be there."""
        if name not in self.fields:
            raise IntegrityError(f"{self.place}: field {name!r} is missing", hint=REPAIR)
        return self.fields[name]

    def text(self, name: str) -> str:
        """Value of a string field."""
        value = self.get(name)
        if not isinstance(value, str):
            raise damaged(f"{self.place}: {name}", "a string", value)
        return value

    def one_of(self, name: str, *choices: str) -> str:
        """Value of a string field that must be one of a few."""
        value = self.text(name)
        if value not in choices:
            raise damaged(f"{self.place}: {name}", " or ".join(choices), value)
        return value

    def integer(self, name: str) -> int:
        """Value of an integer field, which must not be negative."""
        value = self.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise damaged(f"{self.place}: {name}", "an integer of at least 0", value)
        return value

    def number(self, name: str) -> float:
        """Value of a number field; an integer stays one, so that its JSON does not change."""
        value = self.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise damaged(f"{self.place}: {name}", "a number", value)
        return value

    def boolean(self, name: str) -> bool:
        """Value of a field that is true or false."""
        value = self.get(name)
        if not isinstance(value, bool):
            raise damaged(f"{self.place}: {name}", "true or false", value)
        return value

    def list(self, name: str) -> Sequence[JsonValue]:
        """Value of a list field."""
        value = self.get(name)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise damaged(f"{self.place}: {name}", "a list", value)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Value of a field that lists strings."""
        values = self.list(name)
        texts = tuple(value for value in values if isinstance(value, str))
        if len(texts) != len(values):
            raise damaged(f"{self.place}: {name}", "a list of strings", values)
        return texts

    def integers(self, name: str) -> tuple[int, ...]:
        """Value of a field that lists integers."""
        values = self.list(name)
        integers = tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool))
        if len(integers) != len(values):
            raise damaged(f"{self.place}: {name}", "a list of integers", values)
        return integers

    def object(self, name: str) -> "JsonObject":
        """Value of an object field."""
        return JsonObject(self.get(name), f"{self.place}: {name}")

    def objects(self, name: str) -> Iterator["JsonObject"]:
        """Values of a field that lists objects."""
        for i, value in enumerate(self.list(name)):
            yield JsonObject(value, f"{self.place}: {name}[{i}]")


def damaged(place: str, expected: str, found: JsonValue) -> IntegrityError:
    """Error for a value that is not of the kind the format says."""
    return IntegrityError(f"{place}: expected {expected}, found {str(found)[:80]!r}", hint=REPAIR)


def parse_json(data: bytes, place: str) -> JsonObject:
    """Parse a JSON object.

    Raises
    ------
    IntegrityError : not JSON, or not an object.
    """
    try:
        value: JsonValue = json.loads(data)
    except ValueError as error:
        raise IntegrityError(f"{place}: expected JSON, found {error}", hint=REPAIR) from None
    return JsonObject(value, place)


def read_json(path: Path) -> JsonObject:
    """Read a JSON object from a file.

    Raises
    ------
    IntegrityError : the file is missing, or not a JSON object.
    StoreError : the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise IntegrityError(f"{path}: missing", hint=REPAIR) from None
    except OSError as error:
        raise unreadable(path, error) from error
    return parse_json(data, str(path))


def decode(kind: type[T], value: object) -> T:
    """Build a ``kind`` from parsed JSON.

    Raises
    ------
    ValueError, TypeError, KeyError : the JSON does not have the shape of ``kind``.
    """
    return cast("T", _decode(kind, value))


def _decode(kind: object, value: object) -> object:
    origin = get_origin(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _decode_fields(kind, value)
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(kind), value)
    if origin is tuple:
        return _decode_tuple(get_args(kind), value)
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, found {value!r}")
        return {key: _decode(get_args(kind)[1], item) for key, item in value.items()}
    if origin is Literal:
        if value not in get_args(kind):
            raise ValueError(f"expected one of {get_args(kind)}, found {value!r}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(kind, type) or type(value) is not kind:
        raise TypeError(f"expected {kind}, found {value!r}")
    return value


def _decode_fields(kind: type, value: object) -> object:
    if not isinstance(value, dict):
        raise TypeError(f"expected a {kind.__name__}, found {value!r}")
    hints, names = get_type_hints(kind), {field.name for field in fields(kind)}
    if set(value) != names:
        raise ValueError(f"{kind.__name__} has fields {sorted(names)}, found {sorted(value)}")
    return kind(**{name: _decode(hints[name], value[name]) for name in names})


def _decode_tuple(kinds: tuple[object, ...], value: object) -> object:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"expected an array, found {value!r}")
    if kinds[-1] is Ellipsis:
        return tuple(_decode(kinds[0], item) for item in value)
    return tuple(_decode(kind, item) for kind, item in zip(kinds, value, strict=True))


def _decode_union(kinds: tuple[object, ...], value: object) -> object:
    """The first kind that fits."""
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        try:
            return _decode(kind, value)
        except (ValueError, TypeError):
            continue
    raise ValueError(f"{value!r} is none of {kinds}")
