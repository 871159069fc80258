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

from linprobe.errors import ExtractError, LinprobeError, ShardError
from linprobe.terminal import note
from linprobe_extract.shards.listing import remote_folder
from linprobe_extract.shards.network import Beat, Retry, StoppedError, insist, is_http
from linprobe_extract.shards.tar import webdatasets_opener

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
            is_listed = not is_http(files) or folder.listing != folder.files
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
