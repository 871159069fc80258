"""What lies behind a URL, asked for again while a server or the way to it fails.

fsspec's drivers open it, with whatever a person has configured for them (keys, headers, proxies).
Two things they leave to others are here: no file is taken for absent unless its server says so
(the http driver's ``info`` raises FileNotFoundError for a 503 as well,
https://github.com/fsspec/filesystem_spec/issues/873), and every attempt ends: at a silence, at the
length that was declared, and when nobody waits for it any more.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from threading import Event, Thread
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import fsspec

from linprobe.errors import ExtractError, LinprobeError
from linprobe.records import MAX_BYTES
from linprobe.terminal import install, note
from linprobe_extract.shards.tar import webdatasets_opener

READ_BYTES = 1 << 20
_BLOCK_BYTES = 32 << 20
"""What a driver without streams asks for at once."""
_POLL_S = 0.1
_STATUSES = frozenset(HTTPStatus)
_HINT = (
    "look at what the server says (for http: curl -IL URL), then give the same command again; "
    "it does what is missing"
)

if TYPE_CHECKING:
    import aiohttp

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
            missing = isinstance(failure, ImportError)
            extra = f"{install('s3')}, or " if url.startswith("s3") else ""
            hint = f"{extra}install the fsspec driver of this kind of URL" if missing else _HINT
            raise error(f"cannot read '{url}': {failure}", hint=hint) from failure
        except Exception as failure:  # each of fsspec's drivers has errors of its own
            if is_absence(failure):
                raise FileNotFoundError(url) from failure
            reason = _reason(failure)
            if attempt == retry.attempts:
                times = f" ({attempt} attempts)" if attempt > 1 else ""
                fault = f"cannot read '{url}': {reason}{times}"
                raise error(fault, hint=_HINT) from failure
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


def read_file(url: str, retry: Retry) -> bytes | None:
    """Content of a small file; None where the server says that there is none.

    Raises ExtractError where it cannot be read, or is too large.
    """

    def read(beat: Beat) -> bytes:
        content = b""
        with open_url(url, MAX_BYTES, retry) as stream:
            for block in blocks(stream, beat):
                content += block
                if len(content) > MAX_BYTES:
                    return content
        files, name = fsspec.core.url_to_fs(url)
        # Over http a body ends where it was said to, so that it is asked twice how long it is.
        n_bytes = files.info(name)["size"] if is_http(files) else None
        if n_bytes not in (None, len(content)):
            raise EOFError(f"ended after {len(content):,} of {n_bytes:,} bytes")
        return content

    try:
        data = insist(read, url, retry, error=ExtractError, tell=note)
    except FileNotFoundError:
        return None
    if len(data) > MAX_BYTES:
        fault = f"'{url}' has more than {MAX_BYTES:,} bytes, expected a small text file"
        raise ExtractError(fault, hint="check what the server sends")
    return data


def open_url(url: str, n_bytes: int, retry: Retry) -> IO[bytes]:
    """Open a URL for reading once, from its beginning; errors are the driver's own.

    ``n_bytes`` is its size as far as it is known: the http driver, given one, asks for none.
    """
    if opener := webdatasets_opener(url):
        return opener(url, "rb")
    files, name = fsspec.core.url_to_fs(url)
    options: dict[str, Any] = {"block_size": _BLOCK_BYTES}
    if is_http(files):
        options = {"block_size": 0, "size": n_bytes, "read_bufsize": READ_BYTES}
        # Compressed on its way, it would have another length than was declared.
        options["headers"] = {**files.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
        if "timeout" not in files.kwargs:
            options["timeout"] = _time_limits(retry)
    return cast("IO[bytes]", files.open(name, "rb", **options))


def blocks(stream: IO[bytes], beat: Beat) -> Iterator[bytes]:
    """Read a stream to its end; an EOFError says after how many bytes it broke off."""
    n_bytes = 0
    while True:
        try:
            block = stream.read(READ_BYTES)
        except (FileNotFoundError, LinprobeError):
            raise
        except Exception as error:  # each of fsspec's drivers has errors of its own
            raise EOFError(f"broke off after {n_bytes:,} bytes") from error
        beat()
        if not block:
            return
        n_bytes += len(block)
        yield block


def is_http(files: fsspec.AbstractFileSystem) -> bool:
    """Whether a driver is that of http and https."""
    return "http" in files.protocol


def _time_limits(retry: Retry) -> "aiohttp.ClientTimeout":
    """Of a request over http: by itself, aiohttp gives a whole download 300 s."""
    import aiohttp

    # Twice: the one who waits gives up first; this is for the connection that is left behind.
    limit_s = 2 * retry.silence_s
    return aiohttp.ClientTimeout(total=None, sock_connect=limit_s, sock_read=limit_s)


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
    return str(error) or str(error.__cause__ or "") or type(error).__name__


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
