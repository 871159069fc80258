"""k-NN and few-shot results as text for a person and as one JSON object for a program."""

from dataclasses import asdict

from linprobe_store.canonical import JsonValue
from linprobe_store.tables import text_table
from linprobe_train.fewshot import FewshotResult
from linprobe_train.keyed import Keyed
from linprobe_train.knn import KnnResult
from linprobe_train.metrics import Score
from linprobe_train.text import TITLES


def knn_text(found: Keyed[KnnResult]) -> str:
    """One line for every k."""
    result = found.result
    names = [score.name for score in result.results[0].scores]
    header = ("k", *(TITLES[name] for name in names))
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
    title = TITLES[result.metric]
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
