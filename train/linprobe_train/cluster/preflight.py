"""What a worker has to have before work is sent to it: this linprobe, the store, the results.

The driver makes a folder among the results; a worker that is fit for work writes a file into it,
which the driver then sees. A folder of the same name on the worker's own disk does not have it.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from linprobe.disk import Staging, make_folders
from linprobe.machine import available_cores, memory_limit
from linprobe_store.format.layout import FORMAT_FILE
from linprobe_store.handles.store import FeatureStore


@dataclass(frozen=True)
class Site:
    """What the driver has, and every worker must have."""

    store: Path
    """Folder of the store, absolute."""
    format_line: bytes
    """What its file ``FORMAT`` says."""
    meeting: Path
    """Folder of the driver's among the results, for notes of workers."""
    version: str
    """Of linprobe."""


@dataclass(frozen=True)
class Member:
    """A worker that is fit for work."""

    address: str
    """Of Dask's."""
    host: str
    """Name of its machine."""
    threads: int
    """Tasks that it runs at a time."""
    memory_bytes: int
    """Half of its limit, or of its share of the machine: the rest is for the pages of the store."""

    @property
    def name(self) -> str:
        """For a person."""
        return f"{self.address} on {self.host}"


@contextmanager
def site_of(store: Path, out: Path) -> Iterator[Site]:
    """A store and a folder of results, with a folder for notes that goes at the end.

    ``StoreError``: there is no store, or the results cannot be written to.
    """
    FeatureStore(store)
    line = (store / FORMAT_FILE).read_bytes()
    make_folders(out)
    with Staging(out) as staging:
        yield Site(store, line, staging.path, version("linprobe"))


def look_around(site: Site, note: str, host: str) -> Member | str:
    """On a worker: leave a note for a driver whose version, store and results it has.

    Gives what it lacks where it lacks something.
    """
    from distributed import get_worker

    if version("linprobe") != site.version:
        return f"it has linprobe {version('linprobe')}, this machine {site.version}"
    file = site.store / FORMAT_FILE
    try:
        line = file.read_bytes()
    except OSError as error:
        return f"it cannot read {file} ({error.strerror or error})"
    if line != site.format_line:
        return f"its {file} says {line!r}, this machine's {site.format_line!r}"
    try:
        (site.meeting / note).write_bytes(line)
    except OSError as error:
        reason = error.strerror or error
        return f"it cannot write to {site.meeting.parent} as this machine sees it ({reason})"
    worker = get_worker()
    n, limit = worker.state.nthreads, worker.memory_manager.memory_limit
    limit = limit or memory_limit() * min(n, available_cores()) // available_cores()
    return Member(worker.address, host, n, max(int(limit) // 2, 1))


def new_note() -> str:
    """A name that no file has had, so that no file system remembers that it is not there."""
    return uuid.uuid4().hex
