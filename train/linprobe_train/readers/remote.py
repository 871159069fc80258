"""What a worker does: say what it is, open rows, read lanes of them, join what was read.

Everything here runs in a worker's process, in threads of its own.
"""

import hashlib
import socket
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import LinprobeError, MismatchError
from linprobe_store.arrays.mapping import let_go
from linprobe_train.solver.passes import Read, joined
from linprobe_train.solver.preparation import Float32, Float64, Preparation
from linprobe_train.solver.reads.loss import LossAt
from linprobe_train.solver.reads.reading import Reading
from linprobe_train.solver.reads.stored import Place, StoredRows, check_places
from linprobe_train.solver.rows import AnyFeatures, Rows, rows_of_array

R = TypeVar("R")

KEPT = 12
"""Sets of rows that a worker keeps open: five folds with their held-out rows, all, and test."""
_LOCK = Lock()
_ROWS: "OrderedDict[str, Rows]" = OrderedDict()


class Refused(Exception):  # noqa: N818  # travels between processes: positional arguments alone
    """A worker cannot do its part: what is wrong, naming it, and what to do."""


@dataclass(frozen=True)
class Identity:
    """What has to be the same in every process for sums to have the same bits."""

    linprobe: str
    """Version."""
    numpy: str
    """Version."""
    arithmetic: str
    """Digest of sums of a few rows: kernels are chosen by the processor."""


@dataclass(frozen=True)
class Facts:
    """A worker that can do its part."""

    address: str
    """Dask's."""
    host: str
    """Name of its machine."""
    threads: int
    """Tasks that it does at once."""
    memory_bytes: int
    """Its limit; 0 where none is held to."""
    resident_bytes: int
    """What it takes before it has read anything."""


@dataclass(frozen=True)
class GatherAt:
    """Copies some rows as stored."""

    wanted: NDArray[np.int64]
    """Their positions, ascending."""

    def __call__(self, rows: Rows, first: int) -> tuple[AnyFeatures, ...]:
        """Those among some rows, the first of them being row ``first``."""
        span = np.searchsorted(self.wanted, [first, first + rows.n])
        return (rows.gather(self.wanted[slice(*span)] - first),)


@cache
def identity() -> Identity:
    """Of this process, whose BLAS has one thread."""
    digest = hashlib.sha256()
    values = (np.arange(70 * 45) * 7919 % 1009 / 1009 - 0.5).reshape(70, 45)
    rows = rows_of_array(values.astype(np.float16), np.arange(70) % 9, 9)
    for arithmetic in ("float32", "float64"):
        columns = values[:9].T.astype(arithmetic)
        mean = np.zeros(45, arithmetic)
        reading = Reading("softmax", Preparation(True, arithmetic=arithmetic), mean, 70.0)
        loss, gradient = LossAt(reading, columns, mean[:9])(rows, 0)
        digest.update(np.float64(loss).tobytes() + gradient.tobytes())
    return Identity(version("linprobe"), np.__version__, digest.hexdigest()[:12])


def facts(expected: Identity) -> Facts:
    """What this worker is; ``Refused`` where its sums could have other bits."""
    from distributed import get_worker

    with _refusing():
        _check(expected)
        worker = get_worker()
        manager, taken = worker.memory_manager, worker.monitor.get_process_memory()
        limit = manager.memory_limit if manager.memory_pause_fraction else 0
        own = int(worker.state.nthreads), int(limit or 0), int(taken)
        return Facts(worker.address, socket.gethostname(), *own)


def check_unchanged(places: Collection[Place]) -> None:
    """``Refused``: files of what this worker has read of splits changed since it verified them."""
    with _refusing(), _LOCK:
        check_places(_ROWS.values(), places)


def read_lanes(
    expected: Identity,
    stored: StoredRows,
    read: Read[R],
    join: Callable[[R, R], R],
    start: int,
    stop: int,
) -> R:
    """What is read of some lanes, joined up their part of the tree; ``Refused``."""
    with _refusing():
        _check(expected)
        lanes = _opened(stored).lanes[start:stop]
        with np.errstate(invalid="ignore"):  # see crew_of
            return joined((_read_one(read, first, rows) for first, rows in lanes), join)


def empty_sums(columns: Float32) -> tuple[float, Float64]:
    """Sums of no rows, (m, d + 1), for W' (d, m): what a pass costs beside its rows."""
    d, m = columns.shape
    return 0.0, np.zeros((m, d + 1))


def _read_one(read: Read[R], first: int, rows: Rows) -> R:
    part = read(rows, first)
    for block in rows.blocks:
        for view in (block.features, *block.beside):
            let_go(view)
    return part


def _opened(stored: StoredRows) -> Rows:
    with _LOCK:
        if stored.uid not in _ROWS:
            _ROWS[stored.uid] = stored.open()
            while len(_ROWS) > KEPT:
                _ROWS.popitem(last=False)
        _ROWS.move_to_end(stored.uid)
        return _ROWS[stored.uid]


@cache
def _own_identity() -> Identity:
    """Of this worker, whose BLAS keeps to one thread from now on."""
    import scipy.linalg  # noqa: F401  # its BLAS is another library, which the limit must find
    from threadpoolctl import threadpool_limits

    # For good: limits for a time, of tasks that overlap, would end one another.
    threadpool_limits(1, user_api="blas")
    return identity()


def _check(expected: Identity) -> None:
    own = _own_identity()
    for name, what in (("linprobe", "linprobe"), ("numpy", "numpy")):
        wanted, version_here = getattr(expected, name), getattr(own, name)
        if version_here != wanted:
            raise MismatchError(
                f"expected {what} {wanted}, found {version_here}",
                hint=f"install the same there: pip install {what}=={wanted}",
            )
    if own.arithmetic != expected.arithmetic:
        raise MismatchError(
            f"expected sums of digest {expected.arithmetic}, found {own.arithmetic}: its processor "
            "adds in another order, and coefficients would have other last bits",
            hint="start it on such a machine as this; or start all of them, and this, with "
            "OPENBLAS_CORETYPE=Haswell NPY_DISABLE_CPU_FEATURES=AVX512F",
        )


@contextmanager
def _refusing() -> Iterator[None]:
    """Name this worker in what it cannot do."""
    from distributed import get_worker

    try:
        yield
    except (LinprobeError, OSError, MemoryError) as error:
        who = f"worker {get_worker().address} on {socket.gethostname()}"
        message = error.message if isinstance(error, LinprobeError) else str(error)
        hint = error.hint if isinstance(error, LinprobeError) else "see its log"
        raise Refused(f"{who}: {message}", hint) from None
