"""The command as a person runs it, in this process."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from linprobe.door import main


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


def run_command(*words: str | Path) -> Result:
    """Run ``linprobe WORDS``; a bug's traceback is raised."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        patch.object(sys, "argv", ["linprobe", *map(str, words)]),
        patch.object(sys, "stdin", io.StringIO()),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return Result(int(str(code or 0)), out.getvalue(), err.getvalue())
