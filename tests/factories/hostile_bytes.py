"""Mutated and hostile bytes: what a stranger's JSON, arrays and archives may hold."""

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

Mutate: TypeAlias = Callable[[Random, bytes], bytes]
_Json: TypeAlias = Any

_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0x7FFFFFFF, 0x80000000, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_TEXTS = (
    "",
    "\x00",
    "\x1b[2J",
    "../../evil",
    "/etc/passwd",
    "a" * 100_000,
    "\u202e",
    "x/../y",
    "é",
)
_RAW = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-1", "-0", "1e308", "0.5", "1.0", "true",
    "null", "[]", "{}", "9" * 30, "9" * 5000, str(2**31), str(2**63), str(2**64), str(-(2**63)),
    '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', "[" * 200 + "]" * 200, "[" * 9999 + "]" * 9999,
    '{"a":' * 90 + "1" + "}" * 90, "[1,2,3]", '{"a":1,"a":2}', "01", "+1", "'a'", "1_000", "0x10",
)  # fmt: skip
_SHAPES = (
    "(1, 100000000000)", "(0, 100000000000)", "(4294967296, 4294967296)", "(-1, 4)", "()", "(4,)",
    "(True, 2)", "(1e3, 2)", "[4, 2]", "(" * 300, "(9999999999999999999999, 1)", "(2, 2, 2, 2, 2)",
)  # fmt: skip
_DTYPES = ("|O", "<f2", ">f4", "<f8", "<i8", "|S9", "<U9", "<c16", "|V4", "<M8[ns]", "<f4,<f4", "x")


def mutated_bytes(random: Random, data: bytes) -> bytes:
    """One to three plain harms: bits, ranges, lengths and numbers."""
    raw = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        _harm(random, raw)
    return bytes(raw)


def _harm(random: Random, raw: bytearray) -> None:
    n = len(raw)
    at, size = random.randrange(n + 1), min(random.choice((1, 2, 4, 8, 64, 600)), n)
    piece = bytes(raw[at : at + size])
    harm = random.randrange(10)
    if harm <= 1 and at < n:
        raw[at] ^= 1 << random.randrange(8)
    elif harm == 2:
        del raw[at:]
    elif harm == 3:
        raw += random.randbytes(size)
    elif harm == 4:
        raw[at:at] = random.randbytes(size)
    elif harm == 5:
        del raw[at : at + size]
    elif harm == 6:
        raw[at:at] = piece
    elif harm == 7:
        raw[at : at + size] = bytes(len(piece))
    elif harm == 8:
        width = random.choice((1, 2, 4, 8))
        number = random.choice(_EXTREMES) % (1 << 8 * width)
        raw[at : at + width] = number.to_bytes(width, random.choice(("little", "big")))
    else:
        other = random.randrange(n + 1)
        raw[other : other + len(piece)] = piece


def mutated_text(random: Random, data: bytes) -> bytes:
    """A line left out, twice, blank, too long, of another encoding; or plain harm."""
    lines = data.splitlines(keepends=True)
    i, harm = random.randrange(max(1, len(lines))), random.randrange(8)
    if harm == 0:
        lines[i : i + 1] = []
    elif harm == 1:
        lines[i:i] = lines[i : i + 1]
    elif harm == 2:
        lines[i:i] = [random.choice((b"\n", b"\xef\xbb\xbf", b"\xff\xfe\n", b"\0\n", b"\xe9\n"))]
    elif harm == 3:
        lines[i:i] = [random.choice(_TEXTS).encode() + b"\n"]
    elif harm == 4:
        lines[i:i] = [random.choice(_RAW).encode() + b"\n"]
    else:
        return mutated_bytes(random, data)
    return b"".join(lines)


def mutated_json(random: Random, data: bytes) -> bytes:
    """A field changed, lost, added or repeated, in good JSON or bad; or plain harm."""
    if random.random() < 0.25:
        return mutated_bytes(random, data)
    value = json.loads(data)
    holder, key = _place(random, value)
    harm = random.randrange(7)
    if holder is None or harm == 0:
        text = json.dumps(
            value, indent=random.choice((None, 1)), ensure_ascii=random.random() < 0.5
        )
    elif harm == 1:
        text = _raw_at(value, holder, key, random.choice(_RAW))
    elif harm == 2:
        text = _raw_at(value, holder, key, json.dumps(random.choice(_TEXTS)))
    elif harm == 3:
        text = _raw_at(value, holder, key, json.dumps(random.choice(_EXTREMES)))
    elif harm == 4:
        del holder[key]
        text = json.dumps(value)
    elif harm == 5 and isinstance(holder, dict):
        old = json.dumps(holder[key])
        more = random.choice((f'{old},"{key}":{old}', f'{old},"more":1', f'{old},"{key}":0'))
        text = _raw_at(value, holder, key, more)
    else:
        other, name = _place(random, json.loads(data))
        holder[key] = other[name] if other is not None else None
        text = json.dumps(value)
    return random.choice(("", "", "", "\ufeff", " \n")).encode() + text.encode()


def _place(random: Random, value: _Json) -> tuple[_Json, _Json]:
    """A random holder in a JSON value and the key of one of its items; None for a bare value."""
    places = []
    level = [value]
    while level:
        holder = level.pop()
        keys = holder.keys() if isinstance(holder, dict) else range(len(holder))
        places += [(holder, key) for key in keys]
        level += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return random.choice(places) if places else (None, None)


def _raw_at(value: _Json, holder: _Json, key: _Json, raw: str) -> str:
    holder[key] = "@@raw@@"
    return json.dumps(value).replace('"@@raw@@"', raw)


def resigned(mutate: Mutate) -> Mutate:
    """As another mutation; where that is JSON still, mostly under a digest of its own."""

    def mutated(random: Random, data: bytes) -> bytes:
        harmed = mutate(random, data)
        if random.random() < 0.4:
            return harmed
        try:
            fields = json.loads(harmed)
            body = {name: item for name, item in fields.items() if name != "digest"}
            text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            body["digest"] = hashlib.sha256(text.encode()).hexdigest()
            return json.dumps(
                body, sort_keys=True, separators=(",", ":"), ensure_ascii=False
            ).encode()
        except (ValueError, AttributeError, RecursionError):
            return harmed

    return mutated


def mutated_npy(random: Random, data: bytes) -> bytes:
    """A header of another shape, dtype, order, version or length; or plain harm."""
    if random.random() < 0.3:
        return mutated_bytes(random, data)
    length = int.from_bytes(data[8:10], "little")
    header, array = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    harm = random.randrange(5)
    if harm == 0:
        start = header.index("'shape'")
        header = f"{header[:start]}'shape': {random.choice(_SHAPES)}, }}\n"
    elif harm == 1:
        old = header.split("'")[3]
        header = header.replace(old, random.choice(_DTYPES), 1)
    elif harm == 2:
        header = header.replace("False", random.choice(("True", "None", "0", "__import__('os')")))
    elif harm == 3:
        header = mutated_bytes(random, header.encode("latin-1")).decode("latin-1")
    version = random.choice((1, 1, 2, 3, 4)) if harm == 4 else 1
    text = header.encode("latin-1")
    size = random.choice((len(text), len(text), len(text), 0xFFFF))
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(width, "little") + text + array


def mutated_npz(random: Random, data: bytes) -> bytes:
    """Members of mutated arrays, other names, sizes, flags and compressions; or plain harm."""
    harm = random.randrange(6)
    if harm <= 1:
        return mutated_bytes(random, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    i = random.randrange(len(members))
    name, content = members[i]
    if harm == 2:
        members[i] = (name, mutated_npy(random, content))
    elif harm == 3:
        members[i] = (random.choice(("../../evil.npy", "/evil.npy", "a\x1b.npy", name)), content)
    elif harm == 4:
        bomb = content[: 10 + int.from_bytes(content[8:10], "little")]
        members[i] = (name, bomb + bytes(random.choice((1, 10**6, 10**8))))
    stream = io.BytesIO()
    kind = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED))
    kind = zipfile.ZIP_DEFLATED if harm == 4 else random.choice((kind, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(stream, "w", kind) as archive:
        for member, body in members:
            archive.writestr(member, body)
    raw = bytearray(stream.getvalue())
    if harm == 5:
        central = raw.rindex(b"PK\x01\x02")
        field = random.choice((8, 10, 16, 20, 24, 28, 42))
        raw[central + field : central + field + 4] = struct.pack("<I", random.choice(_EXTREMES[:8]))
    return bytes(raw)
