"""What ``linprobe-extract run`` tells at its end."""

import shlex
from dataclasses import dataclass

from linprobe_extract.claims import Ranks
from linprobe_extract.errors import ExtractError
from linprobe_extract.report import RunReport
from linprobe_extract.shards import DatasetPlan
from linprobe_store import Split, StoredEncoder
from linprobe_store.canonical import JsonValue
from linprobe_store.terminal import emit, emit_json, note


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
        return f"linprobe-train probe --store {store} --model {model} --data {data}"

    def lines(self) -> list[str]:
        """Tell it to a person."""
        taps = ", ".join(f"{tap.name} {tap.dim}" for tap in self.stored.spec.taps)
        rows = [f"encoder  {self.stored.path.name}  ({taps}; {self.stored.spec.precision})"]
        rows += [
            f"{split.name:<8} {split.n} rows in {split.dataset.path.name}/{split.name}"
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
            "dataset_id": self.sealed[0].dataset.dataset_id if self.sealed else None,
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
