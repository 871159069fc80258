"""Comparisons as text, Markdown, CSV, JSON and HTML."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from html import escape

from linprobe.errors import OptionError
from linprobe.records import JsonValue
from linprobe.terminal import human_bytes, text_table
from linprobe_train.scores.metrics import title_of
from linprobe_train.show.report import page
from linprobe_train.tasks.compare import Comparison, Grid, Standing, grid_of

HEADER = ("result", "value", "95 %", "to the best", "95 %", "p", "dim", "features")
SIDES = "<>>>>>>>"
"""Columns of a comparison and how they are aligned."""

READING = (
    "To the best: the difference in percentage points and its 95 % interval, by a paired bootstrap "
    "over test rows. p: McNemar's test of the accuracies, exact, two-sided, not adjusted for the "
    "number of comparisons."
)


def compare_text(comparisons: Sequence[Comparison]) -> str:
    """Tables for the terminal."""
    parts = []
    for one in comparisons:
        parts += [_title(one), text_table(HEADER, [_cells(line) for line in one.standings], SIDES)]
        parts += [*_published(one), *(f"note: {note}" for note in one.notes), ""]
    if len(comparisons) > 1:
        header, lines = _grid_cells(grid_of(comparisons))
        parts += ["all datasets", text_table(header, lines, "<" + ">" * (len(header) - 1)), ""]
    return "\n".join([*parts, READING])


def compare_markdown(comparisons: Sequence[Comparison]) -> str:
    """The same as Markdown."""
    parts = []
    for one in comparisons:
        parts += [f"### {_title(one)}", ""]
        parts += [_markdown_table(HEADER, [_cells(line) for line in one.standings], SIDES), ""]
        parts += [f"- {line}" for line in (*_published(one), *one.notes)]
        parts.append("")
    if len(comparisons) > 1:
        header, lines = _grid_cells(grid_of(comparisons))
        parts += ["### All datasets", "", _markdown_table(header, lines, "<" + ">" * 99), ""]
    return "\n".join([*parts, READING])


def compare_csv(comparisons: Sequence[Comparison]) -> str:
    """One line for every result, with shares as numbers in [0, 1]; empty where unknown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = (
        "dataset,metric,rows,encoder,tap,protocol,label,C,value,low,high,top1,difference,"
        "difference_low,difference_high,only_best_right,only_this_right,p,dim,bytes_per_image,"
        "bytes,folder"
    )
    writer.writerow(names.split(","))
    for one in comparisons:
        for line in one.standings:
            writer.writerow([one.dataset, one.metric, one.rows, *_numbers(line)])
    return out.getvalue().rstrip("\n")


def compare_json(comparisons: Sequence[Comparison]) -> JsonValue:
    """Everything, as one object."""
    return {
        "comparisons": [asdict(one) for one in comparisons],
        "grid": asdict(grid_of(comparisons)),
    }


def compare_html(comparisons: Sequence[Comparison]) -> str:
    """A page that needs nothing else."""
    parts = ["<h1>Encoders compared</h1>"]
    if len(comparisons) > 1:
        header, lines = _grid_cells(grid_of(comparisons))
        parts += ["<h2>All datasets</h2>", _html_table(header, lines)]
    for one in comparisons:
        parts += [f"<h2>{escape(_title(one))}</h2>"]
        parts.append(_html_table(HEADER, [_cells(line) for line in one.standings]))
        parts += [f"<p class='note'>{escape(x)}</p>" for x in (*_published(one), *one.notes)]
    parts.append(f"<p class='note'>{escape(READING)}</p>")
    return page("Encoders compared", "\n".join(parts))


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "text": compare_text,
    "markdown": compare_markdown,
    "csv": compare_csv,
    "html": compare_html,
}
"""By the name that ``--format`` takes."""


def writer_named(name: str) -> Callable[[Sequence[Comparison]], str]:
    """Look a format up.

    Raises
    ------
    OptionError : no such format.
    """
    if name not in FORMATS:
        raise OptionError(
            f"no format {name!r}; known: {', '.join(FORMATS)}", hint="--format markdown"
        )
    return FORMATS[name]


def _title(one: Comparison) -> str:
    return f"{one.dataset}: {title_of(one.metric)} in per cent, {one.rows} test rows"


def _cells(line: Standing) -> tuple[str, ...]:
    best = line.difference_interval.low == line.difference_interval.high == line.difference == 0
    size = "-"
    if line.bytes is not None and line.bytes_per_image is not None:
        size = f"{human_bytes(line.bytes)} ({human_bytes(line.bytes_per_image)} each)"
    return (
        line.label,
        f"{100 * line.value:.2f}",
        f"[{100 * line.interval.low:.2f}, {100 * line.interval.high:.2f}]",
        "-" if best else f"{100 * line.difference:+.2f}",
        "-" if best else _signed(line),
        "-" if best or line.mcnemar is None else _p(line.mcnemar.p),
        str(line.dim),
        size,
    )


def _signed(line: Standing) -> str:
    low, high = line.difference_interval.low, line.difference_interval.high
    return f"[{100 * low:+.2f}, {100 * high:+.2f}]"


def _p(p: float) -> str:
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def _published(one: Comparison) -> list[str]:
    return [f"{line.label}: {line.published}" for line in one.standings if line.published]


def _numbers(line: Standing) -> list[object]:
    test = line.mcnemar
    return [
        line.encoder,
        line.tap,
        line.protocol,
        line.label,
        line.C,
        line.value,
        line.interval.low,
        line.interval.high,
        line.top1,
        line.difference,
        line.difference_interval.low,
        line.difference_interval.high,
        *((None, None, None) if test is None else (test.only_first, test.only_second, test.p)),
        line.dim,
        line.bytes_per_image,
        line.bytes,
        line.folder,
    ]


def _grid_cells(grid: Grid) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header = ("result", *grid.datasets, "average")
    columns = list(zip(*grid.values, strict=True))
    best = [max(x for x in column if x is not None) for column in columns]
    lines = []
    for label, values, mean in zip(grid.labels, grid.values, grid.averages, strict=True):
        cells = [
            "-" if x is None else f"{100 * x:.2f}{'*' if x == top else ''}"
            for x, top in zip(values, best, strict=True)
        ]
        lines.append((label, *cells, "-" if mean is None else f"{100 * mean:.2f}"))
    return header, lines


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    rule = ["---:" if side == ">" else "---" for _, side in zip(header, sides, strict=False)]
    lines = [header, rule, *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", r"\|") for c in line) + " |" for line in lines
    )


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f"<div class='wide'><table class='numbers'><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
