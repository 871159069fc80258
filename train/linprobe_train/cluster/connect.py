"""What ``--workers ADDRESS|N`` means everywhere: a client of Dask workers, closed at the end."""

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from linprobe.errors import OptionError
from linprobe.machine import available_cores

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 5.0
"""How long a scheduler may take to answer."""
CLOSE_SECONDS = 5.0
"""How long the end of a connection may take, so that a lost scheduler holds nobody up."""
_MEMORY = "distributed.worker.memory"
UNBOUNDED = {f"{_MEMORY}.{act}": False for act in ("target", "spill", "pause", "terminate")}
"""Configuration of workers that are started here: Dask counts the mapped pages of a store as a
worker's memory, and would pause and kill what only reads; what a fit takes itself is planned."""


@contextmanager
def connected(workers: str) -> Iterator["Client"]:
    """Give a client of Dask workers, which is closed at the end, as are workers started for it.

    Parameters
    ----------
    workers : address of a scheduler, such as ``tcp://10.0.0.1:8786``; or how many worker processes
        to start on this machine, which share its cores and memory.

    Raises
    ------
    OptionError : it is neither; or no scheduler answers there within seconds.
    ModuleNotFoundError : the extra ``cluster`` is not installed.
    """
    from dask import config
    from distributed import Client

    local = workers.isdecimal()
    place: AbstractContextManager[object]
    if local:
        place = _start(int(workers))
    else:
        _check_scheduler(workers)
        place = nullcontext(workers)
    with config.set(UNBOUNDED if local else {}), place as address:
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, ImportError) as error:
            raise _unanswered(workers, str(error)) from error
        try:
            yield client
        finally:
            with suppress(TimeoutError, OSError):
                client.close(timeout=CLOSE_SECONDS)


@contextmanager
def _start(n: int) -> Iterator[object]:
    """Worker processes here; an own one dies with this process, and is replaced when it dies."""
    from distributed import LocalCluster

    if n < 1:
        raise OptionError(f"--workers {n}; expected at least 1", hint="--workers 2")
    cluster = LocalCluster(
        n_workers=n,
        threads_per_worker=max(1, available_cores() // n),
        dashboard_address="127.0.0.1:0",  # None takes a port that others want
        silence_logs=logging.CRITICAL,
    )
    try:
        yield cluster
    finally:
        cluster.close(timeout=CLOSE_SECONDS)


def _check_scheduler(address: str) -> None:
    """Refuse an address where no scheduler answers, also one that takes connections silently."""
    with ThreadPoolExecutor(1) as thread:  # an own loop: a notebook's runs in this thread already
        try:
            kind = thread.submit(asyncio.run, _kind_of(address)).result()
        # Whatever else listens there is read as a message of Dask's: anything comes of it.
        except Exception as error:
            raise _unanswered(address, str(error) or "nothing said") from error
    if kind != "Scheduler":
        raise _unanswered(address, f"a Dask {kind.lower()} is there")


async def _kind_of(address: str) -> str:
    """What answers at an address: ``Scheduler``, ``Worker`` or ``Nanny``."""
    from distributed.comm import connect
    from distributed.core import send_recv
    from distributed.security import Security

    async def ask() -> str:
        arguments = Security().get_connection_args("client")
        comm = await connect(address, timeout=CONNECT_SECONDS, **arguments)
        try:
            identity = await send_recv(comm, op="identity")
        finally:
            comm.abort()
        return str(identity["type"])

    return await asyncio.wait_for(ask(), CONNECT_SECONDS)


def _unanswered(address: str, why: str) -> OptionError:
    return OptionError(
        f"--workers {address}: no Dask scheduler answered ({why})",
        hint="start 'dask scheduler' and 'dask worker ADDRESS', then pass the address that it "
        "prints; or --workers 2 for processes on this machine",
    )
