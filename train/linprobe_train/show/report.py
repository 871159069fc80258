"""The report of one result: one HTML file, ``templates/report.html.j2`` filled with values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from linprobe.disk import write_atomic
from linprobe.errors import OptionError
from linprobe.terminal import human_bytes
from linprobe_train.protocol.protocols import BAND
from linprobe_train.results.collect import Collected, facts_of, stored_dataset_of
from linprobe_train.results.result import ProbeResult
from linprobe_train.scores.metrics import title_of
from linprobe_train.show.facts import report_facts
from linprobe_train.show.plots import calibration_svg, curve_svg, heat_uri, thumbnails
from linprobe_train.show.text import metric_source, score_cells, temperature_text

FEW = 40
"""Classes that are all shown at once; of more, a map of the confusion and the lowest classes."""
REPORT_FILE = "report.html"
TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Places:
    """Where a report looks for what the result itself does not hold."""

    store: Path | None
    """Feature store."""
    shards: Path | None
    """Folder of the dataset's shards."""
    template: Path | None = None
    """A template that extends ``report.html.j2``; None for that one itself."""


def shards_of(dataset: str) -> Path | None:
    """``data/DATASET``; None where the name, which may come from anybody, is no folder's."""
    is_plain = dataset not in ("", "..") and PurePath(dataset).name == dataset
    return Path("data", dataset) if is_plain and len(dataset.encode()) < 256 else None


def render(template: str | Path, values: Mapping[str, object]) -> str:
    """Fill a template of ours by its name, or a user's; values are escaped unless ``safe``."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    if isinstance(template, str):
        return environment.get_template(template).render(values)
    try:
        return environment.from_string(template.read_text(encoding="utf-8")).render(values)
    except (OSError, ValueError, TypeError, jinja2.TemplateError) as error:
        hint = f"compare it with {TEMPLATES / 'report.html.j2'}"
        what = f"the template {template} cannot be filled: {error}"
        raise OptionError(what, hint=hint) from error


def write_report(collected: Collected, places: Places) -> Path:
    """Write ``report.html`` into the folder of a result; an older one is replaced.

    ``OptionError``: the user's template cannot be read or filled; ``ModuleNotFoundError``: no
    Jinja or matplotlib, which the extra ``report`` brings; ``ResultError``: the predictions are
    missing or damaged; ``StoreError``: the file cannot be written.
    """
    path = collected.folder / REPORT_FILE
    write_atomic(path, report_html(collected, places).encode())
    return path


def report_html(collected: Collected, places: Places) -> str:
    """The whole page."""
    return render(places.template or "report.html.j2", report_values(collected, places))


def report_values(collected: Collected, places: Places) -> Mapping[str, object]:
    """Everything that the blocks of the template can show, by the name they use."""
    result, rows = collected.result, collected.predictions()
    facts = report_facts(result, rows)
    confusion, keys = facts.confusion, [mistake.key for mistake in facts.mistakes]
    values: dict[str, object] = {
        "result": result,
        "rows": rows,
        "facts": facts,
        "few": FEW,
        "title": title_of,
        "cells": score_cells,
        "sentence": protocol_sentence(result),
        "warnings": (*facts_of(result, places.store).changes, *result.warnings),
        "provenance": _provenance(collected, places.store),
        "curve_svg": "",
        "calibration_svg": calibration_svg(facts.calibration),
        "pictures": thumbnails(places.shards, "test", keys) if places.shards else {},
    }
    if result.sweep is not None and len(result.sweep.points) > 1:
        values["curve_svg"] = curve_svg(result.sweep, title_of(result.sweep.metric))
    if confusion is not None and len(result.classes) > FEW:
        values["heat_uri"] = heat_uri(confusion)
    elif confusion is not None:
        counts, shares = confusion.counts.tolist(), confusion.shares().tolist()
        values["confusion_rows"] = list(zip(result.classes, counts, shares, strict=True))
    return values


def protocol_sentence(result: ProbeResult) -> str:
    """How the number was made, in one sentence."""
    protocol = result.question.protocol
    steps = {"L2-normalised": protocol.normalize, "standardised": protocol.standardize}
    prepared = ", ".join(name for name, done in steps.items() if done) or "as they are"
    sweep, held_out, how = result.sweep, result.held_out, "as given"
    if sweep is not None:
        by = title_of(sweep.metric)
        if sweep.rule == BAND:
            by = f"likelihood (of those within 0.02 nats a row of the best, the best {by})"
        how = f"chosen among {sweep.stages} by {by}"
        how += f" on {held_out.source} ({held_out.n} rows)"
    elif held_out.never:
        how = "as no row could be held out to choose it"
    return (
        f"Logistic regression on the {result.dim} features of the {protocol.tap} tap"
        f" ({prepared}), C = {result.C:.4g} {how}, fitted on {result.fitted_on.source}"
        f" ({result.fitted_on.n} rows), scored once on {result.test.n} test rows of"
        f" {len(result.classes)} classes; protocol {protocol.name}."
    )


def _verified(result: ProbeResult) -> str:
    """How and how much of the features was verified before it was used, in one line."""
    of_splits = result.verified.values()
    methods = ", ".join(sorted({of_split.method for of_split in of_splits}))
    n_bytes = sum(of_split.bytes for of_split in of_splits)
    return f"{methods}; {len(of_splits)} splits, {human_bytes(n_bytes)}"


def _provenance(collected: Collected, store: Path | None) -> Mapping[str, str]:
    """Ids, versions, time, and the extraction where the store is at hand."""
    result, question = collected.result, collected.result.question
    made, fit = result.environment, result.fit
    skipped = (
        f"{split}: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        for split, reasons in result.facts.skipped.items()
    )
    seconds = f"{made.seconds:.1f} s ({made.cpu_seconds:.1f} s of processor"
    lines = {
        "result": collected.folder.name,
        "encoder": f"{result.encoder}, {question.encoder_id}",
        "dataset": f"{result.dataset}, {question.dataset_id}",
        **{f"{name} rows": digest for name, digest in question.splits},
        "labels": result.facts.label_source,
        "skipped": "; ".join(skipped),
        "metric": f"{title_of(question.metric)}, {metric_source(result)}",
        "final fit": f"{fit.iterations} iterations, {fit.passes} passes, stopped by {fit.stop}, "
        f"gap at most {fit.bound:.1e}",
        "features verified": _verified(result),
        "temperature": temperature_text(result),
        "seed": str(question.seed),
        "made with": ", ".join(f"{name} {version}" for name, version in made.versions.items()),
        "took": f"{seconds}, {made.threads} threads)",
    }
    dataset = stored_dataset_of(result, store)
    if dataset is not None:
        spec = dataset.encoder_spec
        lines["features"] = f"{spec.architecture}, {spec.precision}, stored as {spec.storage_dtype}"
        if runs := dataset.provenance():
            lines["extracted"] = f"{runs[-1].time} on {runs[-1].device}"
    return {name: text for name, text in lines.items() if text}
