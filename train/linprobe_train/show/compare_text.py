"""Comparisons as text, Markdown, CSV, JSON and HTML."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from linprobe.names import csv_cell
from linprobe.records import JsonValue, plain
from linprobe.terminal import human_bytes, one_line, text_table
from linprobe_train.scores.metrics import title_of, unit_of
from linprobe_train.show.report import render
from linprobe_train.show.text import interval_text, number_text
from linprobe_train.tasks.compare import Comparison, Standing, overview_of

READING = (
    "To the best: the difference in percentage points and its 95 % interval, by a paired bootstrap "
    "over test rows. p: McNemar's test of the accuracies, exact, two-sided, not adjusted for the "
    "number of comparisons."
)
CSV_COLUMNS = (
    "dataset,metric,rows,encoder,tap,protocol,label,C,value,low,high,top1,difference,"
    "difference_low,difference_high,only_best_right,only_this_right,p,dim,bytes_per_image,"
    "bytes,folder"
)


@dataclass(frozen=True)
class Section:
    """A table with what is said of it."""

    title: str
    """Of one line."""
    header: tuple[str, ...]
    """The first column is text, the others are numbers."""
    rows: tuple[tuple[str, ...], ...]
    """As wide as the header."""
    published: tuple[str, ...] = ()
    """Numbers of the literature for the same question."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""


def compare_text(comparisons: Sequence[Comparison]) -> str:
    """Tables for the terminal."""
    parts = []
    for part in (*_datasets(comparisons), *_overview(comparisons)):
        sides = "<" + ">" * (len(part.header) - 1)
        said = (*part.published, *(f"note: {note}" for note in part.notes))
        table = text_table(part.header, part.rows, sides)
        parts += [one_line(part.title), table, *map(one_line, said), ""]
    return "\n".join([*parts, READING])


def compare_markdown(comparisons: Sequence[Comparison]) -> str:
    """The same as Markdown."""
    parts = []
    for part in (*_datasets(comparisons), *_overview(comparisons)):
        rule = ["---", *["---:"] * (len(part.header) - 1)]
        parts += [f"### {part.title}", ""]
        for line in (part.header, rule, *part.rows):
            parts.append(
                "| " + " | ".join(one_line(cell).replace("|", r"\|") for cell in line) + " |"
            )
        parts += ["", *(f"- {note}" for note in (*part.published, *part.notes)), ""]
    return "\n".join([*parts, READING])


def compare_html(comparisons: Sequence[Comparison]) -> str:
    """A page that needs nothing else; the averages come first."""
    sections = [*_overview(comparisons), *_datasets(comparisons)]
    return render("compare.html.j2", {"sections": sections, "reading": READING})


def compare_csv(comparisons: Sequence[Comparison], *, guard: bool = True) -> str:
    """One line for every result, with shares as numbers in [0, 1]; empty where unknown.

    ``guard`` is that of :func:`linprobe.names.csv_cell`.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS.split(","))
    for part in comparisons:
        for line in part.standings:
            test, own, apart = line.mcnemar, line.interval, line.difference_interval
            cells = [part.dataset, part.metric, part.rows, line.encoder, line.tap, line.protocol]
            cells += [line.label, line.C, line.value, own.low, own.high, line.top1]
            cells += [line.difference, apart.low, apart.high]
            cells += [None] * 3 if test is None else [test.only_first, test.only_second, test.p]
            cells += [line.dim, line.bytes_per_image, line.bytes, line.folder]
            writer.writerow(
                csv_cell(cell, guard=guard) if isinstance(cell, str) else cell for cell in cells
            )
    return out.getvalue().rstrip("\n")


def compare_json(comparisons: Sequence[Comparison]) -> JsonValue:
    """Everything, as one object."""
    return {"comparisons": plain(comparisons), "grid": plain(overview_of(comparisons))}


FORMATS: dict[str, Callable[[Sequence[Comparison]], str]] = {
    "text": compare_text,
    "markdown": compare_markdown,
    "csv": compare_csv,
    "html": compare_html,
}
"""By the name that ``--format`` takes."""


def _datasets(comparisons: Sequence[Comparison]) -> list[Section]:
    """A table for every dataset."""
    header = ("result", "C", "value", "95 %", "to the best", "95 %", "p", "dim", "features")
    sections = []
    for part in comparisons:
        lines, unit = part.standings, unit_of(part.metric).replace("%", "per cent")
        metric = title_of(part.metric) + (f" in {unit}" if unit else "")
        title = f"{part.dataset}: {metric}, {part.rows} test rows"
        rows = tuple(_cells(line, part.metric) for line in lines)
        published = tuple(f"{line.label}: {line.published}" for line in lines if line.published)
        sections.append(Section(title, header, rows, published, part.notes))
    return sections


def _overview(comparisons: Sequence[Comparison]) -> list[Section]:
    """All values of several datasets in shares, and their averages; * marks the best."""
    comparisons = [part for part in comparisons if unit_of(part.metric) == "%"]
    if len(comparisons) < 2:
        return []
    grid = overview_of(comparisons)
    best = [max(x for x in column if x is not None) for column in zip(*grid.values, strict=True)]
    rows = []
    for label, values, mean in zip(grid.labels, grid.values, grid.averages, strict=True):
        pairs = zip(values, best, strict=True)
        cells = [number_text("top1", x) + ("*" if x == top else "") for x, top in pairs]
        rows.append((label, *cells, number_text("top1", mean)))
    return [Section("all datasets", ("result", *grid.datasets, "average"), tuple(rows))]


def _cells(line: Standing, metric: str) -> tuple[str, ...]:
    apart, difference, beyond, p = line.difference_interval, "-", "-", "-"
    if not apart.low == apart.high == line.difference == 0:
        difference = number_text(metric, line.difference, "+")
        beyond = interval_text(metric, apart, "+")
        if line.mcnemar is not None:
            p = "<0.0001" if line.mcnemar.p < 1e-4 else f"{line.mcnemar.p:.4f}"
    size = "-"
    if line.bytes is not None and line.bytes_per_image is not None:
        size = f"{human_bytes(line.bytes)} ({human_bytes(line.bytes_per_image)} each)"
    value, interval = number_text(metric, line.value), interval_text(metric, line.interval)
    C = f"{line.C:.4g}"
    return line.label, C, value, interval, difference, beyond, p, str(line.dim), size
