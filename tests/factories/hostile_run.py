"""Runs the readers on hostile bytes in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("hostile_worker.py")


def run_readers(
    root: Path, inputs: int, *, seed: int = 0, names: tuple[str, ...] = (), timeout_s: int = 600
) -> list[dict[str, Any]]:
    """A row for every reader, of ``hostile_worker.Row``; AssertionError where the process died."""
    words = [sys.executable, str(WORKER), str(inputs), str(seed), str(root), *names]
    path = os.pathsep.join(path for path in (str(WORKER.parent), *sys.path) if path)
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, (
        f"{done.returncode} after {done.stdout[-300:]}: {done.stderr[-3000:]}"
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
