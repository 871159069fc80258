"""What an extraction did, as values, and how it is put in words and in JSON."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from linprobe.errors import ExtractError, LinprobeError
from linprobe.names import first_few
from linprobe.records import JsonValue
from linprobe.terminal import command, human_bytes, one_line
from linprobe_extract.run.arithmetic import precision_text
from linprobe_extract.run.work import Forecast
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.split import Split


@dataclass
class Timings:
    """Where the calling thread of a run spends its time, in seconds."""

    decode_wait_s: float = 0.0
    """Waiting for decoded pixels: the host is too slow, or what the next field counts."""
    fetch_wait_s: float = 0.0
    """The reader's, for shards to be there: the network is too slow."""
    device_s: float = 0.0
    """Launching batches and waiting for features: the encoder is the limit, as it should be."""
    write_wait_s: float = 0.0
    """Waiting for the writer: the disk is too slow."""

    @property
    def limit(self) -> tuple[str, float]:
        """What the run mostly waits for, and its seconds.

        ``encoder``, ``decoding``, ``fetching`` of shards, or ``disk``.
        """
        # While the encoder has batches, it is no loss that the next shard is on its way.
        fetch_s = min(self.fetch_wait_s, self.decode_wait_s)
        waits = {
            "encoder": self.device_s,
            "decoding": self.decode_wait_s - fetch_s,
            "fetching": fetch_s,
            "disk": self.write_wait_s,
        }
        return max(waits.items(), key=lambda wait: wait[1])


@dataclass
class RunReport:
    """What one process of a run did; filled by its threads while it goes on."""

    batch_size: int
    """Images a batch; halved when the device's memory is too small."""
    n_shards_before: int
    """Shards whose parts were there already."""
    precision_reason: str = ""
    """Why the encoder computes in what it does."""
    n_shards: int = 0
    """Shards encoded and committed now."""
    n_images: int = 0
    """Rows in them."""
    n_taken: int = 0
    """Those of them that were not encoded: the store had the row of that image."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Their samples without a row, by reason."""
    notes: Counter[str] = field(default_factory=Counter)
    """Remarks on their rows, such as ``orientation_ignored``, by count."""
    failed: dict[str, LinprobeError] = field(default_factory=dict)
    """Shards that gave no part, by URL, and why."""
    failed_elsewhere: tuple[str, ...] = ()
    """URLs of shards that gave none in another process that shares the work, which says why."""
    timings: Timings = field(default_factory=Timings)
    seconds: float = 0.0
    """Wall time of the encoding."""
    n_shards_missing: int = 0
    """Shards of the chosen splits that still have no part."""
    sealed: tuple[Split, ...] = ()
    """The chosen splits that are complete."""
    has_sealed: bool = False
    """Whether this process has sealed any of them."""
    stopped: bool = False
    """Stopped by a signal before all shards were done."""


@dataclass(frozen=True)
class ExtractReport:
    """What the store has of a dataset, and what was done for it."""

    encoder: StoredEncoder
    dataset: str
    """What the dataset was called in this run; the store keeps the first name it was given."""
    sealed: tuple[Split, ...]
    """The chosen splits that are complete."""
    run: RunReport | None
    """What this run did; None when there was nothing to do."""
    exit_code: int = 0
    """128 + the number of the signal that stopped the run, or 0."""

    def check(self) -> None:
        """Raise ExtractError with the first of the failures of the run, if any."""
        if self.run is not None and self.run.failed:
            first = next(iter(self.run.failed.values()))
            raise ExtractError(
                f"{len(self.run.failed)} of the shards failed and are not stored; {first.message}",
                hint=f"{first.hint}; the same command then does only what is missing",
            )
        if self.run is not None and self.run.failed_elsewhere:
            urls = self.run.failed_elsewhere
            raise ExtractError(
                f"{len(urls)} of the shards failed in another process: {first_few(urls)}",
                hint="it says why; mend them, and the same command then does only what is missing",
            )


def run_text(run: RunReport | None) -> str:
    """A run in one line."""
    if run is None:
        return "nothing to do: these features are in the store already"
    limit, waited_s = run.timings.limit
    seconds = max(run.seconds, 1e-9)
    before = f" ({run.n_shards_before} done before)" if run.n_shards_before else ""
    missing = f", {run.n_shards_missing} shards still missing" if run.n_shards_missing else ""
    noted = f", noted {_counts(run.notes)}" if run.notes else ""
    taken = f" ({run.n_taken} images taken from the store)" if run.n_taken else ""
    advice = " (more CPU cores or smaller images help)" if limit == "decoding" else ""
    return (
        f"{run.n_shards} shards{before}{missing}, {run.n_images} images{taken}, "
        f"skipped {_counts(run.skipped) or 'none'}{noted}, {run.seconds:.1f} s, "
        f"{run.n_images / seconds:.1f} images/s, "
        f"limited by the {limit}, {waited_s / seconds:.0%} of the time{advice}"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def report_text(report: ExtractReport) -> str:
    """What the store has, for a person."""
    encoder, sealed = report.encoder, report.sealed
    taps = ", ".join(f"{tap.name} {tap.dim}" for tap in encoder.spec.taps)
    lines = [f"encoder  {encoder.path.name}  ({taps}; {encoder.spec.precision})"]
    for split in sealed:
        skipped = _counts(split.skipped_by_reason)
        lines.append(
            f"{split.name:<8} {split.n} rows in {split.path.parent.name}/{split.name}"
            + (f", skipped {skipped}" if skipped else "")
        )
    if sealed:
        store, name = encoder.path.parent, sealed[0].dataset_name
        if sealed[0].metric is not None:
            lines.append(f"metric   {sealed[0].metric}")
        if name != report.dataset:
            lines.append(f"name     {name}: the store keeps the first name of a dataset")
        names = [tap.name for tap in encoder.spec.taps]
        # The protocol that is meant where none is named takes the embedding.
        own = None if "embedding" in names else names[0]
        probe = command("probe", store=store, model=encoder.names.model, data=name, tap=own)
        lines += [f"store    {store}", f"next     {probe}"]
    return "\n".join(map(one_line, lines))


def report_json(report: ExtractReport) -> JsonValue:
    """What the store has and what the run did, as one JSON object."""
    sealed = report.sealed
    return {
        "encoder_id": report.encoder.encoder_id,
        "model": report.encoder.names.model,
        "precision": report.encoder.spec.precision,
        "dataset": report.dataset,
        "dataset_id": sealed[0].dataset_id if sealed else None,
        "metric": sealed[0].metric if sealed else None,
        "store": str(report.encoder.path.parent),
        "splits": {
            split.name: {
                "rows": split.n,
                "digest": split.digest,
                "skipped": split.skipped_by_reason,
            }
            for split in sealed
        },
        "run": None if report.run is None else _run_json(report.run),
    }


def _run_json(run: RunReport) -> JsonValue:
    return {
        "precision_reason": run.precision_reason,
        "shards": run.n_shards,
        "shards_before": run.n_shards_before,
        "shards_missing": run.n_shards_missing,
        "failed": [
            {"shard": url, "error": error.message, "hint": error.hint}
            for url, error in run.failed.items()
        ],
        "failed_elsewhere": run.failed_elsewhere,
        "images": run.n_images,
        "images_taken": run.n_taken,
        "skipped": run.skipped,
        "notes": run.notes,
        "seconds": round(run.seconds, 3),
        **{name: round(seconds, 3) for name, seconds in asdict(run.timings).items()},
        "batch_size": run.batch_size,
        "stopped": run.stopped,
    }


def forecast_text(forecast: Forecast) -> str:
    """What is left to do, for a person."""
    precision, reason = forecast.precision, forecast.precision_reason
    if reason is not None:
        precision = precision_text(precision, reason, forecast.images_per_s)
    images = "unknown" if forecast.images is None else str(forecast.images)
    size = "unknown" if forecast.bytes is None else f"about {human_bytes(forecast.bytes)}"
    until = ""
    if forecast.peak_bytes and forecast.peak_bytes != forecast.bytes:
        until = f"; {human_bytes(forecast.peak_bytes)} until the splits are sealed"
    lines = [
        f"encoder  {forecast.folder}  ({precision})",
        *(f"beside   {line}" for line in forecast.other_precisions),
        f"done     {forecast.shards_done} shards; {forecast.splits_sealed} splits sealed",
        f"to do    {forecast.shards} shards, {images} images",
        f"on disk  {size} more{until}",
    ]
    return "\n".join(lines)
