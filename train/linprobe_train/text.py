"""Answers as text for a person and as one JSON object for a program."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from linprobe_store.canonical import JsonValue
from linprobe_train.headlines import plain_name
from linprobe_train.metrics import Score
from linprobe_train.published import published
from linprobe_train.results import ProbeResult
from linprobe_train.run import Answer

TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_top1_top5": "mean of top-1 and top-5",
    "mean_per_class": "mean per class",
    "macro_f1": "macro F1",
    "nll": "negative log likelihood",
    "ece": "ECE",
    "roc_auc": "ROC AUC",
    "map_11_point": "11-point mAP",
    "map": "mAP",
}
"""Names of metrics for people."""


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
        f"linprobe-train probe --store {shlex.quote(str(store))} --model {model} --data {data} "
        f"--protocol {other}"
    )


def score_text(score: Score) -> str:
    """One metric with its interval, shares in per cent."""
    if score.name == "nll":
        return (
            f"{TITLES[score.name]} {score.value:.4f} "
            f"[{score.interval.low:.4f}, {score.interval.high:.4f}]"
        )
    value, low, high = (100 * x for x in (score.value, score.interval.low, score.interval.high))
    return f"{TITLES[score.name]} {value:.2f} % [{low:.2f}, {high:.2f}]"


def answers_json(answers: Sequence[Answer]) -> JsonValue:
    """Every result with its folder."""
    return {
        "results": [
            {**asdict(one.result), "folder": str(one.folder), "fresh": one.fresh} for one in answers
        ]
    }
