"""Answers as text for a person and as one JSON object for a program.

k-NN and few-shot results as text for a person and as one JSON object for a program.

Predictions as a table, CSV, JSON lines, or one JSON object.
"""

import csv
import io
import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from linprobe.errors import OptionError
from linprobe.records import JsonValue
from linprobe.terminal import text_table
from linprobe_store.format.spec import SkippedSample
from linprobe_train.results.answers import Keyed, ProbeResult
from linprobe_train.scores.headlines import plain_name
from linprobe_train.scores.metrics import Score, title_of, unit_of
from linprobe_train.scores.published import published
from linprobe_train.tasks.fewshot import FewshotResult
from linprobe_train.tasks.knn import KnnResult
from linprobe_train.tasks.predict import Predicted
from linprobe_train.tasks.probe import Answer


def answer_text(answer: Answer, store: Path) -> str:
    """The result, its protocol, where it is, and the next command."""
    result = answer.result
    first = "top1" if "top1" in {score.name for score in result.scores} else result.headline.name
    lines = [
        f"dataset   {result.dataset} ({len(result.classes)} classes, {result.test.n} test rows)",
        f"encoder   {result.encoder} ({result.question.protocol.tap}, {result.dim} features)",
        f"test      {score_text(result.score(first))}",
    ]
    if result.headline.name != first:
        lines.append(f"          {score_text(result.headline)}, the dataset's own metric")
    lines += _paper_lines(result)
    how = f"best on {result.held_out.source}" if result.sweep else "as given"
    fitted = f"{result.fitted_on.source}, {result.fitted_on.n} rows"
    lines += [
        f"C         {result.C:.4g} ({how}; {result.question.protocol.name}), fitted on {fitted}",
        *(f"warning   {line}" for line in result.warnings),
        f"result    {answer.folder}",
        f"store     {store}",
        f"next      {_next_command(result, store)}",
    ]
    return "\n".join(lines)


def _paper_lines(result: ProbeResult) -> list[str]:
    """The number of the CLIP paper for the same question, and the difference to it."""
    protocol = result.question.protocol
    found = published(result.encoder, plain_name(result.dataset), protocol.tap, protocol.name)
    return [] if found is None else [f"paper     {found.beside(result.headline.value)}"]


def _next_command(result: ProbeResult, store: Path) -> str:
    """The same features by another protocol: how much of the number is the protocol's."""
    other = "dino" if result.question.protocol.name == "clip-readme" else "clip-readme"
    model, data = shlex.quote(result.encoder), shlex.quote(result.dataset)
    return (
        f"linprobe probe --store {shlex.quote(str(store))} --model {model} --data {data} "
        f"--protocol {other}"
    )


def score_text(score: Score) -> str:
    """One metric with its interval, shares in per cent."""
    ends = (score.value, score.interval.low, score.interval.high)
    if unit_of(score.name) != "%":
        value, low, high = ends
        return f"{title_of(score.name)} {value:.4f} [{low:.4f}, {high:.4f}]"
    value, low, high = (100 * x for x in ends)
    return f"{title_of(score.name)} {value:.2f} % [{low:.2f}, {high:.2f}]"


def answers_json(answers: Sequence[Answer]) -> JsonValue:
    """Every result with its folder."""
    return {
        "results": [
            {**asdict(one.result), "folder": str(one.folder), "fresh": one.fresh} for one in answers
        ]
    }


def knn_text(found: Keyed[KnnResult]) -> str:
    """One line for every k."""
    result = found.result
    names = [score.name for score in result.results[0].scores]
    header = ("k", *(title_of(name) for name in names))
    rows = [(str(one.k), *(_cell(one.score(name)) for name in names)) for one in result.results]
    lines = [
        f"dataset   {result.dataset} ({result.test.n} test rows)",
        f"encoder   {result.encoder} ({result.question.tap}, {result.dim} features)",
        f"bank      {result.bank.source}, {result.bank.n} rows",
        f"votes     exp(cosine / {result.question.temperature:g})",
        text_table(header, rows, ">" * len(header)),
        f"result    {found.folder}",
    ]
    return "\n".join(lines)


def _cell(score: Score) -> str:
    value, low, high = (100 * x for x in (score.value, score.interval.low, score.interval.high))
    return f"{value:.2f} % [{low:.2f}, {high:.2f}]"


def fewshot_text(found: Keyed[FewshotResult]) -> str:
    """One line for every number of shots."""
    result = found.result
    title = title_of(result.metric)
    header = ("shots", f"mean {title}", "sd", "lowest", "highest", "C")
    rows = [
        (
            str(one.shots),
            f"{100 * one.mean:.2f} %",
            "-" if one.deviation is None else f"{100 * one.deviation:.2f}",
            f"{100 * min(draw.value for draw in one.draws):.2f}",
            f"{100 * max(draw.value for draw in one.draws):.2f}",
            ", ".join(sorted({f"{draw.C:.3g}" for draw in one.draws}, key=float)),
        )
        for one in result.results
    ]
    lines = [
        f"dataset   {result.dataset} ({result.test.n} test rows)",
        f"encoder   {result.encoder} ({result.question.tap}, {result.dim} features)",
        f"draws     {result.question.repeats}, nested across shots; C chosen on {result.held_out}",
        text_table(header, rows, ">>>>>>"),
        *(f"warning   {line}" for line in result.warnings),
        f"plot      {found.folder / 'fewshot.svg'}",
        f"result    {found.folder}",
    ]
    return "\n".join(lines)


def keyed_json(found: Keyed[KnnResult] | Keyed[FewshotResult]) -> JsonValue:
    """The result with its folder."""
    return {**asdict(found.result), "folder": str(found.folder), "fresh": found.fresh}


FORMATS = ("table", "csv", "jsonl")
"""What ``--format`` takes."""


def check_format(name: str) -> str:
    """Refuse an unknown format.

    Raises
    ------
    OptionError : no such format.
    """
    if name not in FORMATS:
        raise OptionError(f"no format {name!r}; known: {', '.join(FORMATS)}", hint="--format csv")
    return name


def predicted_lines(
    form: str, blocks: Iterable[Predicted], classes: Sequence[str], top: int
) -> Iterator[str]:
    """Lines of output, as the predictions come.

    Parameters
    ----------
    form : one of :data:`FORMATS`.
    top : classes of every row.
    """
    if form == "csv":
        ranks = range(1, top + 1)
        yield _csv(["key", *(f"{what}_{i}" for i in ranks for what in ("class", "probability"))])
    for block in blocks:
        for row in _rows(block, classes):
            if form == "jsonl":
                yield json.dumps(row_json(row), ensure_ascii=False)
            elif form == "csv":
                yield _csv([row[0], *(cell for name, p in row[1] for cell in (name, f"{p:.6g}"))])
            else:
                yield f"{row[0]}  {'  '.join(f'{name} {100 * p:.1f} %' for name, p in row[1])}"


def predictions_json(
    blocks: Iterable[Predicted], classes: Sequence[str], skipped: Sequence[SkippedSample]
) -> JsonValue:
    """Everything, as one object; ``skipped`` may fill while the blocks are read."""
    rows = [row_json(row) for block in blocks for row in _rows(block, classes)]
    return {
        "predictions": rows,
        "skipped": [{"key": one.key, "reason": one.reason} for one in skipped],
    }


Row = tuple[str, list[tuple[str, float]]]


def row_json(row: Row) -> JsonValue:
    """One row: its key and its classes, most probable first."""
    key, best = row
    return {"key": key, "classes": [{"class": name, "probability": p} for name, p in best]}


def _rows(block: Predicted, classes: Sequence[str]) -> Iterator[Row]:
    for key, ids, values in zip(
        block.keys, block.top.tolist(), block.probability.tolist(), strict=True
    ):
        yield key, [(classes[i], p) for i, p in zip(ids, values, strict=True)]


def _csv(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()
