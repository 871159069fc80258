"""What installed packages add to linprobe, by entry points: no fork is needed to add a metric.

A package names an object under a group in its ``pyproject.toml``::

    [project.entry-points."linprobe.metrics"]
    brier = "my_package.scores:BRIER"
"""

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from linprobe.errors import LinprobeError

T = TypeVar("T")


def installed(group: str) -> Iterator[tuple[EntryPoint, object]]:
    """Objects that installed packages name under a group, sorted by the names of the entries.

    Raises
    ------
    LinprobeError : an entry cannot be loaded; names it and its package.
    """
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        try:
            value = entry.load()
        except Exception as error:  # whatever the code of another package raises
            raise refused(entry, f"{type(error).__name__}: {error}") from error
        yield entry, value


def declared(group: str, kind: type[T]) -> tuple[T, ...]:
    """Objects of a group, which must all be of a ``kind``.

    Raises
    ------
    LinprobeError : an entry cannot be loaded, or is not a ``kind``.
    """
    objects = []
    for entry, value in installed(group):
        if not isinstance(value, kind):
            raise refused(entry, f"it is not a {kind.__name__}")
        objects.append(value)
    return tuple(objects)


def refused(entry: EntryPoint, why: str) -> LinprobeError:
    """Error for an entry that cannot be used."""
    package = entry.dist.name if entry.dist else "an installed package"
    return LinprobeError(
        f"'{entry.name}' of {package} cannot be used: {why}",
        hint=f"pip uninstall {package}, or mend {entry.value} of its group {entry.group}",
    )
