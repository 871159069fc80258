"""The arrows between the stages: extract to store, train to store, and no torch on a CPU box."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "open_clip", "timm", "webdataset")


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}; import sys; print(*{{m.split('.')[0] for m in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("linprobe_store", (*HEAVY, "linprobe_extract", "linprobe_train", "sklearn")),
        ("linprobe_store.cli", (*HEAVY, "linprobe_extract", "linprobe_train", "sklearn")),
        ("linprobe_train", (*HEAVY, "linprobe_extract")),
        ("linprobe_train.cli", (*HEAVY, "linprobe_extract")),
        ("linprobe_extract.cli", (*HEAVY, "linprobe_train")),
    ],
)
def test_a_stage_imports_nothing_that_it_must_not(module: str, forbidden: tuple[str, ...]) -> None:
    loaded = modules_after(f"import {module}")

    assert loaded.isdisjoint(forbidden)
