"""What installed packages add to linprobe, by entry points: no fork is needed to add a metric.

A package names an object under a group in its ``pyproject.toml``::

    [project.entry-points."linprobe.metrics"]
    brier = "my_package.scores:BRIER"
"""

from importlib.metadata import entry_points
from typing import TypeVar

from linprobe.errors import OptionError

T = TypeVar("T")


def declared(group: str, kind: type[T]) -> tuple[T, ...]:
    """Objects that installed packages name under a group, sorted by the names of the entries.

    Raises
    ------
    OptionError : an entry cannot be loaded, or is not a ``kind``.
    """
    objects = []
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        try:
            value = entry.load()
        except Exception as error:
            raise _refused(group, entry.value, f"cannot be loaded ({error})") from error
        if not isinstance(value, kind):
            raise _refused(group, entry.value, f"is not a {kind.__name__}")
        objects.append(value)
    return tuple(objects)


def _refused(group: str, value: str, why: str) -> OptionError:
    return OptionError(f"the entry {value} of {group} {why}", hint="mend or remove its package")
