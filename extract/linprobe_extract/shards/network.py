"""Servers asked again while they, or the way to them, fail.

Two things that fsspec's drivers leave to others: no file is taken for absent unless its server says
so (the http driver's ``info`` raises FileNotFoundError for a 503 as well,
https://github.com/fsspec/filesystem_spec/issues/873), and every attempt ends: at a silence, and
when nobody waits for it any more.
"""

import random
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from threading import Event, Thread
from typing import TypeVar

from linprobe.errors import ExtractError, LinprobeError
from linprobe.terminal import install

_POLL_S = 0.1
_STATUSES = frozenset(HTTPStatus)
T = TypeVar("T")
Beat = Callable[[], None]
"""Called where an attempt got on; raises where nobody waits for it any more."""


@dataclass(frozen=True)
class Retry:
    """How long a server that fails is asked again."""

    attempts: int = 6
    """Times that a file is asked for, the first one included."""
    silence_s: float = 30.0
    """Seconds without a byte after which an attempt has failed."""
    backoff_s: float = 1.0
    """Seconds before the second attempt at most; twice as many before each further one."""
    longest_s: float = 60.0
    """Seconds before an attempt at most, also where the server's Retry-After asks for more."""

    def pause_s(self, n_failed: int, error: BaseException) -> float:
        """Seconds to wait after so many attempts: what the server asks for, or a backoff.

        The backoff is drawn from its upper half, so that processes do not come back together.
        """
        asked_s = _retry_after_s(error)
        backoff_s = self.backoff_s * 2 ** (n_failed - 1) * random.uniform(0.5, 1.0)
        return min(self.longest_s, backoff_s if asked_s is None else asked_s)


PATIENT = Retry()


class StoppedError(Exception):
    """Nobody waits any more for what was asked for."""


def insist(
    action: Callable[[Beat], T],
    url: str,
    retry: Retry,
    *,
    error: type[ExtractError],
    tell: Callable[[str], None],
    stop: Event | None = None,
) -> T:
    """Give what an action gives, doing it again where it fails.

    Parameters
    ----------
    action : reads ``url`` from its beginning; beats with every piece of it.
    error : what to raise, with the URL and the status or the system's reason.
    tell : sees a line before each further attempt.
    stop : ends it when set.

    Raises
    ------
    FileNotFoundError : the server says that there is no such file.
    StoppedError : ``stop`` was set.
    LinprobeError : of class ``error``: the last attempt failed, or there is no driver; or what the
        action itself raised as one, such as a full disk, at once.
    """
    stop = Event() if stop is None else stop
    for attempt in range(1, retry.attempts + 1):
        try:
            return _attempt(action, retry.silence_s, stop)
        except (LinprobeError, StoppedError):
            raise
        except (ImportError, ValueError) as failure:
            hint = _next_step(url)
            if isinstance(failure, ImportError):
                extra = f"{install('s3')}, or " if url.startswith("s3") else ""
                hint = f"{extra}install the fsspec driver of this kind of URL"
            raise error(f"cannot read '{url}': {failure}", hint=hint) from failure
        except Exception as failure:  # each of fsspec's drivers has errors of its own
            if is_absence(failure):
                raise FileNotFoundError(url) from failure
            reason = _reason(failure)
            if attempt == retry.attempts:
                times = f" ({attempt} attempts)" if attempt > 1 else ""
                fault = f"cannot read '{url}': {reason}{times}"
                raise error(fault, hint=_next_step(url)) from failure
            pause_s = retry.pause_s(attempt, failure)
        tell(f"{url}: {reason}; attempt {attempt + 1} of {retry.attempts} in {pause_s:.0f} s")
        if stop.wait(pause_s):
            raise StoppedError
    raise AssertionError


def _attempt(action: Callable[[Beat], T], silence_s: float, stop: Event) -> T:
    """Do it on a thread that can be left behind: not every driver gives up by itself."""
    latest, is_left = [time.monotonic()], Event()
    future: Future[T] = Future()

    def beat() -> None:
        if is_left.is_set():
            raise StoppedError
        latest[0] = time.monotonic()

    def run() -> None:
        try:
            future.set_result(action(beat))
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="download", daemon=True).start()
    try:
        while not wait([future], min(_POLL_S, silence_s / 4)).done:
            if stop.is_set():
                raise StoppedError
            if time.monotonic() - latest[0] > silence_s:
                raise TimeoutError(f"no byte for {silence_s:g} s")
        return future.result()
    finally:
        is_left.set()


def _next_step(url: str) -> str:
    """What a person does about a file that cannot be read."""
    if url.lower().startswith("http"):
        return f"see what the server says (curl -IL {shlex.quote(url)}), and try again"
    return "check the URL, your keys for it and the network, and try again"


def is_absence(error: BaseException) -> bool:
    """Whether a server said that there is no such file, rather than failed to say anything.

    A driver may call anything a FileNotFoundError; what it stems from then tells.
    """
    statuses = ((cause, _reply(cause)[0]) for cause in _chain(error))
    return all(
        isinstance(cause, FileNotFoundError) if status is None else status == HTTPStatus.NOT_FOUND
        for cause, status in statuses
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _reply(error: BaseException) -> tuple[int | None, Mapping[str, str]]:
    """Status and headers of the answer that an error of aiohttp, httpx or botocore tells of."""
    answer: object = getattr(error, "response", None) or error
    if isinstance(answer, Mapping):
        about = answer.get("ResponseMetadata", {})
        return about.get("HTTPStatusCode"), about.get("HTTPHeaders", {})
    status = getattr(answer, "status", None) or getattr(answer, "status_code", None)
    headers = getattr(answer, "headers", None)
    return (
        status if isinstance(status, int) and status else None,
        headers if isinstance(headers, Mapping) else {},
    )


def _reason(error: BaseException) -> str:
    """What went wrong, in one line: the status if there was an answer."""
    for cause in _chain(error):
        status = _reply(cause)[0]
        if status is not None:
            known = HTTPStatus(status).phrase if status in _STATUSES else ""
            return f"{status} {getattr(cause, 'message', '') or known}".splitlines()[0].strip(": ")
    # fsspec raises a FileNotFoundError of the URL from whatever befell it.
    told = [str(cause) for cause in _chain(error) if not isinstance(cause, FileNotFoundError)]
    return next(filter(None, told), str(error)) or type(error).__name__


def _retry_after_s(error: BaseException) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, 10.2.3); None where it does not."""
    headers = (header for cause in _chain(error) for header in _reply(cause)[1].items())
    for name, text in headers:
        if name.lower() == "retry-after":
            with suppress(ValueError):
                if text.strip().isdigit():
                    return float(text)
                return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
