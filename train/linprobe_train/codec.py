"""JSON back into frozen dataclasses by their annotations: ``dataclasses.asdict`` turned round."""

import types
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


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
