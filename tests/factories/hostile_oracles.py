"""What may be read from mutated bytes, by parsers that are not ours."""

import io
import json
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np

_Json: TypeAlias = Any
IsRight: TypeAlias = Callable[[object, bytes, object], bool]
"""Whether a value may be read from these bytes, where another is that of the original ones."""


def unchanged(value: object, _: bytes, original: object) -> bool:
    """What is signed is read as it was, or not at all."""
    return same(value, original)


def as_json_says(value: object, data: bytes, _: object) -> bool:
    """A record holds what a strict parser finds in the bytes, and defaults."""
    return holds(value, strict_json(data))


def as_lines_say(value: object, data: bytes, _: object) -> bool:
    """Whole lines are read each as strict JSON."""
    lines = [strict_json(line) for line in data.splitlines() if line.endswith(b"}")]
    return isinstance(value, list) and len(value) == len(lines) and all(map(holds, value, lines))


def as_numpy_says(value: object, data: bytes, _: object) -> bool:
    """NumPy reads the same arrays, of those that were asked for."""
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return same(value, {"array": loaded})
    with loaded:
        return isinstance(value, dict) and all(same(x, loaded[name]) for name, x in value.items())


def as_any_of_numpy_says(value: _Json, data: bytes, _: object) -> bool:
    """NumPy reads the same array under some name; whatever else is in the archive."""
    with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
        for name in loaded.files:
            with suppress(Exception):
                if same(value, loaded[name]):
                    return True
    return False


def as_signed_json_says(value: object, data: bytes, _: object) -> bool:
    """As JSON says, without what signs it."""
    fields = strict_json(data)
    return holds(value, {k: v for k, v in fields.items() if k not in ("files", "digest")})


def same(value: object, other: object) -> bool:
    """Whether two values are equal, arrays by dtype, shape and bits."""
    if isinstance(value, np.ndarray) and isinstance(other, np.ndarray):
        is_alike = (value.dtype, value.shape) == (other.dtype, other.shape)
        return is_alike and value.tobytes() == other.tobytes()
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(same(value[k], other[k]) for k in value)
    return value == other


def strict_json(data: bytes) -> _Json:
    """JSON that all parsers read alike, by the standard library's; ValueError for other."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a field twice")
        return dict(pairs)

    def refuse(text: str) -> float:
        raise ValueError(text)

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(text)
        return number

    text = data.decode()
    value = json.loads(text, object_pairs_hook=once, parse_constant=refuse, parse_float=finite)
    json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no UTF-8
    return value


def holds(value: _Json, given: _Json) -> bool:
    if isinstance(given, dict):
        is_dict = isinstance(value, dict) and given.keys() <= value.keys()
        return is_dict and all(holds(value[name], item) for name, item in given.items())
    if isinstance(given, list):
        is_list = isinstance(value, list | tuple) and len(value) == len(given)
        return is_list and all(map(holds, value, given))
    if isinstance(value, float) and type(given) is int:
        given = float(given)  # the nearest, as every reader of a float takes it
    return isinstance(value, bool) == isinstance(given, bool) and bool(value == given)
