"""The report of one result: a single HTML file that needs nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from linprobe_store.staging import write_atomic
from linprobe_train.at_hand import facts_of
from linprobe_train.collected import Collected
from linprobe_train.page import page
from linprobe_train.report_confusion import confusion_html
from linprobe_train.report_facts import ClassScore, Mistake, ReportFacts, report_facts
from linprobe_train.report_plots import calibration_svg, check_plotting, curve_svg, thumbnail
from linprobe_train.report_provenance import provenance_html
from linprobe_train.results import ProbeResult
from linprobe_train.shard_images import find_images
from linprobe_train.text import TITLES, score_text

FEW = 40
"""Classes that are all shown at once; of more, the ends."""
REPORT_FILE = "report.html"

STYLE = """
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
    return page(f"{result.dataset}: {result.encoder}", "\n".join(sections), STYLE)


def _headline(result: ProbeResult) -> str:
    headline = result.headline
    number, _, interval = score_text(headline).removeprefix(TITLES[headline.name]).partition("[")
    return (
        f"<h1>{escape(result.encoder)} on {escape(result.dataset)}</h1>"
        f"<p class='headline'>{escape(number.strip())}</p>"
        f"<p>{TITLES[headline.name]}, 95 % interval [{escape(interval)}</p>"
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
            f"{TITLES[result.sweep.metric]} on {result.held_out.source} ({result.held_out.n} rows)"
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
        title = TITLES[score.name]
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
    told = f"{TITLES[result.sweep.metric]} on {result.held_out.source}"
    return (
        f"<section><h2>Choosing C</h2><figure class='wide curve'>"
        f"{curve_svg(result.sweep, TITLES[result.sweep.metric])}</figure>"
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
