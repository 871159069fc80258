"""What is known of remote files before they are read: size and version, by few requests.

Object stores list a folder, a thousand files a request, with what tells one version of a file from
another. Plain web servers do not: there each file costs a HEAD, many at a time over connections
that stay open.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

import fsspec

from linprobe.errors import LinprobeError, ShardError
from linprobe_extract.shards.network import Beat, Retry, StoppedError, insist, is_http

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
    folders: dict[str, dict[str, str]] = {}
    for url in dict.fromkeys(urls):
        with suppress(ImportError, ValueError):  # no driver: reading it says so
            files, name = fsspec.core.url_to_fs(url)
            # A web server's index of a folder knows neither sizes nor versions.
            folder = "" if is_http(files) else url[: -len(name.rpartition("/")[2])]
            folders.setdefault(folder, {})[url] = name
    for folder, names in folders.items():
        listed = _listed(folder, retry, tell) if folder else {}
        described |= {url: listed[name] for url, name in names.items() if name in listed}
    left = [url for names in folders.values() for url in names if url not in described]
    return described | _asked(left, retry, tell)


def _listed(folder: str, retry: Retry, tell: Callable[[str], None]) -> dict[str, RemoteFile]:
    """List a folder; nothing where that is not allowed, which is no fault."""
    once = replace(retry, attempts=1)

    def listing(beat: Beat) -> list[Mapping[str, Any]]:
        files, name = fsspec.core.url_to_fs(folder)
        entries: list[Mapping[str, Any]] = files.ls(name, detail=True, refresh=True)
        return entries

    with suppress(FileNotFoundError, LinprobeError):
        entries = insist(listing, folder, once, error=ShardError, tell=tell)
        files = {entry["name"]: _described(entry) for entry in entries if entry["type"] == "file"}
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
