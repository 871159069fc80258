"""Answers as text for a person and as one JSON object for a program."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from linprobe.benchmarks import published
from linprobe.names import csv_cell
from linprobe.options import RESULTS
from linprobe.records import JsonValue, plain
from linprobe.terminal import command, install, json_text, one_line, text_table
from linprobe_store.format.spec import SkippedSample
from linprobe_train.protocol.protocols import BAND, PROTOCOLS
from linprobe_train.results.answers import Answer
from linprobe_train.results.result import ProbeResult, R
from linprobe_train.scores.intervals import Interval
from linprobe_train.scores.metrics import Score, title_of, unit_of
from linprobe_train.tasks.fewshot import FewshotResult
from linprobe_train.tasks.grid import Outcome, TaskList
from linprobe_train.tasks.knn import KnnResult
from linprobe_train.tasks.predict import Predicted


def number_text(metric: str, value: float | None, sign: str = "") -> str:
    """A value of a metric without its unit: shares in per cent, others as they are."""
    if value is None:
        return "-"
    return f"{100 * value:{sign}.2f}" if unit_of(metric) == "%" else f"{value:{sign}.4f}"


def interval_text(metric: str, interval: Interval, sign: str = "") -> str:
    """Both ends, as :func:`number_text` has them."""
    low, high = (number_text(metric, x, sign) for x in (interval.low, interval.high))
    return f"[{low}, {high}]"


def value_text(metric: str, value: float) -> str:
    """A value of a metric; shares in per cent."""
    return number_text(metric, value) + (" %" if unit_of(metric) == "%" else "")


def score_cells(score: Score) -> tuple[str, str, str]:
    """Title, value and 95 % interval of a metric; shares in per cent."""
    interval = interval_text(score.name, score.interval)
    return title_of(score.name), value_text(score.name, score.value), interval


def metric_source(result: ProbeResult) -> str:
    """Who chose the metric that C is chosen by: the dataset, a person, or nobody."""
    declared = result.facts.declared_metric
    if not result.facts.label_source:  # a result from before these facts were recorded
        return "the headline metric"
    if declared is None:
        return "as the dataset declares none"
    if declared == result.question.metric:
        return "the dataset's own metric"
    return f"asked for; the dataset's own metric is {title_of(declared)}"


def _lines(*facts: tuple[str, object]) -> list[str]:
    """Facts by name; those that share a name follow one another."""
    return [one_line(f"{name:<9} {value}") for name, value in facts]


def answer_text(answer: Answer[ProbeResult], store: Path) -> str:
    """The result, its protocol, where it is, and the next command."""
    result, protocol = answer.result, answer.result.question.protocol
    names = {score.name for score in result.scores}
    first = result.score("top1") if "top1" in names else result.headline
    own = f"{' '.join(score_cells(result.headline))}, {metric_source(result)}"
    asked = (result.encoder, result.dataset, protocol.tap, protocol.name)
    paper = published(*asked, result.headline.name)
    # The same features by another protocol: how much of the number is the protocol's.
    other = "dino" if protocol.name == "clip-readme" else "clip-readme"
    out = None if answer.folder.parent == RESULTS else answer.folder.parent
    model, data = result.encoder, result.dataset
    tap = protocol.tap if protocol.tap not in {p.tap for p in PROTOCOLS.values()} else None
    again = command("probe", store=store, model=model, data=data, out=out, protocol=other, tap=tap)
    chosen = {"score": "best", BAND: "by likelihood"}[protocol.rule]
    how = f"{chosen} on {result.held_out.source}" if result.sweep else "not chosen"
    if result.sweep and result.sweep.coarse:
        how += f", among {result.sweep.stages}"
    how = "as given" if len(protocol.grid.values) == 1 else how
    fitted = f"fitted on {result.fitted_on.source}, {result.fitted_on.n} rows"
    rows = f"{len(result.classes)} classes, {result.test.n} test rows"
    return "\n".join(
        _lines(
            ("dataset", f"{result.dataset} ({rows})"),
            ("encoder", f"{result.encoder} ({protocol.tap}, {result.dim} features)"),
            ("test", " ".join(score_cells(first))),
            *([] if first == result.headline else [("", own)]),
            *(("", line) for line in _calibration_lines(result)),
            *([] if paper is None else [("paper", paper.beside(result.headline.value))]),
            ("C", f"{result.C:.4g} ({how}; {protocol.name}), {fitted}"),
            *(("warning", line) for line in result.warnings),
            ("result", answer.folder),
            ("store", store),
            ("next", command("report", store=store, out=out)),
            ("or", again),
        )
    )


def _calibration_lines(result: ProbeResult) -> list[str]:
    """How far the probabilities can be believed, and what the temperature does to them."""
    if not result.raw:
        return []
    names = [score.name for score in result.raw]
    lines = [_beside([score for score in result.scores if score.name in names])]
    return lines if result.T == 1 else [*lines, f"temperature {temperature_text(result)}"]


def temperature_text(result: ProbeResult) -> str:
    """The temperature, where one was fitted, what it gained, and the scores without it."""
    fitted = result.temperature
    if fitted is None:
        return ""
    gain = f"{fitted.gain:.1f} nats gained on {fitted.source}"
    if not fitted.applied:
        return f"1 (not {fitted.T:.3f}: {gain}, no more than noise)"
    return f"{fitted.T:.3f} ({gain}); without it: {_beside(result.raw)}"


def _beside(scores: Sequence[Score]) -> str:
    return ", ".join(" ".join(score_cells(score)) for score in scores)


def answers_json(answers: Sequence[Answer[ProbeResult]]) -> JsonValue:
    """Every result with its folder."""
    return {"results": [answer_json(answer) for answer in answers]}


def answer_json(answer: Answer[R]) -> JsonValue:
    """A result with its folder."""
    result = plain(answer.result)
    assert isinstance(result, dict)
    return {**result, "folder": str(answer.folder), "fresh": answer.fresh}


def knn_text(answer: Answer[KnnResult]) -> str:
    """One line for every k."""
    result = answer.result
    names = [score.name for score in result.results[0].scores]
    header = ("k", *(title_of(name) for name in names))
    rows = [
        (str(scores.k), *(" ".join(score_cells(scores.score(name))[1:]) for name in names))
        for scores in result.results
    ]
    facts = _lines(
        *_asked(result),
        ("bank", f"{result.bank.source}, {result.bank.n} rows"),
        ("votes", f"exp(cosine / {result.question.temperature:g})"),
    )
    table = text_table(header, rows, ">" * len(header))
    return "\n".join([*facts, table, *_lines(("result", answer.folder))])


def fewshot_text(answer: Answer[FewshotResult], plot: Path | str | None) -> str:
    """One line for every number of shots; ``plot`` says where it is; None: needs matplotlib."""
    result = answer.result
    header = ("shots", f"mean {title_of(result.metric)}", "sd", "lowest", "highest", "C")
    rows = []
    for scores in result.results:
        values = [draw.value for draw in scores.draws]
        spread = (scores.deviation, min(values), max(values))
        numbers = [number_text(result.metric, value) for value in spread]
        chosen = ", ".join(sorted({f"{draw.C:.3g}" for draw in scores.draws}, key=float))
        rows.append((str(scores.shots), value_text(result.metric, scores.mean), *numbers, chosen))
    draws = f"{result.question.repeats}, nested across shots; C chosen on {result.held_out}"
    facts = _lines(*_asked(result), ("draws", draws))
    ending = _lines(
        *(("warning", line) for line in result.warnings),
        ("plot", plot or f"needs matplotlib: {install('report')}"),
        ("result", answer.folder),
    )
    return "\n".join([*facts, text_table(header, rows, ">>>>>>"), *ending])


def _asked(result: KnnResult | FewshotResult) -> list[tuple[str, str]]:
    encoder = f"{result.encoder} ({result.question.tap}, {result.dim} features)"
    return [("dataset", f"{result.dataset} ({result.test.n} test rows)"), ("encoder", encoder)]


def outcomes_text(outcomes: Sequence[Outcome]) -> str:
    """A table of many probes, what failed or does not apply, then counts."""
    header = ("encoder", "dataset", "metric", "value", "C", "state")
    rows, remarks = [], []
    for outcome in outcomes:
        task, metric = outcome.task, title_of(outcome.metric) if outcome.metric else "-"
        value = "-" if outcome.value is None else value_text(outcome.metric, outcome.value)
        C = "-" if outcome.C is None else f"{outcome.C:.4g}"
        rows.append((task.encoder, task.dataset, metric, value, C, outcome.state))
        if remark := outcome.damage or outcome.inapplicable or outcome.problem:
            place = f"{task.encoder} on {task.dataset}"
            place += f" ({outcome.host})" if outcome.host else ""
            remarks.append(one_line(f"{outcome.state}: {place}: {remark}"))
    states = Counter(outcome.state for outcome in outcomes)
    counts = f"{states['done'] + states['made again']} probed, {states['was there']} were there, "
    counts += f"{states['failed']} failed"
    if states["not applicable"]:
        counts += f", {states['not applicable']} not applicable"
    remarks.sort(key=lambda line: line.startswith("failed"))  # last, where they are seen
    return "\n".join([text_table(header, rows, "<<<>><"), *remarks, counts])


def outcomes_json(outcomes: Sequence[Outcome], tasks: TaskList) -> JsonValue:
    """The same, and what of the store could not be opened."""
    broken = [{"path": str(broken.path), "reason": broken.reason} for broken in tasks.left_out]
    return {"probes": plain(outcomes), "left_out": broken}


def predicted_lines(
    form: str,
    blocks: Iterable[Predicted],
    classes: Sequence[str],
    top: int,
    *,
    guard: bool = True,
) -> Iterator[str]:
    """Lines as ``table``, ``csv`` or ``jsonl`` with ``top`` classes a row, as predictions come.

    ``guard`` is that of :func:`linprobe.names.csv_cell`.
    """
    if form == "csv":
        yield ",".join(["key", *(f"class_{i},probability_{i}" for i in range(1, top + 1))])
    for key, best in _rows(blocks, classes):
        if form == "jsonl":
            yield json_text(_row_json(key, best))
        elif form == "csv":
            out = io.StringIO()
            pairs = ((csv_cell(name, guard=guard), f"{p:.6g}") for name, p in best)
            cells = [csv_cell(key, guard=guard), *(cell for pair in pairs for cell in pair)]
            csv.writer(out, lineterminator="\n").writerow(cells)  # by which it quotes cells
            yield out.getvalue().removesuffix("\n")
        else:
            yield one_line(f"{key}  {'  '.join(f'{name} {100 * p:.1f} %' for name, p in best)}")


def predictions_json(
    blocks: Iterable[Predicted], classes: Sequence[str], skipped: Sequence[SkippedSample]
) -> JsonValue:
    """Everything, as one object; ``skipped`` may fill while the blocks are read."""
    return {
        "predictions": [_row_json(key, best) for key, best in _rows(blocks, classes)],
        "skipped": [{"key": sample.key, "reason": sample.reason} for sample in skipped],
    }


def _rows(
    blocks: Iterable[Predicted], classes: Sequence[str]
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Every row: its key, and class names with probabilities, most probable first."""
    for block in blocks:
        top, probability = block.top.tolist(), block.probability.tolist()
        for key, labels, p in zip(block.keys, top, probability, strict=True):
            yield key, list(zip((classes[label] for label in labels), p, strict=True))


def _row_json(key: str, best: Sequence[tuple[str, float]]) -> JsonValue:
    return {"key": key, "classes": [{"class": name, "probability": p} for name, p in best]}
