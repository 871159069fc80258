"""Canonical JSON: one byte string per value, so that its sha256 can serve as an identity."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)
"""What JSON can hold. Floats must be finite; they are written as Python's shortest repr."""


def canonical_json(value: JsonValue) -> bytes:
    """Serialise with sorted keys, no spaces, UTF-8, and no NaN or infinity.

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
