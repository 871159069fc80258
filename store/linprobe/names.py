"""Names that people, files and folders carry, and the one way to read each."""

import importlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from linprobe.errors import LinprobeError, OptionError
from linprobe.records import read_bytes

SHORT_ID_DIGITS = 12
"""Hex digits of an id in a folder name: 48 bits; the full id is checked inside the folder."""
IMAGE_EXTENSIONS = frozenset(
    "jpg jpeg jfif png ppm pgm bmp gif webp tif tiff jp2 avif jxl heic heif".split()  # noqa: SIM905
)
"""File extensions that are taken for images, lower case, without the dot."""
IMAGE_FORMATS = tuple("JPEG PNG PPM BMP GIF WEBP TIFF JPEG2000 AVIF JXL HEIF".split())  # noqa: SIM905
"""What Pillow calls them. It knows others: for PostScript it runs a program."""
SPLITS = ("train", "val", "test")
SPLIT_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("train", "training"), "train"),
        **dict.fromkeys(("val", "valid", "validation"), "val"),
        **dict.fromkeys(("test", "testing"), "test"),
    }
)
"""What people call the three splits."""
MAX_CLASSES = 1_000_000
"""Beyond this a label without class names is taken for a mistake, such as a sample's number."""
_MAX_SLUG = 40
_RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r")


@cache
def image_formats() -> tuple[str, ...]:
    """The formats to open images as, of those that Pillow and its plugins for two more read."""
    from PIL import Image  # which not every stage needs

    with suppress(ImportError):
        importlib.import_module("pillow_jxl")
    with suppress(ImportError):  # the extra heif
        importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden files are not."""
    path = PurePosixPath(name)
    return path.suffix.lower()[1:] in IMAGE_EXTENSIONS and path.name[0] != "."


def slugify(name: str) -> str:
    """Lower-case file-name form of a name: letters, digits and single hyphens, at most 40."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MAX_SLUG].strip("-")
    return slug or "unnamed"


def short_id(full_id: str) -> str:
    """First 12 hex digits of an id."""
    return full_id[:SHORT_ID_DIGITS]


def split_named(name: str) -> str | None:
    """The split that a folder or column calls ``name``, in any case; None where it is none."""
    return SPLIT_ALIASES.get(name.lower())


def is_url(text: str) -> bool:
    """Whether a person who typed ``text`` means a URL: it begins with a scheme and ``://``.

    Schemes may be chained, as fsspec has it. Only what was typed is asked; a file that was listed
    is a file, whatever its name.
    """
    return re.match(r"([a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def natural_key(text: str) -> list[tuple[int, str]]:
    """Key that sorts ``2.tar`` before ``10.tar``."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)
    ]


def first_few(names: Iterable[str], limit: int = 5) -> str:
    """The first few names and how many follow: ``a, b, c and 7 more``."""
    listed = list(names)
    shown = ", ".join(listed[:limit])
    return f"{shown} and {len(listed) - limit:,} more" if len(listed) > limit else shown


def csv_cell(text: str, *, guard: bool) -> str:
    """A text for a cell of a CSV file.

    With ``guard``, an apostrophe is put before one that begins as what spreadsheets run: ``=``,
    ``+``, ``-``, ``@``, a tab or a carriage return. Numbers are no texts: do not pass them.
    """
    return f"'{text}" if guard and text.startswith(_RUN_BY_SPREADSHEETS) else text


def read_class_names(path: Path, *, error: type[LinprobeError]) -> tuple[str, ...]:
    """Class names by label from a text file, one a line.

    Raises
    ------
    LinprobeError : of class ``error``: no such file, one that :func:`read_bytes` refuses, or
        what :func:`parse_class_names` refuses.
    StoreError : the file cannot be read.
    """
    data = read_bytes(path, error=error, hint="one class name a line, by label")
    return parse_class_names(data, str(path), error=error)


def parse_class_names(data: bytes, place: str, *, error: type[LinprobeError]) -> tuple[str, ...]:
    """Class names by label from UTF-8 text, one a line; a byte order mark is no part of them.

    Raises
    ------
    LinprobeError : of class ``error``: not UTF-8, a web page (what a server that wants a login
        sends in the place of a file), or what :func:`check_class_names` refuses.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(
            f"class names in '{place}': expected UTF-8, found {failure.reason} at byte "
            f"{failure.start}",
            hint="save the file as UTF-8, one class name a line",
        ) from None
    if text.lstrip()[:9].lower().startswith(("<!doctype", "<html")):
        fault = f"class names in '{place}': expected one name a line, found a web page"
        raise error(fault, hint="open the address in a browser: it may ask for a login")
    names = tuple(line.strip() for line in text.rstrip().split("\n"))
    check_class_names(names, place, error=error)
    return names


def check_class_names(names: Sequence[str], place: str, *, error: type[LinprobeError]) -> None:
    """Refuse class names that cannot be told apart, or that would shift the labels after them.

    Raises
    ------
    LinprobeError : of class ``error``: there is none, or a name is blank, holds a character that
        cannot be printed (a control character, a byte order mark, half a surrogate pair), or
        occurs twice.
    """
    if not names:
        raise error(f"no class names in '{place}'", hint="one class name a line, by label")
    if len(names) > MAX_CLASSES:
        raise error(
            f"'{place}' has {len(names):,} class names, expected at most {MAX_CLASSES:,}",
            hint="one class name a line, by label",
        )
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise error(
                f"class name {number} of '{place}' is blank",
                hint="the n-th line names the class with the label n - 1",
            )
        if any(c == "\ufeff" or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name):
            raise error(
                f"class name {number} of '{place}' has an unprintable character: {name!r}",
                hint="write the names as plain UTF-8, without control characters or marks",
            )
    keys = [class_key(name) for name in names]
    name, count = Counter(keys).most_common(1)[0]
    if count > 1:
        lines = [number for number, other in enumerate(keys, start=1) if other == name]
        raise error(
            f"class name {name!r} occurs {count} times in '{place}' (numbers "
            f"{first_few(map(str, lines))})",
            hint="give every class a name of its own, such as 'crane (bird)'",
        )


def class_key(name: str) -> str:
    """The form in which two class names are compared: NFC, no outer spaces."""
    return unicodedata.normalize("NFC", name).strip()


def parse_wholes(option: str, text: str) -> tuple[int, ...]:
    """Read ``10,20,100``: ascending, each once.

    Raises
    ------
    OptionError : it is not a list of whole numbers from 1.
    """
    try:
        wholes = sorted({int(word) for word in text.split(",")})
    except ValueError:
        wholes = []
    if not wholes or wholes[0] < 1:
        raise OptionError(
            f"{option} {text!r} is not a list of whole numbers from 1", hint=f"{option} 1,2,4"
        )
    return tuple(wholes)
