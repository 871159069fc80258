"""Reads of rows as tasks of Dask: leaves read a few lanes each, and a tree of futures joins them.

Sums move from worker to worker up the tree; one comes back. A task that was lost with its worker
is done again elsewhere, by the scheduler, and the same bits come of it.
"""

import weakref
from asyncio import CancelledError
from collections.abc import Callable
from concurrent.futures import CancelledError as Cancelled
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from operator import add
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import OptionError, ProbeError
from linprobe.terminal import human_bytes
from linprobe_train.cluster.members import CONTACT_SECONDS
from linprobe_train.readers.cost import pass_cost
from linprobe_train.readers.remote import (
    Facts,
    GatherAt,
    Identity,
    Refused,
    empty_sums,
    read_lanes,
)
from linprobe_train.solver.passes import Crew, Read, joined, pass_bytes
from linprobe_train.solver.preparation import Float32
from linprobe_train.solver.problem import Sizes
from linprobe_train.solver.reads.axes import Gather
from linprobe_train.solver.reads.loss import add_sums
from linprobe_train.solver.reads.stored import Place, stored_rows
from linprobe_train.solver.rows import Rows

if TYPE_CHECKING:
    from distributed import Client, Future

R = TypeVar("R")

LEAVES = 4
"""Leaves of the tree for every thread of a worker: none waits long for the last."""
TRIES = 4
"""Of a pass whose data was lost with a worker."""
WAIT = 2.0
"""Seconds between two looks at the cluster while a pass goes on."""
PATIENCE = 15
"""Looks that find no worker until a fit ends: a worker that was killed takes seconds to be back."""
SETS = 8
"""Times its rows that the sets of a search, folds and held-out rows among them, have of labels and
weights at most."""
FULL = 0.8
"""Share of its limit at which Dask stops a worker."""


@dataclass(frozen=True)
class ClusterCrew(Crew):
    """Threads here for what has no rows, workers for what has."""

    client: "Client"
    """Connected."""
    place: str
    """For a person: the scheduler's address, or how many workers were started here."""
    expected: Identity
    """What a worker must be."""
    workers: tuple[Facts, ...]
    """What they said of themselves before the first task."""
    cores: int | None
    """Of this machine, where the workers share it; None for others'."""
    even_if_slower: bool
    """Whether a pass that is faster here is done there."""
    places: set[Place] = field(default_factory=set)
    """What the workers have read so far."""
    _shared: dict[int, "Future"] = field(default_factory=dict)

    def total(self, rows: Rows, read: Read[R], join: Callable[[R, R], R]) -> R:
        """As threads do, by workers."""

        def tree() -> "Future":
            shared = self._share(rows)
            sent = self._send(read)

            def leaf(start: int, stop: int, home: str) -> "Future":
                job = self.expected, shared, sent, join, start, stop
                return self._submit(read_lanes, *job, home=home)

            return self._grown(len(rows.lanes), leaf, join)

        result: R = self._done(tree)
        return result

    def near(self, rows: Rows, wanted: NDArray[np.int64]) -> Gather:
        """Fetch them all at once; what copies them then reads the copy."""
        stored = np.concatenate(self.total(rows, GatherAt(wanted), add))
        return lambda positions: stored[np.searchsorted(wanted, positions)]

    def weigh(self, rows: Rows, columns: int, *, normalize: bool) -> str | None:
        """As promised: measured here on a few blocks, over the workers on a pass without rows."""
        stored_rows(rows)
        self._check_memory(rows, columns)
        count, slots = len(rows.lanes), len(self._threads())
        slots = min(slots, count, self.cores or slots)
        cost = pass_cost(
            rows,
            columns,
            min(self.threads, count),
            slots,
            partial(self.empty_pass, count),
            normalize=normalize,
        )
        line = f"a pass takes about {cost.here:.2g} s here on {self.threads} threads, and over "
        line += f"{self.place} {cost.there:.2g} s, {cost.overhead:.2g} s of it to send and to add"
        if cost.there >= cost.here and not self.even_if_slower:
            raise OptionError(line, hint="leave the workers out, or pass --even-if-slower")
        return line

    def empty_pass(self, lanes: int, W: Float32) -> None:
        """Send W', (d, m), and add up gradients of no rows: all of a pass but its rows."""

        def tree() -> "Future":
            sent = self._send(W)

            def leaf(_start: int, _stop: int, home: str) -> "Future":
                return self._submit(empty_sums, sent, home=home)

            return self._grown(lanes, leaf, add_sums)

        self._done(tree)

    def _check_memory(self, rows: Rows, columns: int) -> None:
        """Refuse, by an OptionError, a worker whose limit is below what its tasks take."""
        label = rows.labels.itemsize * rows.labels[0].size
        for worker in self.workers:
            sizes = Sizes(rows.n, rows.dim, columns, worker.threads, label=label)
            needed = worker.resident_bytes + pass_bytes(sizes) + SETS * (label + 8) * rows.n
            if worker.memory_bytes and needed > FULL * worker.memory_bytes:
                least, limit = human_bytes(needed / FULL), human_bytes(worker.memory_bytes)
                who = f"worker {worker.address} on {worker.host}"
                raise OptionError(
                    f"{who}: a pass needs a limit of {least} of memory; its limit is {limit}",
                    hint="start it with fewer threads, or with a larger --memory-limit",
                )

    def _share(self, rows: Rows) -> "Future":
        """Send what rows these are, once as long as they live."""
        key = id(rows)
        if key not in self._shared:
            stored = stored_rows(rows)
            self.places.update(stored.places)
            self._shared[key] = self._send(stored)
            weakref.finalize(rows, self._shared.pop, key, None)
        return self._shared[key]

    def _send(self, value: object) -> "Future":
        """Give a value to the workers, once the scheduler has answered: scatter waits for ever."""
        self._threads()
        (sent,) = self.client.scatter([value], hash=False)
        return sent

    def _submit(self, work: Callable[..., object], *job: object, home: str) -> "Future":
        return self.client.submit(work, *job, pure=False, workers=[home], allow_other_workers=True)

    def _threads(self) -> list[str]:
        """Address of the worker of every thread; ``ProbeError``: there is none for a while."""
        for _ in range(PATIENCE):
            try:
                threads = self.client.nthreads(callback_timeout=CONTACT_SECONDS)
            # What Dask raises here differs from version to version; all of it means the same.
            except Exception as error:
                raise ProbeError(
                    f"{self.place}: the scheduler is lost ({error})",
                    hint="start it and its workers again, then run the same command",
                ) from error
            if homes := [home for home in sorted(threads) for _ in range(threads[home])]:
                return homes
            sleep(WAIT)
        raise ProbeError(
            f"{self.place}: no worker is left",
            hint="start workers: dask worker ADDRESS; then run the same command again",
        )

    def _grown(
        self, lanes: int, leaf: "Callable[[int, int, str], Future]", join: Callable[[R, R], R]
    ) -> "Future":
        """Plant a tree over lanes; a leaf reads a power of two of them, a branch of the tree."""
        homes = self._threads()
        each = 1 << (max(1, lanes // (LEAVES * len(homes))).bit_length() - 1)
        starts = range(0, lanes, each)
        leaves = []
        for i, start in enumerate(starts):
            home = homes[i * len(homes) // len(starts)]
            leaves.append((leaf(start, min(start + each, lanes), home), home))

        def grown(one: "tuple[Future, str]", other: "tuple[Future, str]") -> "tuple[Future, str]":
            # Where the first is: neighbours are mostly of one worker, and nothing moves.
            return self._submit(_join, join, one[0], other[0], home=one[1]), one[1]

        return joined(leaves, grown)[0]

    def _done(self, tree: Callable[[], "Future"]) -> Any:  # noqa: ANN401  # what the tasks give
        """The result of a tree of tasks, planted again where the data of one was lost."""
        from distributed import KilledWorker

        for _ in range(TRIES):
            self._threads()
            try:
                return self._result(tree())
            except Refused as error:
                message, hint = error.args
                raise OptionError(message, hint=hint) from None
            # Lost are also a connection and an answer in time (OSError).
            except (CancelledError, Cancelled, KilledWorker, OSError):
                self._shared.clear()
        raise ProbeError(
            f"{self.place}: a pass over the rows was lost {TRIES} times with its workers",
            hint="see their logs; give each more memory, or use fewer threads a worker",
        )

    def _result(self, future: "Future") -> object:
        while True:
            try:
                return future.result(timeout=WAIT)
            except TimeoutError:
                self._threads()


def _join(join: Callable[[R, R], R], one: R, other: R) -> R:
    # What a task was given may be asked for again.
    return join(deepcopy(one), other)
