"""What flows through a run: shards to encode, batches of features, ends. Imports no torch."""

from collections import Counter
from dataclasses import dataclass

from linprobe_extract.errors import ShardError
from linprobe_extract.shard_layouts import Shard
from linprobe_store.records import FeatureBlock, SkippedSample
from linprobe_store.spec import ShardFingerprint


@dataclass(frozen=True)
class Task:
    """A shard of the dataset, before it is known what its bytes are."""

    split: str
    """``train``, ``val`` or ``test``."""
    shard: Shard
    """As the plan names it."""


@dataclass(frozen=True)
class Unit:
    """A shard to be encoded."""

    task: Task
    """Which."""
    source: Shard
    """Where to read it: the shard itself, or a local copy while there is one."""
    fingerprint: ShardFingerprint
    """What the bytes must be."""


@dataclass(frozen=True)
class EncodedBatch:
    """Consecutive samples of one unit with their features."""

    unit: Unit
    """The shard."""
    block: FeatureBlock
    """Rows of the samples that could be decoded."""
    skipped: tuple[SkippedSample, ...]
    """The others."""
    notes: Counter[str]
    """Remarks on the rows, such as ``orientation_ignored``, by count."""


@dataclass(frozen=True)
class UnitEnd:
    """A shard has been read to its end."""

    unit: Unit
    """The shard."""
    planned: int
    """Samples read; rows + skipped must come to this."""
    error: ShardError | None
    """Why it failed, or None."""


@dataclass(frozen=True)
class UnitLost:
    """A shard that cannot be read at all."""

    task: Task
    """Which."""
    error: ShardError
    """Why."""


@dataclass
class Timings:
    """Where the calling thread spent its time, in seconds."""

    decode_wait_s: float = 0.0
    """Waiting for decoded pixels: the host is too slow."""
    device_s: float = 0.0
    """Launching batches and waiting for features: the encoder is the limit, as it should be."""
    write_wait_s: float = 0.0
    """Waiting for the writer: the disk is too slow."""

    @property
    def limit(self) -> str:
        """What the run has mostly waited for: ``encoder``, ``decoding`` or ``disk``."""
        waits = {
            "encoder": self.device_s,
            "decoding": self.decode_wait_s,
            "disk": self.write_wait_s,
        }
        return max(waits, key=lambda name: waits[name])
