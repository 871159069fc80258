"""The command-line boundary shared by the scripts of all three stages.

stdout carries the result and stderr everything else. Exit codes: 0 done, 1 an expected failure
told in two lines, 2 wrong usage, 130 interrupted. A bug keeps its traceback.
"""

import json
import os
import sys
from typing import NoReturn

import typer

from linprobe_store.canonical import JsonValue
from linprobe_store.errors import LinprobeError


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
