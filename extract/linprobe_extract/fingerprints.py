"""Fingerprints of shards, remembered.

A shard is known by its sha256, which takes a read of the whole file. The cache beside the store
remembers it under (path, size, modification time), so that a second run costs no read. It is
local to a host, holds nothing that cannot be computed again, and may be deleted at any time.
"""

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import fsspec

from linprobe_extract.shards import Shard
from linprobe_extract.tar_stream import fingerprint_shard
from linprobe_store.spec import ShardFingerprint


class FingerprintCache:
    """Shard fingerprints, from the dataset's card, from the cache, or by reading.

    Parameters
    ----------
    path : a JSON-lines file, made when first needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, ShardFingerprint] = {}
        with suppress(FileNotFoundError):
            for line in path.read_text().splitlines():
                # A line cut by a crash is no loss: its shard is read again.
                with suppress(ValueError, TypeError, KeyError):
                    entry = json.loads(line)
                    self._known[entry["seen"]] = ShardFingerprint(**entry["fingerprint"])

    def fingerprint(self, shard: Shard) -> ShardFingerprint:
        """Give the fingerprint of a shard, reading it only when nothing else knows it.

        Raises
        ------
        ShardError : it has to be read and cannot be.
        """
        if shard.fingerprint is not None:
            return shard.fingerprint
        seen = _state(shard.url)
        if seen is not None and seen in self._known:
            return self._known[seen]
        fingerprint = fingerprint_shard(shard)
        if seen is not None:
            self._remember(seen, fingerprint)
        return fingerprint

    def _remember(self, seen: str, fingerprint: ShardFingerprint) -> None:
        self._known[seen] = fingerprint
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as lines:
            lines.write(json.dumps({"seen": seen, "fingerprint": asdict(fingerprint)}) + "\n")


def _state(url: str) -> str | None:
    """Describe a file so that other content is described otherwise; None if it cannot be."""
    if url.startswith("pipe:"):
        return None
    if "://" not in url:
        path = Path(url).resolve()
        if not path.is_file():
            return None
        status = path.stat()
        return f"{path}|{status.st_size}|{status.st_mtime_ns}"
    filesystem, name = fsspec.core.url_to_fs(url)
    info = filesystem.info(name)
    version = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified")
    return f"{url}|{info.get('size')}|{version}" if version and info.get("size") else None
