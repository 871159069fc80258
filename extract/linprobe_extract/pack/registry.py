"""Sources by their names: every module of ``pack.sources``, and the entry points of others.

To add a source, put a module with the names of :class:`Source` into ``pack/sources``; or, without
a fork, name it as an entry point of the group ``linprobe.sources`` in a package of your own.
"""

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from linprobe.errors import PackError
from linprobe_extract.pack import sources as built_in
from linprobe_extract.pack.listing import Listing, PackOptions

GROUP = "linprobe.sources"
"""Entry points of this group are sources."""


@runtime_checkable
class Source(Protocol):
    """A kind of source: a module, or an object, with these names."""

    NAME: str
    """What a person writes before the colon, such as ``csv``."""
    FORM: str
    """How it is written, such as ``csv:FILE``; without a colon it takes no words."""
    HELP: str
    """What it is, in one line of Markdown."""
    IS_PATH: bool
    """Whether its words are a path on this machine. What lies there is in the listing, so the
    same files are the same dataset wherever they lie."""
    NEVER_CHANGES: bool
    """Whether a finished dataset of the same words needs no new listing."""

    def list_samples(self, words: str, options: PackOptions) -> Listing:
        """List what ``words``, the text after the colon, name.

        Raises
        ------
        PackError : it is not there, or not as it should be.
        """


def sources() -> Mapping[str, Source]:
    """Every source by its name, our own first.

    Raises
    ------
    PackError : an entry point is no source, or has the name of another.
    """
    modules = sorted(module.name for module in pkgutil.iter_modules(built_in.__path__))
    ours = [(name, import_module(f"{built_in.__name__}.{name}")) for name in modules]
    others = [(point.value, point.load()) for point in entry_points(group=GROUP)]
    by_name: dict[str, Source] = {}
    for place, source in [*ours, *others]:
        if not isinstance(source, Source):
            raise PackError(
                f"{place} is no source: expected {', '.join(Source.__annotations__)} and "
                "list_samples",
                hint=f"correct the entry point {GROUP} of its package, or uninstall it",
            )
        if source.NAME in by_name:
            raise PackError(
                f"two sources are called {source.NAME}, one of them {place}",
                hint=f"rename it in its package, which names the entry point {GROUP}",
            )
        by_name[source.NAME] = source
    return by_name


def forms() -> str:
    """How every source is written, for help and hints."""
    return " | ".join(source.FORM for source in sources().values())
