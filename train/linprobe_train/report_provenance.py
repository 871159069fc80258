"""What a report says of where its numbers come from."""

from html import escape
from pathlib import Path

from linprobe_train.at_hand import stored_dataset_of
from linprobe_train.collected import Collected
from linprobe_train.results import ProbeResult


def provenance_html(one: Collected, store: Path | None) -> str:
    """The section: ids, versions, time, and the extraction where the store is at hand."""
    result, question = one.result, one.result.question
    made = result.environment
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    lines = {
        "result": one.folder.name,
        "encoder": f"{result.encoder}, {question.encoder_id}",
        "dataset": f"{result.dataset}, {question.dataset_id}",
        **{f"{name} rows": digest for name, digest in question.splits},
        "final fit": f"{result.fit.iterations} iterations, {result.fit.passes} passes, stopped by "
        f"{result.fit.stop}, gap at most {result.fit.bound:.1e}",
        "seed": str(question.seed),
        "made with": versions,
        "took": f"{made.seconds:.1f} s ({made.cpu_seconds:.1f} s of processor, "
        f"{made.threads} threads)",
        **_extraction(result, store),
    }
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(text)}</code></td></tr>"
        for name, text in lines.items()
    )
    return f"<section><h2>Provenance</h2><table class='provenance'>{rows}</table></section>"


def _extraction(result: ProbeResult, store: Path | None) -> dict[str, str]:
    dataset = stored_dataset_of(result, store)
    if dataset is None:
        return {}
    runs = dataset.encoder.provenance()
    spec = dataset.encoder.spec
    facts = {"features": f"{spec.architecture}, {spec.precision}, stored as {spec.storage_dtype}"}
    if runs:
        facts["extracted"] = f"{runs[-1].time} on {runs[-1].device}"
    return facts
