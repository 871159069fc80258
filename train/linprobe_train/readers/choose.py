"""From settings to whoever reads the rows: threads here, or Dask workers."""

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from linprobe.errors import OptionError
from linprobe.machine import available_cores
from linprobe_train.cluster.connect import connected
from linprobe_train.readers.crew import ClusterCrew
from linprobe_train.readers.remote import Facts, Identity, Refused, check_unchanged, facts, identity
from linprobe_train.solver.fit import FitSettings
from linprobe_train.solver.passes import Crew, crew_of

if TYPE_CHECKING:
    from distributed import Client, Future

R = TypeVar("R")

ANSWER_SECONDS = 60
"""Until a worker has to have answered: it imports what it needs first."""


@contextmanager
def readers(settings: FitSettings) -> Iterator[Crew]:
    """Threads, or workers where there are some, for the length of a ``with``.

    ``OptionError``: no scheduler answers, or a worker cannot do its part, which is said by name.
    """
    with crew_of(settings.threads) as crew:
        if settings.workers is None:
            yield crew
            return
        workers, own = str(settings.workers), identity()
        with connected(workers) as client:
            told = tuple(_ask(client, own))
            place = f"{len(told)} workers of {client.scheduler.address}"
            cores = available_cores() if workers.isdecimal() else None
            insist = settings.even_if_slower
            over = ClusterCrew(crew.threads, crew.pool, client, place, own, told, cores, insist)
            yield over
            _check_unchanged(client, over)


def _check_unchanged(client: "Client", crew: ClusterCrew) -> None:
    """``OptionError``: a worker read files that changed after it had verified them."""
    places = tuple(crew.places)
    for answer in _sent(client, check_unchanged, places).values():
        with suppress(TimeoutError, CancelledError):  # it is gone, its rows were read elsewhere
            _result(answer)


def _ask(client: "Client", own: Identity) -> Iterator[Facts]:
    """What every worker is; ``OptionError`` names one that cannot do its part."""
    addresses = sorted(client.nthreads())
    if not addresses:
        what = f"the scheduler at {client.scheduler.address} has no workers"
        raise OptionError(what, hint=f"start some: dask worker {client.scheduler.address}")
    for address, answer in _sent(client, facts, own).items():
        try:
            yield _result(answer)
        except OptionError:
            raise
        except Exception as error:  # of whatever Python runs there
            what = f"worker {address} cannot run linprobe {own.linprobe}: {error!r}"
            hint = f"install it there: pip install 'linprobe[cluster]=={own.linprobe}'"
            raise OptionError(what, hint=hint) from error


def _sent(client: "Client", question: Callable[..., R], about: object) -> "dict[str, Future]":
    return {
        address: client.submit(question, about, workers=[address], pure=False)
        for address in sorted(client.nthreads())
    }


def _result(answer: "Future") -> Any:  # noqa: ANN401  # what was asked for
    try:
        return answer.result(timeout=ANSWER_SECONDS)
    except Refused as error:
        message, hint = error.args
        raise OptionError(message, hint=hint) from None
