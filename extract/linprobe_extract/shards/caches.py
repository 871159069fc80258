"""What was learnt at a cost, such as a shard's sha256, is remembered beside a store as JSON lines.

Caches are local to a host and may be deleted at any time.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

import fsspec

from linprobe.disk import append_line, make_folders
from linprobe.errors import IntegrityError, StoreError
from linprobe.records import parse, plain, read_bytes
from linprobe_extract.shards.tar import (
    fingerprint_shard,
    open_shard,
    unreadable,
    webdatasets_opener,
)
from linprobe_extract.shards.types import Shard
from linprobe_store.format.spec import ShardFingerprint

T = TypeVar("T")
_MAX_BYTES = 256 << 20
"""A line for each of a million shards."""


class JsonCache(Generic[T]):
    """Values by key in a file of JSON lines, which may be cut, damaged or gone without loss.

    Made when first needed; processes may append to it at the same time. ``kind`` is that of a
    line; with ``read_only``, what is learnt is kept in memory alone.
    """

    def __init__(self, path: Path, kind: type[dict[str, T]], *, read_only: bool = False) -> None:
        self._path = path
        self._kind = kind
        self._read_only = read_only
        self._known: dict[str, T] = {}
        self.reload()

    def reload(self) -> None:
        """Learn what other processes have written meanwhile."""
        with suppress(StoreError):
            for line in read_bytes(self._path, limit=_MAX_BYTES).splitlines():
                with suppress(IntegrityError):
                    self._known |= parse(self._kind, line, str(self._path))

    def get(self, key: str) -> T | None:
        """The value last put under this key, or None."""
        return self._known.get(key)

    def put(self, key: str, value: T, *, lasting: bool = True) -> None:
        """Remember a value; where it is not ``lasting``, in this process alone.

        Raises StoreError where the file cannot be written.
        """
        is_known = self._known.get(key) == value
        self._known[key] = value
        if is_known or self._read_only or not lasting or self._path.parent.is_symlink():
            return  # a link may lead out of the store
        make_folders(self._path.parent)
        append_line(self._path, json.dumps({key: plain(value)}).encode(), durable=False)


class FingerprintCache:
    """Shard fingerprints: from the dataset's card, from the cache in a store, or by reading."""

    def __init__(self, store: Path, *, read_only: bool = False) -> None:
        path = store / ".cache" / "shards.jsonl"
        self._cache = JsonCache(path, dict[str, ShardFingerprint], read_only=read_only)
        self.reload = self._cache.reload

    def known(self, shard: Shard) -> ShardFingerprint | None:
        """Give the fingerprint of a shard if that needs no read of its bytes."""
        return shard.fingerprint or self._cache.get(_state(shard) or shard.url)

    def fingerprint(self, shard: Shard) -> ShardFingerprint:
        """Give the fingerprint of a shard, reading it only when nothing else knows it.

        Raises ShardError where it has to be read and cannot be.
        """
        return self.known(shard) or self._remember(shard, fingerprint_shard(shard))

    @contextmanager
    def fetched(self, shard: Shard) -> Iterator[tuple[Shard, ShardFingerprint]]:
        """Give a shard to read and its fingerprint; what is not a file is copied to one first.

        A stream can be read but once, and its fingerprint is needed before its samples. Raises
        ShardError where it cannot be read.
        """
        if shard.kind == "file":
            yield shard, self.fingerprint(shard)
            return
        with tempfile.TemporaryDirectory(prefix="linprobe-") as folder:
            copy = Shard(f"{folder}/shard.tar", None, shard.n_samples)
            try:
                with open_shard(shard) as stream, Path(copy.url).open("wb") as file:
                    shutil.copyfileobj(stream, file, 1 << 20)
            except Exception as error:  # each of fsspec's drivers has errors of its own
                raise unreadable(shard.url, error) from error
            content = replace(fingerprint_shard(copy), name=shard.name)
            yield copy, self._remember(shard, content)

    def _remember(self, shard: Shard, fingerprint: ShardFingerprint) -> ShardFingerprint:
        state = _state(shard)
        self._cache.put(state or shard.url, fingerprint, lasting=state is not None)
        return fingerprint


def _state(shard: Shard) -> str | None:
    """Describe a file so that other content is described otherwise; None if it cannot be."""
    if shard.kind != "url":
        return file_state(shard.url) if shard.kind == "file" else None
    url = shard.url
    if webdatasets_opener(url) is not None:
        return None  # its own function says nothing of versions
    try:
        filesystem, name = fsspec.core.url_to_fs(url)
        info = filesystem.info(name)
    except Exception:
        return None
    version = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified")
    return f"{url}|{info.get('size')}|{version}" if version and info.get("size") else None


def file_state(name: str) -> str | None:
    """Describe a local file so that other content is described otherwise; None without one."""
    path = Path(name).resolve()
    if not path.is_file():
        return None
    status = path.stat()
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"
