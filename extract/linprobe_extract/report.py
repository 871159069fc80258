"""What a run did, as values; and the one line of facts that a person reads at its end."""

from collections import Counter
from dataclasses import dataclass

from linprobe_extract.units import Timings
from linprobe_store import Split
from linprobe_store.canonical import JsonValue


@dataclass(frozen=True)
class FailedShard:
    """A shard that gave no part."""

    url: str
    """Which."""
    message: str
    """Why."""
    hint: str
    """What to try."""


@dataclass(frozen=True)
class RunReport:
    """What one process of a run did."""

    n_shards: int
    """Shards encoded and committed now."""
    n_shards_before: int
    """Shards whose parts were there already."""
    n_shards_missing: int
    """Shards of the chosen splits that still have no part."""
    failed: tuple[FailedShard, ...]
    """Shards that could not be read or stored."""
    n_images: int
    """Rows written now."""
    skipped: Counter[str]
    """Samples skipped now, by reason."""
    notes: Counter[str]
    """Remarks on the rows written now, such as ``orientation_ignored``, by count."""
    seconds: float
    """Wall time of the encoding."""
    timings: Timings
    """Where that time went."""
    batch_size: int
    """Images a batch at the end of the run."""
    sealed: tuple[Split, ...]
    """The chosen splits that are complete."""
    stopped: bool
    """Stopped by a signal before all shards were done."""

    @property
    def bottleneck(self) -> str:
        """Name what the run waited for, with its share of the time."""
        limit = self.timings.limit
        seconds = {
            "encoder": self.timings.device_s,
            "decoding": self.timings.decode_wait_s,
            "disk": self.timings.write_wait_s,
        }[limit]
        advice = " (more CPU cores or smaller images help)" if limit == "decoding" else ""
        return (
            f"limited by the {limit}, {seconds / max(self.seconds, 1e-9):.0%} of the time{advice}"
        )

    def facts(self) -> str:
        """Tell the run in one line."""
        rate = self.n_images / max(self.seconds, 1e-9)
        skipped = _counts(self.skipped)
        noted = f", noted {_counts(self.notes)}" if self.notes else ""
        before = f" ({self.n_shards_before} done before)" if self.n_shards_before else ""
        missing = f", {self.n_shards_missing} shards still missing" * (self.n_shards_missing > 0)
        return (
            f"{self.n_shards} shards{before}{missing}, {self.n_images} images, "
            f"skipped {skipped or 'none'}{noted}, {self.seconds:.1f} s, {rate:.1f} images/s, "
            f"{self.bottleneck}"
        )

    def as_json(self) -> JsonValue:
        """Give the report as one JSON object."""
        return {
            "shards": self.n_shards,
            "shards_before": self.n_shards_before,
            "shards_missing": self.n_shards_missing,
            "failed": [{"shard": f.url, "error": f.message, "hint": f.hint} for f in self.failed],
            "images": self.n_images,
            "skipped": dict(self.skipped),
            "notes": dict(self.notes),
            "seconds": round(self.seconds, 3),
            "decode_wait_s": round(self.timings.decode_wait_s, 3),
            "device_s": round(self.timings.device_s, 3),
            "write_wait_s": round(self.timings.write_wait_s, 3),
            "batch_size": self.batch_size,
            "stopped": self.stopped,
        }


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in sorted(counter.items()))
