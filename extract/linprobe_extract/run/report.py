"""What a run did, as values; and the one line of facts that a person reads at its end.

What ``linprobe extract`` tells at its end.
"""

import shlex
from collections import Counter
from dataclasses import dataclass

from linprobe.errors import ExtractError
from linprobe.records import JsonValue
from linprobe.terminal import emit, emit_json, note
from linprobe_extract.run.pipeline import Timings
from linprobe_extract.run.ranks import Ranks
from linprobe_extract.shards.locate import DatasetPlan
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.split import Split


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


@dataclass(frozen=True)
class RunResult:
    """What is in the store now, and what was done for it."""

    plan: DatasetPlan
    """The dataset asked for."""
    stored: StoredEncoder
    """The encoder."""
    sealed: tuple[Split, ...]
    """The chosen splits that are complete."""
    report: RunReport | None
    """What this run did; None when there was nothing to do."""

    @property
    def next_command(self) -> str:
        """The command that uses what is there."""
        values = (str(self.stored.path.parent), self.stored.names.model, self.plan.name)
        store, model, data = (shlex.quote(value) for value in values)
        return f"linprobe probe --store {store} --model {model} --data {data}"

    def lines(self) -> list[str]:
        """Tell it to a person."""
        taps = ", ".join(f"{tap.name} {tap.dim}" for tap in self.stored.spec.taps)
        rows = [f"encoder  {self.stored.path.name}  ({taps}; {self.stored.spec.precision})"]
        rows += [
            f"{split.name:<8} {split.n} rows in {split.path.parent.name}/{split.name}"
            for split in self.sealed
        ]
        if self.sealed:
            rows += [f"store    {self.stored.path.parent}", f"next     {self.next_command}"]
        return rows

    def as_json(self) -> JsonValue:
        """Give it as one JSON object."""
        return {
            "encoder_id": self.stored.encoder_id,
            "model": self.stored.names.model,
            "dataset": self.plan.name,
            "dataset_id": self.sealed[0].dataset_id if self.sealed else None,
            "store": str(self.stored.path.parent),
            "splits": {s.name: {"rows": s.n, "digest": s.digest} for s in self.sealed},
            "run": self.report.as_json() if self.report else None,
        }


def tell(result: RunResult, ranks: Ranks, *, as_json: bool) -> int:
    """Print the result where it belongs; give exit code 0.

    Raises
    ------
    ExtractError : shards failed, so that nothing could be sealed.
    """
    report = result.report
    if report is None:
        note("nothing to do: these features are in the store already")
    else:
        note(report.facts())
    if ranks.world_size == 1 or (result.sealed if report is not None else ranks.rank == 0):
        if as_json:
            emit_json(result.as_json())
        else:
            emit("\n".join(result.lines()))
    if report is not None and report.failed:
        first = report.failed[0]
        raise ExtractError(
            f"{len(report.failed)} of the shards failed and are not stored; {first.message}",
            hint=f"{first.hint}; the same command then does only what is missing",
        )
    return 0
