"""Strict reading of JSON files: a field of another kind is damage, told by name."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from linprobe_store.canonical import JsonValue
from linprobe_store.checksums import REPAIR, unreadable
from linprobe_store.errors import IntegrityError


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
