"""The report of one result: a single HTML file that needs nothing else.

The confusion matrix of a report: a table for few classes, a map one can read for a thousand.

What a report says of where its numbers come from.

The shell of our HTML pages: one file, no network, light and dark, screen, phone and print.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linprobe.disk import write_atomic
from linprobe_train.results.answers import ProbeResult
from linprobe_train.results.collect import Collected, facts_of, stored_dataset_of
from linprobe_train.scores.metrics import title_of
from linprobe_train.show.facts import ClassScore, Confusion, Mistake, ReportFacts, report_facts
from linprobe_train.show.plots import (
    calibration_svg,
    check_plotting,
    curve_svg,
    find_images,
    heat_png,
    thumbnail,
)
from linprobe_train.show.text import score_text

PAIRS = 20
"""Confusions listed by name."""
HEAT = (36, 120, 222)
"""Between the accents of light and of dark."""

_HOVER = """
<script>
(() => {
  const map = document.querySelector('.heat'), told = document.querySelector('#told');
  const { names, counts } = JSON.parse(document.querySelector('#confusion').textContent);
  const k = names.length;
  map.addEventListener('pointermove', event => {
    const box = map.getBoundingClientRect();
    const cell = share => Math.min(k - 1, Math.max(0, Math.floor(share * k)));
    const i = cell((event.clientY - box.top) / box.height);
    const j = cell((event.clientX - box.left) / box.width);
    told.textContent = `${names[i]} taken for ${names[j]}: ${(counts[i] || {})[j] || 0}`;
  });
})();
</script>
"""


def confusion_html(confusion: Confusion, classes: tuple[str, ...], few: int) -> str:
    """The section: cells with numbers up to ``few`` classes, beyond that a map; the worst pairs."""
    small = len(classes) <= few
    body = _table(confusion.counts, classes) if small else _map(confusion.counts, classes)
    note = "Rows are the true classes, columns what the probe said."
    return (
        f"<section><h2>Confusion</h2>{body}<p class='note'>{note}</p>"
        f"{_pairs(confusion, classes)}</section>"
    )


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of the true class in every cell, (k, k)."""
    found: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return found


def _table(counts: NDArray[np.int64], classes: tuple[str, ...]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in classes)
    lines = []
    for i, (row, share) in enumerate(zip(counts.tolist(), _shares(counts).tolist(), strict=True)):
        cells = "".join(
            f"<td{' class=right' if i == j else ''} style='background:rgb(var(--heat) / "
            f"{0.85 * part:.2f})'>{n or ''}</td>"
            for j, (n, part) in enumerate(zip(row, share, strict=True))
        )
        lines.append(f"<tr><th>{escape(classes[i])}</th>{cells}</tr>")
    return (
        f"<div class='wide'><table class='confusion'><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _map(counts: NDArray[np.int64], classes: tuple[str, ...]) -> str:
    sparse: dict[str, dict[str, int]] = {}
    for i, j in zip(*(at.tolist() for at in np.nonzero(counts)), strict=True):
        sparse.setdefault(str(i), {})[str(j)] = int(counts[i, j])
    # "</" would end the script element, whatever stands around it.
    data = json.dumps({"names": classes, "counts": sparse}, ensure_ascii=False).replace(
        "</", "<\\/"
    )
    return (
        f"<figure><img class='heat' src='{heat_png(_shares(counts), HEAT)}' "
        f"alt='confusion matrix of {len(classes)} classes'></figure>"
        "<p id='told'>Point at the map to read a cell.</p>"
        f"<script type='application/json' id='confusion'>{data}</script>{_HOVER}"
    )


def _pairs(confusion: Confusion, classes: tuple[str, ...]) -> str:
    pairs = confusion.pairs(PAIRS)
    if not pairs:
        return "<p>No row was taken for another class.</p>"
    rows = "".join(
        f"<tr><td>{escape(classes[i])}</td><td>{escape(classes[j])}</td><td>{n} of "
        f"{int(confusion.counts[i].sum())}</td></tr>"
        for i, j, n in pairs
    )
    return (
        "<div class='wide'><table><thead><tr><th>true</th><th>taken for</th><th>rows</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


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
    runs = dataset.provenance()
    spec = dataset.encoder_spec
    facts = {"features": f"{spec.architecture}, {spec.precision}, stored as {spec.storage_dtype}"}
    if runs:
        facts["extracted"] = f"{runs[-1].time} on {runs[-1].device}"
    return facts


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --dim: #59636e; --line: #d1d9e0;
  --accent: #0969da; --good: #1a7f37; --bad: #cf222e; --heat: 9 105 218; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0d1117; --ink: #e6edf3; --dim: #9198a1; --line: #3d444d; --accent: #4493f8;
    --good: #3fb950; --bad: #f85149; --heat: 68 147 248; } }
@media print { :root { --paper: #fff; --ink: #000; --dim: #444; --line: #bbb; --accent: #0550ae;
    --good: #116329; --bad: #a40e26; --heat: 9 105 218; }
  details > *, details::details-content { display: revert; content-visibility: visible; }
  section, figure, tr { break-inside: avoid; } body { max-width: none !important; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; -webkit-text-size-adjust: 100%;
  print-color-adjust: exact; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); }
p { margin: .4rem 0; } .note { color: var(--dim); font-size: .9rem; }
.warning { border-left: 4px solid var(--bad); padding: .2rem .8rem; margin: .6rem 0; }
.wide { overflow-x: auto; } figure { margin: .5rem 0; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
table.numbers td:not(:first-child), table.numbers th:not(:first-child) { text-align: right;
  white-space: nowrap; }
code { font-size: .85em; overflow-wrap: anywhere; }
"""
"""Common to all pages; colours are variables, so that plots follow light and dark too."""


def page(title: str, body: str, style: str = "") -> str:
    """Wrap HTML in a complete page.

    Parameters
    ----------
    title : plain text.
    body : HTML, already escaped.
    style : more CSS.
    """
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


FEW = 40
"""Classes that are all shown at once; of more, the ends."""
REPORT_FILE = "report.html"

REPORT_STYLE = """
.headline { font-size: 2.6rem; font-weight: 700; line-height: 1.1; margin: .6rem 0 0; }
.bars { width: 100%; } .bars td { padding: .1rem .5rem; } .bars td:nth-child(2) { width: 45%; }
.bar { position: relative; height: 1rem; background: rgb(var(--heat) / .12); }
.bar i { position: absolute; inset: 0 auto 0 0; background: var(--accent); }
.bar b { position: absolute; top: 45%; height: 10%; background: var(--ink); }
.confusion td { text-align: center; min-width: 1.6rem; padding: .15rem; border: 0; }
.confusion th { font-weight: 400; border: 0; padding: .15rem .4rem; text-align: right; }
.confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
.confusion .right { outline: 1px solid var(--line); }
.heat { width: 100%; image-rendering: pixelated; border: 1px solid var(--line); cursor: crosshair; }
.mistakes { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
.mistakes figure { margin: 0; font-size: .85rem; overflow-wrap: anywhere; break-inside: avoid; }
.mistakes img, .mistakes .none { width: 100%; aspect-ratio: 1; object-fit: contain;
  background: rgb(var(--heat) / .06); display: block; }
.said { color: var(--bad); } .truth { color: var(--good); }
.bars td:nth-child(3), .provenance td:first-child { white-space: nowrap; }
.provenance td { overflow-wrap: anywhere; } .curve svg { min-width: 30rem; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 36rem) { .bars td:nth-child(4) { display: none; } }
"""


@dataclass(frozen=True)
class Places:
    """Where a report looks for what the result itself does not hold."""

    store: Path | None
    """Feature store."""
    shards: Path | None
    """Folder of the dataset's shards."""


def write_report(one: Collected, places: Places) -> Path:
    """Write ``report.html`` into the folder of a result; an older one is replaced.

    Raises
    ------
    OptionError : matplotlib or Pillow is not installed; names the extra.
    ResultError : the predictions are missing or damaged.
    StoreError : the file cannot be written.
    """
    check_plotting()
    path = one.folder / REPORT_FILE
    write_atomic(path, report_html(one, places).encode())
    return path


def report_html(one: Collected, places: Places) -> str:
    """The whole page."""
    result = one.result
    facts = report_facts(result, one.predictions())
    images = _thumbnails(facts.mistakes, places.shards)
    sections = [
        _headline(result),
        _warnings(result, facts_of(result, places.store).changes),
        _scores(result),
        _curve(result),
        confusion_html(facts.confusion, result.classes, FEW) if facts.confusion else "",
        _classes(facts),
        _calibration(facts, multi_label=facts.confusion is None),
        _mistakes(facts.mistakes, images),
        provenance_html(one, places.store),
    ]
    return page(f"{result.dataset}: {result.encoder}", "\n".join(sections), REPORT_STYLE)


def _headline(result: ProbeResult) -> str:
    headline = result.headline
    number, _, interval = score_text(headline).removeprefix(title_of(headline.name)).partition("[")
    return (
        f"<h1>{escape(result.encoder)} on {escape(result.dataset)}</h1>"
        f"<p class='headline'>{escape(number.strip())}</p>"
        f"<p>{title_of(headline.name)}, 95 % interval [{escape(interval)}</p>"
        f"<p>{escape(protocol_sentence(result))}</p>"
    )


def protocol_sentence(result: ProbeResult) -> str:
    """How the number was made, in one sentence."""
    protocol = result.question.protocol
    prepared = [
        *(["L2-normalised"] if protocol.normalize else []),
        *(["standardised"] if protocol.standardize else []),
    ]
    chosen = f"C = {result.C:.4g} as given"
    if result.sweep is not None:
        chosen = (
            f"C = {result.C:.4g} chosen among {len(result.sweep.points)} values by "
            f"{title_of(result.sweep.metric)} on {result.held_out.source} "
            f"({result.held_out.n} rows)"
        )
    return (
        f"Logistic regression on the {result.dim} features of the {protocol.tap} tap"
        f" ({', '.join(prepared) or 'as they are'}), {chosen}, fitted on {result.fitted_on.source}"
        f" ({result.fitted_on.n} rows), scored once on {result.test.n} test rows of"
        f" {len(result.classes)} classes; protocol {protocol.name}."
    )


def _warnings(result: ProbeResult, changes: tuple[str, ...]) -> str:
    lines = (*changes, *result.warnings)
    return "".join(f"<p class='warning'>{escape(line)}</p>" for line in lines)


def _scores(result: ProbeResult) -> str:
    rows = []
    for score in result.scores:
        title = title_of(score.name)
        rest = score_text(score).removeprefix(title).strip()
        value, _, interval = rest.partition("[")
        rows.append(
            f"<tr><td>{escape(title)}</td><td>{escape(value)}</td><td>[{escape(interval)}</td></tr>"
        )
    return (
        "<section><h2>Scores on test</h2><div class='wide'><table class='numbers'><thead><tr>"
        "<th>metric</th><th>value</th><th>95 % interval</th></tr></thead><tbody>"
        f"{''.join(rows)}</tbody></table></div></section>"
    )


def _curve(result: ProbeResult) -> str:
    if result.sweep is None or len(result.sweep.points) < 2:
        return ""
    told = f"{title_of(result.sweep.metric)} on {result.held_out.source}"
    return (
        f"<section><h2>Choosing C</h2><figure class='wide curve'>"
        f"{curve_svg(result.sweep, title_of(result.sweep.metric))}</figure>"
        f"<p class='note'>{escape(told)}; the dashed line is the C of the final fit.</p></section>"
    )


def _classes(facts: ReportFacts) -> str:
    what = "Average precision" if facts.confusion is None else "Accuracy"
    few = len(facts.classes) if len(facts.classes) <= FEW else FEW // 2
    shown, rest = facts.classes[:few], facts.classes[few:]
    more = ""
    if rest:
        more = f"<details><summary>the other {len(rest)} classes</summary>{_bars(rest)}</details>"
    return (
        f"<section><h2>{what} by class</h2><p class='note'>Lowest first; the thin line is the "
        f"95 % interval.</p>{_bars(shown)}{more}</section>"
    )


def _bars(classes: tuple[ClassScore, ...]) -> str:
    return f"<table class='bars'><tbody>{''.join(_bar(one) for one in classes)}</tbody></table>"


def _bar(one: ClassScore) -> str:
    span = ""
    if one.interval is not None:
        low, high = 100 * one.interval.low, 100 * one.interval.high
        span = f"<b style='left:{low:.1f}%;width:{high - low:.1f}%'></b>"
    taken = f"taken for {one.confused_with}" if one.confused_with else ""
    return (
        f"<tr><td>{escape(one.name)}</td><td><div class='bar'>"
        f"<i style='width:{100 * one.value:.1f}%'></i>{span}</div></td>"
        f"<td>{100 * one.value:.1f} % of {one.rows}</td><td class='note'>{escape(taken)}</td></tr>"
    )


def _calibration(facts: ReportFacts, *, multi_label: bool) -> str:
    what = "Every class of every row." if multi_label else "The class named for each row."
    return (
        f"<section><h2>Calibration</h2><figure>{calibration_svg(facts.calibration)}</figure>"
        f"<p class='note'>{what} Larger dots are more rows; on the dashed line the probe is as "
        "often right as it is sure.</p></section>"
    )


def _thumbnails(mistakes: tuple[Mistake, ...], shards: Path | None) -> Mapping[str, str]:
    if shards is None or not shards.is_dir():
        return {}
    found = find_images(shards, "test", [one.key for one in mistakes])
    small = {key: thumbnail(data) for key, data in found.items()}
    return {key: uri for key, uri in small.items() if uri is not None}


def _mistakes(mistakes: tuple[Mistake, ...], images: Mapping[str, str]) -> str:
    if not mistakes:
        return "<section><h2>Mistakes</h2><p>None.</p></section>"
    cells = "".join(_mistake(one, images) for one in mistakes)
    note = ""
    if len(images) < len(mistakes):
        note = (
            f"<p class='note'>{len(mistakes) - len(images)} without a picture: their shards are "
            "not at hand (--shards DIR).</p>"
        )
    return (
        "<section><h2>Most confident mistakes</h2>"
        f"<div class='mistakes'>{cells}</div>{note}</section>"
    )


def _mistake(one: Mistake, images: Mapping[str, str]) -> str:
    empty = "<div class='none'></div>" if images else ""
    picture = f"<img src='{images[one.key]}' alt=''>" if one.key in images else empty
    return (
        f"<figure>{picture}<figcaption><span class='said'>{escape(one.said)} "
        f"{100 * one.probability:.1f} %</span><br><span class='truth'>is {escape(one.truth)}</span>"
        f"<br><span class='note'>{escape(one.key)}</span></figcaption></figure>"
    )
