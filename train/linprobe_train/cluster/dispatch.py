"""Jobs on Dask workers, each placed on a free thread of one that is fit for work.

Dask runs a job that kills its worker on the next one, with whatever else is there. Here a job whose
worker died runs once more, alone on one; where that dies too, the job is why.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from linprobe_train.cluster.members import CONTACT_SECONDS, Members
from linprobe_train.cluster.preflight import Member

if TYPE_CHECKING:
    from distributed import Client, Future

STEP_SECONDS = 0.5
"""How often it is asked who is there, where no job ends meanwhile."""
NAP_SECONDS = 0.02
"""How often it is looked whether a job has ended, which asks nobody."""
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work(Generic[Job, Result]):
    """What is to be done."""

    function: Callable[..., Result]
    """Runs on a worker."""
    arguments: Callable[[Job, Member], tuple[object, ...]]
    """Its arguments, for a job on a worker."""
    slots: Callable[[Member], int]
    """Jobs that a worker takes at a time, at least 1."""
    is_sound: Callable[[Result], bool]
    """False where the worker may be at fault: it has to look around again, and where it is not fit
    any more the job is done elsewhere."""


@dataclass(frozen=True)
class Ended(Generic[Job, Result]):
    """What became of a job."""

    job: Job
    """Which."""
    hosts: tuple[str, ...]
    """Where it was tried, in order."""
    result: Result | None
    """What it returned; None where it returned nothing."""
    problem: str = ""
    """Why it returned nothing."""


@dataclass(eq=False)
class _Run(Generic[Job]):
    """A job on a worker."""

    job: Job
    hosts: tuple[str, ...]
    future: "Future"
    member: Member
    alone: bool


class Dispatch(Generic[Job, Result]):
    """Runs jobs on workers.

    Parameters
    ----------
    client : of the scheduler that knows them.
    members : which of them are fit.
    work : what is done with a job.
    at_once : most jobs at a time; None for all that the workers take.
    """

    def __init__(
        self,
        client: "Client",
        members: Members,
        work: Work[Job, Result],
        at_once: int | None = None,
    ) -> None:
        self._client, self._members, self._work = client, members, work
        self._at_once = at_once
        self._fresh: deque[Job] = deque()
        self._suspects: deque[tuple[Job, tuple[str, ...]]] = deque()
        self._runs: list[_Run[Job]] = []
        self._doubts: dict[str, tuple[_Run[Job], Result]] = {}
        self._ended: deque[Ended[Job, Result]] = deque()

    def run(self, jobs: Iterable[Job]) -> Iterator[Ended[Job, Result]]:
        """Run jobs; each is given once it has ended, in any order.

        ``ProbeError``: the scheduler is gone, or no worker is fit for work.
        """
        self._fresh.extend(jobs)
        try:
            while self._fresh or self._suspects or self._runs or self._doubts:
                self._look_after_workers()
                self._place()
                self._members.check_hope(is_working=bool(self._runs))
                self._wait()
                while self._ended:
                    yield self._ended.popleft()
        finally:
            with suppress(Exception):  # the connection may be what failed
                self._client.cancel([run.future for run in self._runs])

    def _look_after_workers(self) -> None:
        """Take jobs from workers that died; believe the results of those that are still fit."""
        present, judged = self._members.update()
        for run in [run for run in self._runs if run.member.address not in present]:
            self._bury(run)
        for address, lacks in judged.items():
            if address in self._doubts:
                run, result = self._doubts.pop(address)
                if lacks:
                    self._try_again(run, lacks)
                else:
                    self._ended.append(Ended(run.job, run.hosts, result))

    def _place(self) -> None:
        """Give free threads jobs: suspects last, each alone on a worker."""
        while self._at_once is None or len(self._runs) < self._at_once:
            load = dict.fromkeys(self._members.fit, 0.0)
            for run in self._runs:
                if run.member.address in load:
                    share = 1.0 if run.alone else 1 / self._work.slots(run.member)
                    load[run.member.address] += share
            address = min(load, key=load.__getitem__, default=None)
            if address is None or load[address] > 1 - 1e-9:
                return
            if self._fresh:
                self._start(self._fresh.popleft(), (), address, alone=False)
            elif self._suspects and not load[address]:
                self._start(*self._suspects.popleft(), address, alone=True)
            else:
                return

    def _start(self, job: Job, hosts: tuple[str, ...], address: str, *, alone: bool) -> None:
        member = self._members.fit[address]
        future = self._client.submit(
            self._work.function,
            *self._work.arguments(job, member),
            workers=[address],
            allow_other_workers=False,
            pure=False,
        )
        self._runs.append(_Run(job, (*hosts, member.host), future, member, alone))

    def _wait(self) -> None:
        """Wait until a job ends or a worker has looked around, for a step at most."""
        futures = [*(run.future for run in self._runs), *self._members.looking()]
        until = time.monotonic() + STEP_SECONDS
        while not self._ended and time.monotonic() < until:
            if any(future.done() for future in futures):
                break
            time.sleep(NAP_SECONDS)
        for run in [run for run in self._runs if run.future.done()]:
            self._end(run)

    def _end(self, run: _Run[Job]) -> None:
        from distributed import CancelledError, KilledWorker

        try:
            result = run.future.result(timeout=CONTACT_SECONDS)
        except (KilledWorker, CancelledError):
            self._bury(run)
            return
        except Exception as error:
            if run.future.status == "error":
                self._runs.remove(run)
                problem = f"{type(error).__name__}: {error}"
                self._ended.append(Ended(run.job, run.hosts, None, problem))
            return  # else the worker is gone, with the result: it is missed next
        self._runs.remove(run)
        address = run.member.address
        if self._work.is_sound(result):
            self._ended.append(Ended(run.job, run.hosts, result))
        elif address in self._doubts:
            self._try_again(run, "its worker was in doubt")
        else:
            self._doubts[address] = run, result
            self._members.doubt(address)

    def _bury(self, run: _Run[Job]) -> None:
        """Note a job whose worker died while it ran."""
        self._runs.remove(run)
        run.future.cancel()
        self._try_again(run, "its worker died while it ran")

    def _try_again(self, run: _Run[Job], why: str) -> None:
        """Set a job apart, to run once more alone; it ends where it was alone already."""
        if run.alone:
            self._ended.append(Ended(run.job, run.hosts, None, why))
        else:
            self._suspects.append((run.job, run.hosts))
