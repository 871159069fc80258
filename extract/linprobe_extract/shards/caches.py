"""What was learnt at a cost, such as a shard's sha256, is remembered beside a store as JSON lines.

Caches are local to a host and may be deleted at any time.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from linprobe.disk import append_line, make_folders
from linprobe.errors import IntegrityError, StoreError
from linprobe.records import parse, plain, read_bytes
from linprobe.terminal import note
from linprobe_extract.shards.copying import copy_shard
from linprobe_extract.shards.network import PATIENT, Retry
from linprobe_extract.shards.remote import RemoteFile, look_up
from linprobe_extract.shards.tar import fingerprint_shard
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
        self._n_read = 0
        self.reload()

    def reload(self) -> None:
        """Learn what other processes have written meanwhile."""
        with suppress(StoreError, OSError):
            size = self._path.stat().st_size
            if size == self._n_read:
                return
            data = read_bytes(self._path, limit=_MAX_BYTES)
            for line in data[self._n_read if self._n_read < size else 0 :].splitlines():
                with suppress(IntegrityError):
                    self._known |= parse(self._kind, line, str(self._path))
            self._n_read = data.rfind(b"\n") + 1  # the last one may be cut

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
    """Shard fingerprints: from the dataset's card, from the cache in a store, or by reading.

    Remote files are described once, so that a run sees one state of them; ``retry`` is for their
    servers.
    """

    def __init__(self, store: Path, *, read_only: bool = False, retry: Retry = PATIENT) -> None:
        path = store / ".cache" / "shards.jsonl"
        self._cache = JsonCache(path, dict[str, ShardFingerprint], read_only=read_only)
        self._remote: dict[str, RemoteFile] = {}
        self.retry = retry
        self.reload = self._cache.reload

    def look_up(self, shards: Iterable[Shard]) -> None:
        """Learn sizes and versions of the remote ones that are not described yet."""
        urls = [shard.url for shard in shards if shard.kind == "url"]
        urls = [url for url in urls if url not in self._remote]
        described = look_up(urls, self.retry, tell=note) if urls else {}
        self._remote |= {url: described.get(url, RemoteFile()) for url in urls}

    def size(self, shard: Shard) -> int | None:
        """Bytes of a shard as far as they are known without reading it."""
        if shard.fingerprint is not None or shard.kind != "url":
            return None if shard.fingerprint is None else shard.fingerprint.bytes
        self.look_up([shard])
        return self._remote[shard.url].size

    def known(self, shard: Shard) -> ShardFingerprint | None:
        """Give the fingerprint of a shard if that needs no read of its bytes."""
        return shard.fingerprint or self._cache.get(self._state(shard) or shard.url)

    def fingerprint(self, shard: Shard) -> ShardFingerprint:
        """Give the fingerprint of a shard, reading it only when nothing else knows it.

        Raises ShardError where it has to be read and cannot be.
        """
        known = self.known(shard)
        if known is not None:
            return known
        if shard.kind == "file":
            return self.remember(shard, fingerprint_shard(shard))
        n_bytes = self.size(shard)
        copy = copy_shard(shard, None, n_bytes=n_bytes, retry=self.retry, tell=note)
        return self.remember(shard, copy.fingerprint)

    def remember(self, shard: Shard, fingerprint: ShardFingerprint) -> ShardFingerprint:
        """Keep what reading a shard gave."""
        state = self._state(shard)
        self._cache.put(state or shard.url, fingerprint, lasting=state is not None)
        return fingerprint

    def _state(self, shard: Shard) -> str | None:
        """Describe a file so that other content is described otherwise; None if it cannot be."""
        if shard.kind != "url":
            return file_state(shard.url) if shard.kind == "file" else None
        self.look_up([shard])
        remote = self._remote[shard.url]
        if remote.version is None or not remote.size:
            return None
        return f"{shard.url}|{remote.size}|{remote.version}"


def file_state(name: str) -> str | None:
    """Describe a local file so that other content is described otherwise; None without one."""
    path = Path(name).resolve()
    if not path.is_file():
        return None
    status = path.stat()
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"
