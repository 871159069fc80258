"""Shards as files of this machine, the next ones on their way while one is read."""

import os
import shutil
import stat
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Self

from linprobe.disk import STAGING_PREFIX, Staging, is_abandoned, store_errors
from linprobe.errors import ShardError, StoreError
from linprobe.terminal import note
from linprobe_extract.shards.caches import FingerprintCache
from linprobe_extract.shards.copying import copy_shard
from linprobe_extract.shards.types import Shard
from linprobe_store.format.spec import ShardFingerprint

N_AHEAD = 2
"""Shards that are fetched while one is read."""
_POLL_S = 0.1
_LEFTOVER_AGE_S = 10.0
_FOREIGN_AGE_S = 24 * 3600.0

LocalShard = tuple[Shard, ShardFingerprint]
"""Where to read a shard, and what it holds."""


@dataclass
class _Fetch:
    shard: Shard
    result: Future[LocalShard] | None = None
    """None until there is room to begin."""


class Fetcher:
    """Copies what is no file to one, each byte read and hashed once; a context manager.

    The copies lie in a folder of this process below that of temporary files (``TMPDIR``), at most
    three at once, each gone when the next shard is asked for. Leaving the context ends
    downloads and removes the folder; what a killed process left goes when the next one begins.
    ``tell`` sees a line where a server is asked again.
    """

    def __init__(self, cache: FingerprintCache, tell: Callable[[str], None] = note) -> None:
        self._cache = cache
        self._tell = tell
        self._largest = 0
        self._stop = Event()
        self._staging: Staging | None = None
        self._pool = ThreadPoolExecutor(N_AHEAD + 1, "fetch")
        self.waited_s = 0.0
        """Seconds that :meth:`ahead` has waited for shards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._staging is not None:
            self._staging.discard()

    @property
    def is_over(self) -> bool:
        """Whether the context was left."""
        return self._stop.is_set()

    @contextmanager
    def fetched(self, shard: Shard) -> Iterator[LocalShard]:
        """Give one shard while the context lasts; ShardError or StoreError as :meth:`ahead`."""
        for _, result in self.ahead([shard]):
            yield result.result()

    def ahead(
        self,
        shards: Iterable[Shard],
        may_claim: Callable[[], bool] = lambda: True,
        stop: Event | None = None,
    ) -> Iterator[tuple[Shard, Future[LocalShard]]]:
        """Give each shard with its finished result, which holds until the next one is asked for.

        Parameters
        ----------
        shards : taken one by one, at most two before they are due.
        may_claim : whether another one may be taken before it is due; it does not wait then.
        stop : ends it when set, also while it waits.

        A result is a ShardError where a shard cannot be read or holds other bytes than the card
        or its first reading said, and a StoreError where the disk has no room.
        """
        waiting: deque[_Fetch] = deque()
        source = iter(shards)

        def is_stopped() -> bool:
            return self._stop.is_set() or (stop is not None and stop.is_set())

        while not is_stopped():
            self._fill(waiting, source, may_claim)
            if not waiting:
                return
            fetch = waiting.popleft()
            result = fetch.result
            assert result is not None
            started = time.perf_counter()
            while not wait([result], _POLL_S).done:
                if is_stopped():
                    return
            self.waited_s += time.perf_counter() - started
            yield fetch.shard, result
            if fetch.shard.kind != "file" and result.exception() is None:
                Path(result.result()[0].url).unlink(missing_ok=True)

    def _fill(
        self, waiting: deque[_Fetch], source: Iterator[Shard], may_claim: Callable[[], bool]
    ) -> None:
        if waiting and waiting[0].result is None:  # due now
            waiting[0].result = self._begin(waiting[0].shard)
        while len(waiting) <= N_AHEAD:
            # In order: what is due first is not kept from its room by what comes later.
            if waiting and (waiting[-1].result is None or not may_claim()):
                return
            shard = next(source, None)
            if shard is None:
                return
            waiting.append(_Fetch(shard))
            if len(waiting) == 1 or self._has_room(waiting):
                waiting[-1].result = self._begin(shard)

    def _has_room(self, waiting: Iterable[_Fetch]) -> bool:
        """Whether the disk has room for all that is not there yet, as large as it may be."""
        pending = (f.shard for f in waiting if f.result is None or not f.result.done())
        sizes = [self._cache.size(s) or self._largest for s in pending if s.kind != "file"]
        if self._staging is None or not all(sizes):
            return not sizes
        return shutil.disk_usage(self._staging.path).free >= sum(sizes)

    def _begin(self, shard: Shard) -> Future[LocalShard]:
        if shard.kind == "file":
            return self._pool.submit(lambda: (shard, self._cache.fingerprint(shard)))
        if self._staging is None:
            self._staging = Staging(_own_folder())
        return self._pool.submit(self._fetch, shard, self._staging.path)

    def _fetch(self, shard: Shard, folder: Path) -> LocalShard:
        cache, known = self._cache, self._cache.known(shard)
        copy = copy_shard(
            shard,
            folder,
            n_bytes=cache.size(shard),
            retry=cache.retry,
            tell=self._tell,
            stop=self._stop,
        )
        content = copy.fingerprint
        if known is not None and replace(content, name=known.name) != known:
            raise ShardError(
                f"'{shard.url}' has {content.bytes} bytes of other content than expected "
                f"({known.bytes} bytes, sha256 {known.sha256[:12]})",
                hint="it changed since it was packed or first read: pack or copy it again",
            )
        self._largest = max(self._largest, content.bytes)
        cache.remember(shard, content)
        return Shard(str(copy.path), None, shard.n_samples), content


def _own_folder() -> Path:
    """The folder of this user's copies; what processes that are gone have left there is removed."""
    folder = Path(tempfile.gettempdir(), f"linprobe-{os.getuid()}")
    with store_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        fault = f"{folder}: expected a folder of this user, found another's or a link"
        raise StoreError(fault, hint="choose another folder of temporary files: TMPDIR=DIR")
    for path in folder.glob(f"{STAGING_PREFIX}*"):
        if is_abandoned(path, min_age_s=_LEFTOVER_AGE_S, foreign_age_s=_FOREIGN_AGE_S):
            shutil.rmtree(path, ignore_errors=True)
    return folder
