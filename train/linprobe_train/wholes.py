"""Whole numbers of the command line."""

import os

from linprobe_train.errors import OptionError


def parse_wholes(option: str, text: str) -> tuple[int, ...]:
    """Read ``10,20,100``: ascending, each once.

    Raises
    ------
    OptionError : it is not a list of whole numbers from 1.
    """
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise OptionError(
            f"{option} {text!r} is not a list of whole numbers from 1", hint=f"{option} 1,2,4"
        )
    return tuple(found)


def thread_count(threads: int | None) -> int:
    """Number of threads: all cores where none is given.

    Raises
    ------
    OptionError : it is below 1.
    """
    if threads is not None and threads < 1:
        raise OptionError(f"--threads {threads}; expected at least 1", hint="--threads 1")
    return threads or os.cpu_count() or 1
