"""Whole numbers of the command line."""

import os
import re

from linprobe.errors import OptionError

SHORT_ID_DIGITS = 12
"""Hex digits of an id in a folder name: 48 bits; the full id is checked inside the folder."""
_MAX_SLUG = 40
IMAGE_EXTENSIONS = frozenset(
    {"jpg", "jpeg", "png", "ppm", "pgm", "bmp", "gif", "webp", "tif", "tiff", "jp2", "avif"}
)
"""File extensions that are taken for images, in lower case; the shards use the same."""


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


def slugify(name: str) -> str:
    """Lower-case file-name form of a name: letters, digits and single hyphens, at most 40."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MAX_SLUG].strip("-")
    return slug or "unnamed"


def short_id(full_id: str) -> str:
    """First 12 hex digits of an id."""
    return full_id[:SHORT_ID_DIGITS]
