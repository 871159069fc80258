"""Files behind URLs: what is known of them before they are read, by few requests, and their bytes.

fsspec's drivers open them, with what a person has configured for these (keys, headers, proxies).
Object stores list a folder, a thousand files a request, with what tells one version of a file from
another. Plain web servers do not: there each file costs a HEAD, many at a time over connections
that stay open.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event
from typing import IO, TYPE_CHECKING, Any, cast

import fsspec

from linprobe.errors import ExtractError, LinprobeError, ShardError
from linprobe.records import MAX_BYTES
from linprobe.terminal import note
from linprobe_extract.shards.listing import remote_folder
from linprobe_extract.shards.network import Beat, Retry, StoppedError, insist
from linprobe_extract.shards.webdatasets import webdatasets_opener

if TYPE_CHECKING:
    import aiohttp

_READ_BYTES = 1 << 20
_BLOCK_BYTES = 32 << 20
"""What a driver without streams asks for at once."""
_VERSIONS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "Last-Modified", "last_modified")
"""What drivers call that which changes with a file, the surest first."""
_CONNECTIONS = 16


@dataclass(frozen=True)
class RemoteFile:
    """A file as its server describes it."""

    size: int | None = None
    """Bytes, where they are told."""
    version: str | None = None
    """Other content has another one; None where the server tells none."""


def look_up(
    urls: Iterable[str], retry: Retry, *, tell: Callable[[str], None]
) -> dict[str, RemoteFile]:
    """Describe the files at these URLs: by one listing a folder, or else by a request each.

    What the server does not describe is left out: reading it will tell why.
    """
    described: dict[str, RemoteFile] = {}
    folders: dict[str, list[str]] = {}
    for url in dict.fromkeys(urls):
        if webdatasets_opener(url) is not None:
            continue  # a person's own function says nothing of versions
        with suppress(ImportError, ValueError):  # no driver: reading it says so
            files, _ = fsspec.core.url_to_fs(url)
            folder = remote_folder(url.rpartition("/")[0])
            # A web server's index of a folder knows neither sizes nor versions.
            is_listed = not _is_http(files) or folder.listing != folder.files
            folders.setdefault(folder.listing if is_listed else "", []).append(url)
    for listing, members in folders.items():
        listed = _listed(listing, retry, tell) if listing else {}
        names = {url: url.rpartition("/")[2] for url in members}
        described |= {url: listed[name] for url, name in names.items() if name in listed}
    left = [url for members in folders.values() for url in members if url not in described]
    return described | _asked(left, retry, tell)


def folder_names(url: str, retry: Retry) -> list[str]:
    """Names of what lies in a folder, as its server lists them; none where it has no such folder.

    Raises ExtractError where it does not list it.
    """

    def listing(beat: Beat) -> list[str]:
        files, name = fsspec.core.url_to_fs(url)
        entries: list[str] = files.ls(name, detail=False)
        return entries

    try:
        entries = insist(listing, url, retry, error=ExtractError, tell=note)
    except FileNotFoundError:
        return []
    return [entry.rstrip("/").rpartition("/")[2] for entry in entries]


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
        n_bytes = files.info(name)["size"] if _is_http(files) else None
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
    if _is_http(files):
        options = {"block_size": 0, "size": n_bytes, "read_bufsize": _READ_BYTES}
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
            block = stream.read(_READ_BYTES)
        except (FileNotFoundError, LinprobeError):
            raise
        except Exception as error:  # each of fsspec's drivers has errors of its own
            after = f"after {n_bytes:,} bytes" if n_bytes else "before its end"
            raise EOFError(f"broke off {after}") from error
        beat()
        if not block:
            return
        n_bytes += len(block)
        yield block


def _listed(folder: str, retry: Retry, tell: Callable[[str], None]) -> dict[str, RemoteFile]:
    """Describe the files of a folder; none where listing it is not allowed, which is no fault."""
    once = replace(retry, attempts=1)

    def listing(beat: Beat) -> list[Mapping[str, Any]]:
        files, name = fsspec.core.url_to_fs(folder)
        entries: list[Mapping[str, Any]] = files.ls(name, detail=True, refresh=True)
        return entries

    with suppress(FileNotFoundError, LinprobeError):
        entries = insist(listing, folder, once, error=ShardError, tell=tell)
        names = {entry["name"].rpartition("/")[2]: entry for entry in entries}
        files = {name: _described(entry) for name, entry in names.items()}
        return {name: file for name, file in files.items() if file.version is not None}
    return {}


def _asked(urls: list[str], retry: Retry, tell: Callable[[str], None]) -> dict[str, RemoteFile]:
    """Ask for each; where most of many fail for good, for no more of them."""
    stop = Event()
    counts = Counter[bool]()

    def asked(url: str) -> RemoteFile | None:
        def info(beat: Beat) -> Mapping[str, Any]:
            files, name = fsspec.core.url_to_fs(url)
            entry: Mapping[str, Any] = files.info(name)
            return entry

        described = None
        with suppress(FileNotFoundError, LinprobeError, StoppedError):
            described = _described(insist(info, url, retry, error=ShardError, tell=tell, stop=stop))
        counts[described is not None] += 1
        if counts[False] > max(_CONNECTIONS, counts[True]):
            stop.set()
        return described

    with ThreadPoolExecutor(_CONNECTIONS, "look-up") as pool:
        files = zip(urls, pool.map(asked, urls), strict=True)
        return {url: file for url, file in files if file is not None}


def _described(entry: Mapping[str, Any]) -> RemoteFile:
    versions = (entry[key] for key in _VERSIONS if entry.get(key))
    version = next(versions, None)
    return RemoteFile(entry.get("size"), None if version is None else str(version))


def _is_http(files: fsspec.AbstractFileSystem) -> bool:
    """Whether a driver is that of http and https."""
    return "http" in files.protocol


def _time_limits(retry: Retry) -> "aiohttp.ClientTimeout":
    """Of a request over http: by itself, aiohttp gives a whole download 300 s."""
    import aiohttp

    # Twice: the one who waits gives up first; this is for the connection that is left behind.
    limit_s = 2 * retry.silence_s
    return aiohttp.ClientTimeout(total=None, sock_connect=limit_s, sock_read=limit_s)
