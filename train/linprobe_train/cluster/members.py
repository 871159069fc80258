"""Which workers of a scheduler are fit for work, asked again and again."""

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from linprobe.errors import ProbeError
from linprobe.names import first_few
from linprobe.terminal import Progress, Watch
from linprobe_train.cluster.preflight import Member, Site, look_around, new_note

if TYPE_CHECKING:
    from distributed import Client, Future

CONTACT_SECONDS = 30.0
"""How long the scheduler may take to answer, and a result to come."""
ANSWER_SECONDS = 30.0
"""How long a worker may take to look around before a person is told."""
SEEN_SECONDS = 5.0
"""How long a file that a worker wrote may take to be seen here: file systems of networks lag."""
PATIENCE_SECONDS = 30.0
"""How long none may be fit for work: Dask replaces workers that died within seconds."""


@dataclass(eq=False)
class _Look:
    """A worker that looks around."""

    note: str
    host: "Future"
    answer: "Future"
    since: float
    is_told: bool = False


class Members:
    """The workers of a scheduler, which may come and go.

    Parameters
    ----------
    client : of the scheduler.
    site : what a worker must have.
    watch : sees a line for each worker that is left out.
    """

    def __init__(self, client: "Client", site: Site, watch: Watch) -> None:
        self.fit: dict[str, Member] = {}
        self._client, self._site, self._watch = client, site, watch
        self._unfit: dict[str, str] = {}
        self._looks: dict[str, _Look] = {}
        self._hope = time.monotonic()

    def looking(self) -> list["Future"]:
        """What is waited for."""
        return [look.answer for look in self._looks.values()]

    def doubt(self, address: str) -> None:
        """Let a worker look around again: until then it is not fit."""
        self.fit.pop(address, None)
        if address not in self._looks:
            submit, note = self._client.submit, new_note()
            where = {"workers": [address], "allow_other_workers": False, "pure": False}
            host = submit(socket.gethostname, **where)
            answer = submit(look_around, self._site, note, host, **where)
            self._looks[address] = _Look(note, host, answer, time.monotonic())

    def update(self) -> tuple[set[str], dict[str, str]]:
        """Ask who is there, and let those who are new look around.

        Returns
        -------
        Addresses of all who are there; those who have looked around since, with what they lack.

        Raises
        ------
        ProbeError : the scheduler is gone, or no worker is fit for work.
        """
        present = self._present()
        with suppress(OSError):
            os.utime(self._site.meeting)  # else it looks left behind after a day
        for address in present - {*self.fit, *self._unfit, *self._looks}:
            self.doubt(address)
        for address in self.fit.keys() - present:
            del self.fit[address]
        for address in self._unfit.keys() - present:
            del self._unfit[address]
        judged = dict.fromkeys(self._looks.keys() - present, "it is gone")
        for address, look in self._looks.items():
            if address in present and look.answer.done():
                judged[address] = self._judge(address, look)
            elif not look.is_told and time.monotonic() - look.since > ANSWER_SECONDS:
                look.is_told = True
                self._tell(f"the worker {address} does not answer: it is busy, or its disk hangs")
        for address in judged:
            del self._looks[address]
        return present, judged

    def check_hope(self, *, is_working: bool) -> None:
        """Refuse, by a ``ProbeError``, to wait for workers that do not come."""
        if is_working or self.fit or any(not look.is_told for look in self._looks.values()):
            self._hope = time.monotonic()
        elif self._unfit or time.monotonic() - self._hope > PATIENCE_SECONDS:
            lines = [*self._unfit.values(), *(f"{address}: no answer" for address in self._looks)]
            raise ProbeError(
                f"no worker is fit for work: {first_few(lines)}" if lines else "no worker is there",
                hint="start workers with 'dask worker ADDRESS', with this linprobe and a disk that "
                "all see, then run this again: what is done is kept",
            )

    def _present(self) -> set[str]:
        """Addresses of the workers that the scheduler knows now."""
        try:
            present = set(self._client.nthreads(callback_timeout=CONTACT_SECONDS))
            if self._client.status == "running":
                return present
            why = f"the connection is {self._client.status}"
        # What Dask raises here differs from version to version; all of it means the same.
        except Exception as error:
            why = str(error) or "it does not answer"
        raise ProbeError(
            f"the Dask scheduler is lost: {why}",
            hint="start scheduler and workers again, then run this again: what is done is kept",
        )

    def _judge(self, address: str, look: _Look) -> str:
        """Set a worker that has looked around among the fit or the unfit; gives what it lacks."""
        lacks = self._lacks(address, look)
        if lacks:
            host = ""
            with suppress(Exception):  # of a worker that is gone
                host = f" on {look.host.result(timeout=CONTACT_SECONDS)}"
            self._unfit[address] = f"{address}{host}: {lacks}"
            self._tell(f"left out: the worker {self._unfit[address]}")
        return lacks

    def _lacks(self, address: str, look: _Look) -> str:
        """By its answer, and by the note that it left; "" where it is fit."""
        try:
            member = look.answer.result(timeout=CONTACT_SECONDS)
        except Exception as error:  # of whatever Python runs there
            return f"{type(error).__name__}: {error}"
        if isinstance(member, str):
            return member
        until = time.monotonic() + SEEN_SECONDS
        while not (self._site.meeting / look.note).exists():
            if time.monotonic() > until:
                return f"what it writes to {self._site.meeting.parent} is not seen here"
            time.sleep(0.05)
        self.fit[address] = member
        return ""

    def _tell(self, line: str) -> None:
        self._watch(Progress(0, None, "workers", line=line))
