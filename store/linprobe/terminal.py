"""What a person sees: the result on stdout; notes, progress and failures on stderr.

Exit codes: 0 done, 1 an expected failure printed in two lines, 2 wrong usage, 130 interrupted.
A bug keeps its traceback.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import TextIO, TypeAlias

from linprobe.names import is_image
from linprobe.records import JsonValue

Word: TypeAlias = "str | Path | int | float | bool | Sequence[str | Path] | None"
"""A value of an option of a next command."""

MAKE_VARIABLE = "LINPROBE_MAKE"
"""Set by the Makefile to the path of the installed command: next commands are make targets then."""
_MAKE_TARGETS = ("data", "extract", "probe", "compare", "report", "predict")
_MAKE_VARIABLES = {
    "model": "MODEL", "data": "DATA", "store": "STORE", "out": "OUT", "images": "IMAGES"
}  # fmt: skip
_MAKE_DEFAULTS = {"store": "features", "out": "results"}
_PLACEHOLDERS: Mapping[str, Mapping[str, str]] = {
    "extract": {"model": "MODEL", "data": "DATA"},
    "store import": {"split": "NAME=FILE", "encoder-name": "NAME", "dataset": "NAME"},
}
"""What a person has to fill in where the command does not know it."""
_MAX_CELL = 1000
"""Characters of a cell of a table."""
MANY = 100_000
"""Files that are looked at to tell what a folder holds."""
_AGES = (("s", 60.0), ("min", 60.0), ("h", 24.0), ("d", 365.0))


_ACTING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but the line feed, separators of lines and paragraphs, overrides and isolates
of the writing direction, and halves of surrogate pairs."""


def printable(text: str) -> str:
    r"""Show what would act on a terminal, or not print, as escapes such as ``\x1b``.

    Line feeds stay: they are the layout's. Where text of others stands in a line, see
    :func:`one_line`.
    """
    return _ACTING.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    r"""What is :func:`printable` of a text, with its line feeds shown as ``\n``."""
    return printable(text).replace("\n", "\\n")


def json_text(value: JsonValue, *, indent: int | None = None) -> str:
    r"""JSON that a terminal can show: what acts, or what stdout lacks, as ``\u001b``.

    Raises
    ------
    ValueError : a float is not finite.
    """
    for ascii_alone in (False, True):
        text = json.dumps(value, indent=indent, ensure_ascii=ascii_alone, allow_nan=False)
        text = _ACTING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
        if _encodable(text, sys.stdout) == text:
            break
    return text


def _encodable(text: str, stream: TextIO) -> str:
    """The text, with what the stream's encoding lacks as escapes."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def emit(text: str) -> None:
    """Write the result of a command to stdout, as :func:`printable` has it."""
    print(_encodable(printable(text), sys.stdout))  # noqa: T201 - the one place that prints


def emit_json(value: JsonValue) -> None:
    """Write the result of a command to stdout as one indented JSON object.

    Raises
    ------
    ValueError : a float is not finite.
    """
    emit(json_text(value, indent=2))


def note(text: str) -> None:
    """Write a line for the person at the terminal to stderr; :func:`one_line` has it."""
    line = _encodable(one_line(text), sys.stderr)
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the one place that prints


def command(verb: str, *words: str | Path, **options: Word) -> str:
    """Text of a command to run next, quoted for the shell.

    Parameters
    ----------
    verb : such as ``probe`` or ``store verify``.
    words : its arguments.
    options : by name, with ``_`` for ``-``; None and False are left out, True is a bare flag, a
        sequence repeats the option. What a command cannot do without stands in capitals where it
        is not given.

    Returns
    -------
    ``linprobe probe --model demo``; after a make target ``make probe MODEL=demo``, or the path of
    the installed command where no target does it.
    """
    given = {
        name: [value] if isinstance(value, str) or not isinstance(value, Sequence) else [*value]
        for name, value in {**_PLACEHOLDERS.get(verb, {}), **options}.items()
        if value is not None and value is not False
    }
    installed = os.environ.get(MAKE_VARIABLE)
    # The Makefile cuts DATA at spaces, and takes the last part of a path for a dataset's name;
    # make itself, whatever the quotes, runs what stands in a $(shell ...) of a name.
    data = "".join(map(str, given.get("data", ())))
    fits = " " not in data and not ("/" in data and verb in ("probe", "compare"))
    fits = fits and not any("$" in str(value) for values in given.values() for value in values)
    if installed and verb == "pack" and len(words) == 1 and given.keys() == {"out"}:
        source = str(words[0])  # the Makefile packs under its last part
        name = PurePath(source.rpartition(":")[2]).name
        if str(given["out"][0]) == f"data/{name}" and not re.search(r"[\s$]", source):
            given = {"data": [*words]}
            verb, words = "data", ()
    if not installed or verb not in _MAKE_TARGETS or words or not fits:
        parts = [*(installed or "linprobe").split(), *verb.split(), *map(str, words)]
        return shlex.join([*parts, *_flags(given)])
    line = f"make {verb}"
    for name, variable in _MAKE_VARIABLES.items():
        text = " ".join(map(str, given.pop(name, ())))
        if text not in ("", _MAKE_DEFAULTS.get(name)):
            line += f" {variable}={shlex.quote(text)}"
    flags = shlex.join(_flags(given))
    return f"{line} ARGS={shlex.quote(flags)}" if flags else line


def pack_hint(path: Path) -> str:
    """What to do with images, or a table of them, where shards were expected; "" for others."""
    if path.suffix in (".csv", ".tsv") and path.is_file():
        table = command("pack", f"csv:{path}", out=Path("data", path.stem))
        return f"a table of images has to be packed first: {table}"
    paths = chain.from_iterable(path.glob(pattern) for pattern in ("*/*", "*/*/*"))
    own = (each.relative_to(path) for each in islice(paths, MANY))
    if not any(is_image(each.name) and each.parts[0][0] != "." for each in own):
        return ""
    out = Path("data", path.resolve().name)
    if out.resolve() == path.resolve():
        out = out.with_name(f"{out.name}-packed")
    made = command("pack", f"imagefolder:{path}", out=out)
    return f"it holds images and no shards; this makes {out} of it: {made}"


def install(extra: str) -> str:
    """Text of the command that installs an extra into the Python that runs."""
    return f"{sys.executable} -m pip install 'linprobe[{extra}]'"


def _flags(options: Mapping[str, Sequence[object]]) -> Iterator[str]:
    for name, values in options.items():
        flag = f"--{name.replace('_', '-')}"
        for value in values:
            yield from (flag,) if value is True else (flag, str(value))


def human_bytes(n_bytes: float) -> str:
    """Write a size the way people read it: ``1.97 GB`` (powers of 1000, three digits)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.4g} TB"


def human_age(seconds: float) -> str:
    """Write an age the way people read it: ``3 min``, ``2 d``."""
    for unit, size in _AGES:
        if seconds < size:
            return f"{seconds:.0f} {unit}"
        seconds /= size
    return f"{seconds:.1f} y"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    """Align columns under a header; every cell is :func:`one_line`, cut where it is very long.

    Parameters
    ----------
    sides : one character per column, ``>`` to align it to the right and ``<`` to the left.
    """
    lines = [[_cell(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if side == ">" else cell.ljust(width)
            for cell, width, side in zip(line, widths, sides, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(text: str) -> str:
    """A cell of a table: all others of its column get its width."""
    return one_line(text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}...")


@dataclass(frozen=True)
class Progress:
    """A moment of long work."""

    done: int
    """Units done so far."""
    total: int | None
    """Units in all; None where not known."""
    unit: str
    """What is counted, in the plural: ``images``, ``shards``."""
    detail: str = ""
    """Shown beside the bar, such as the rate."""
    line: str = ""
    """Something that a person should know: printed, and kept, whether or not there is a bar."""


Watch: TypeAlias = Callable[[Progress], None]
"""Sees work as it goes; may be called from any thread."""


def ignore(progress: Progress) -> None:
    """Watch nothing."""


def lines_only(progress: Progress) -> None:
    """Watch without a bar: the lines alone, on stderr."""
    if progress.line:
        note(progress.line)


@contextmanager
def watching(title: str, *, visible: bool = True) -> Iterator[Watch]:
    """A watch that draws a bar on stderr while the context lasts; without a terminal, lines alone.

    Parameters
    ----------
    title : what is going on.
    visible : False for all processes of a run but one.
    """
    if not visible or not sys.stderr.isatty():
        yield lines_only
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    def shown(text: str) -> str:
        return _encodable(one_line(text), sys.stderr)

    # Names in a title or a line are no markup, emoji or format of rich's.
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[of]}", markup=False),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(shown(title), total=None, of="")

        def watch(progress: Progress) -> None:
            if progress.line:
                line = shown(progress.line)
                bar.console.print(line, highlight=False, markup=False, emoji=False)
            of = shown(f"{progress.unit} {progress.detail}".rstrip())
            bar.update(task, completed=progress.done, total=progress.total, of=of)

        yield watch
