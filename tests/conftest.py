"""Without an extra, the tests that need it are left out, and the head of a run names them."""

import os
from importlib.util import find_spec

NEEDS = {
    "extract": "torch",
    "extract/test_object_store.py": "s3fs",
    "extract/test_transformers.py": "transformers",
    "train/test_report.py": "matplotlib",
}
"""Tests below this folder, and a package that shows whether their extra is installed."""

# `make test` has it set for the commands that it runs; tests read what is said without make.
os.environ.pop("LINPROBE_MAKE", None)

_left_out = {path: package for path, package in NEEDS.items() if find_spec(package) is None}
collect_ignore = list(_left_out)


def pytest_report_header() -> list[str]:
    return [
        f"left out: {path}, which needs {package}: not installed"
        for path, package in _left_out.items()
    ]
