"""Feeds hostile bytes to readers, in a process of bounded memory and time; prints JSON lines.

Run as ``python hostile_worker.py INPUTS SEED ROOT [NAME...]``; NAME begins the readers' names.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import webdataset  # noqa: F401 - and torch with it, before memory is bounded
from hostile_readers import Reader, readers

from linprobe.errors import LinprobeError

MAX_MEMORY = 3 << 29
"""Bytes of address space beyond what the process has before the first input."""
MAX_SECONDS = 20


@dataclass
class Row:
    """What became of the inputs of a reader."""

    reader: str
    inputs: int = 0
    right: int = 0
    """Read, and the oracle agrees."""
    refused: int = 0
    """Refused by a LinprobeError."""
    escapes: list[str] = field(default_factory=list)
    """Anything else, in words."""
    worst_s: float = 0.0
    worst_mb: float = 0.0
    """Growth of the largest resident size over all inputs."""


class _TooLong(BaseException):
    pass


def _stop(*_: object) -> None:
    raise _TooLong


def try_reader(reader: Reader, inputs: int, seed: int) -> Row:
    """Read so many mutations of a file, and put it back."""
    good, row = reader.file.read_bytes(), Row(reader.name)
    original = reader.read()
    random = Random(zlib.crc32(reader.name.encode()) + seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(inputs):
        data = reader.mutate(random, good)
        _replace(reader.file, data)
        start = time.monotonic()
        signal.alarm(MAX_SECONDS)
        escape = ""
        try:
            value = reader.read()
            signal.alarm(0)
            try:
                is_right = reader.is_right(value, data, original)
            except Exception as error:  # the oracle reads no such bytes
                is_right, escape = False, f"oracle {type(error).__name__}: {error}; "
            row.right += is_right
            escape = "" if is_right else f"{escape}wrong value"
        except LinprobeError:
            row.refused += 1
        except _TooLong:
            escape = "too long"
        except BaseException as error:  # what this is for
            last = traceback.extract_tb(error.__traceback__)[-1]
            escape = f"{type(error).__name__}: {error} at {Path(last.filename).name}:{last.lineno}"
        finally:
            signal.alarm(0)
        row.inputs += 1
        row.worst_s = max(row.worst_s, time.monotonic() - start)
        if escape:
            row.escapes.append(f"input {number}: {escape[:300]}")
    _replace(reader.file, good)
    row.worst_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return row


def _replace(path: Path, data: bytes) -> None:
    """Another file of that name: what maps the old one keeps it."""
    temporary = path.with_name("hostile.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def main() -> None:
    """Try the readers that are asked for."""
    inputs, seed, root, *names = sys.argv[1:]
    warnings.simplefilter("ignore")
    sys.set_int_max_str_digits(4300)
    signal.signal(signal.SIGALRM, _stop)
    chosen = [
        reader
        for reader in readers(Path(root))
        if not names or any(reader.name.startswith(name) for name in names)
    ]
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MAX_MEMORY, size + MAX_MEMORY))
    for reader in chosen:
        sys.stdout.write(
            json.dumps(asdict(try_reader(reader, round(int(inputs) * reader.share), int(seed))))
            + "\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
