"""Keys that come in two shards of a split, found before the second one is encoded."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from linprobe.errors import ShardError
from linprobe.terminal import command
from linprobe_store.format.spec import KeyPrefix, ShardFingerprint, prefixed


class SplitKeys:
    """Which shard of a split holds which key, by a hash of 64 bits: 12 bytes a key."""

    def __init__(self, prefix: KeyPrefix) -> None:
        self._prefix = prefix
        self._shards: list[ShardFingerprint] = []
        self._hashes = np.empty(0, np.int64)
        self._owners = np.empty(0, np.int32)
        self._latest: list[NDArray[np.int64]] = []

    def take(self, shard: ShardFingerprint, keys: Sequence[str]) -> None:
        """Learn more keys of a shard; ShardError where another shard holds one of them."""
        if not self._shards or self._shards[-1] != shard:
            self._merge()
            self._shards.append(shard)
        hashes = np.fromiter(map(hash, prefixed(self._prefix, shard, keys)), np.int64, len(keys))
        places = np.searchsorted(self._hashes, hashes)
        places[places == len(self._hashes)] = 0
        for i in np.flatnonzero(self._hashes[places] == hashes) if len(self._hashes) else ():
            other = self._shards[int(self._owners[places[i]])]
            if other != shard:  # which is read again where memory was too small
                self._refuse(keys[int(i)], shard, other)
        self._latest.append(hashes)

    def _merge(self) -> None:
        """Sort in what came since a shard began."""
        if self._latest:
            hashes = np.sort(np.concatenate(self._latest))
            places = np.searchsorted(self._hashes, hashes)
            self._hashes = np.insert(self._hashes, places, hashes)
            self._owners = np.insert(self._owners, places, len(self._shards) - 1)
            self._latest = []

    def _refuse(self, key: str, shard: ShardFingerprint, other: ShardFingerprint) -> None:
        hint = (
            "list every sample once, or give shards that count anew keys of their own: "
            f"{command('extract', key_prefix='shard')}"
        )
        if self._prefix == "shard":
            hint = "list every sample once, and give every shard a name of its own"
        fault = f"key '{key}' of '{shard.name}' comes in '{other.name}' of the same split too"
        raise ShardError(fault, hint=hint)
