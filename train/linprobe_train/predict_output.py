"""Predictions as a table, CSV, JSON lines, or one JSON object."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence

from linprobe_store.canonical import JsonValue
from linprobe_store.records import SkippedSample
from linprobe_train.errors import OptionError
from linprobe_train.predict import Predicted

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
