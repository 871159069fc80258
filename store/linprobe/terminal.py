"""The command-line boundary shared by the scripts of all three stages.

stdout carries the result and stderr everything else. Exit codes: 0 done, 1 an expected failure
told in two lines, 2 wrong usage, 130 interrupted. A bug keeps its traceback.

Plain text tables for the terminal.

What a person sees on the terminal while a run goes on; nothing where nobody looks.

The progress bar of packing: on a terminal only, on stderr.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn, Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from linprobe.errors import LinprobeError
from linprobe.records import JsonValue

Watch = Callable[[int, int], None]
"""Told samples done and samples in all, from any thread."""


def new_app(help_text: str) -> typer.Typer:
    """Make a Typer application with the settings that all our scripts share."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def run(app: typer.Typer) -> NoReturn:
    """Run a script: the one place where an expected failure becomes two lines and exit code 1."""
    try:
        app()
    except LinprobeError as error:
        note(f"error: {error.message}")
        note(f"hint: {error.hint}")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our stdout (head, less) has left; keep the interpreter's last flush quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(0)


def note(text: str) -> None:
    """Write a line for the person at the terminal to stderr."""
    typer.echo(text, err=True)


def emit(text: str) -> None:
    """Write the result of a command to stdout."""
    typer.echo(text)


def emit_json(value: JsonValue) -> None:
    """Write the result of a command to stdout as one indented JSON object.

    Raises
    ------
    ValueError : a float is not finite.
    """
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def human_bytes(n_bytes: float) -> str:
    """Write a size the way people read it: ``1.97 GB`` (powers of 1000, three digits)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.4g} TB"


_GAP = "  "
_AGES = (("s", 60.0), ("min", 60.0), ("h", 24.0), ("d", 365.0))


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: str) -> str:
    """Align columns under a header.

    Parameters
    ----------
    numeric : one character per column, ``>`` to align it to the right and ``<`` to the left.
    """
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        _GAP.join(
            cell.rjust(width) if side == ">" else cell.ljust(width)
            for cell, width, side in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def human_age(seconds: float) -> str:
    """Write an age the way people read it: ``3 min``, ``2 d``."""
    for unit, size in _AGES:
        if seconds < size:
            return f"{seconds:.0f} {unit}"
        seconds /= size
    return f"{seconds:.1f} y"


class TerminalObserver:
    """An observer that draws a progress bar on stderr when that is a terminal.

    Parameters
    ----------
    title : what is being extracted.
    visible : False for all processes of a run but one.
    """

    def __init__(self, title: str, *, visible: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (visible and console.is_terminal),
        )
        self._task: TaskID | None = None
        self._counts_images = False
        self._n_images = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def planned(self, n_shards: int, n_images: int | None) -> None:
        """Start the bar: over images when their number is known, else over shards."""
        self._counts_images = n_images is not None
        self._started = time.monotonic()
        total = n_shards if n_images is None else n_images
        self._task = self._progress.add_task("", total=total, rate="")

    def encoded(self, n_images: int, limit: str) -> None:
        """Move the bar by a batch; tell the rate and what limits it."""
        if self._task is None:
            return
        self._n_images += n_images
        rate = self._n_images / max(time.monotonic() - self._started, 1e-9)
        self._progress.update(self._task, rate=f"{rate:.0f} images/s, limit: {limit}")
        if self._counts_images:
            self._progress.advance(self._task, n_images)

    def shard_done(self) -> None:
        """Move the bar by a shard."""
        if self._task is not None and not self._counts_images:
            self._progress.advance(self._task)

    def told(self, text: str) -> None:
        """Say it above the bar."""
        if self._progress.disable:
            note(text)
        else:
            self._progress.console.print(text, highlight=False)


@contextmanager
def pack_progress() -> Iterator[Watch]:
    """A watch that draws a bar while the context lasts; where stderr is a file it draws none."""
    console = Console(stderr=True)
    columns = (
        TextColumn("packing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("packing", total=None)

        def watch(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield watch
