"""linprobe: linear probes of frozen vision encoders, from images to a number.

The public names of all stages are those that ``__init__.pyi`` imports. Each is loaded when it is
first used: importing this package loads neither torch nor zarr nor scikit-learn.
"""

import re
from importlib import import_module
from pathlib import Path

_HOMES = {
    name: module
    for module, name in re.findall(
        r"^from (\S+) import (\w+)", Path(__file__).with_suffix(".pyi").read_text(), re.MULTILINE
    )
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("linprobe")
    if name not in _HOMES:
        raise AttributeError(f"module 'linprobe' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
