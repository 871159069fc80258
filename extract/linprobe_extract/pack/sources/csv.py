"""``csv:FILE``: a table of ``path`` and ``label``, and ``split`` where the splits are known.

Paths are relative to the table. With ``--label-separator`` a cell holds any number of labels, none
included (an empty cell), and the dataset is multi-label.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from linprobe.errors import PackError, StoreError
from linprobe.names import SPLITS, class_key, first_few, is_image, split_named
from linprobe.records import read_bytes
from linprobe_extract.pack.listing import Listing, PackOptions, file_sample
from linprobe_extract.pack.splits import split_by_options

NAME = "csv"
FORM = "csv:FILE"
HELP = "a table `path,label` or `path,label,split`; paths are relative to it; `.tsv` for tabs"
IS_PATH = True
NEVER_CHANGES = False

MAX_BYTES = 1 << 30
"""Of a table: that of ImageNet-21k, 14 million rows, has 0.9 GB."""
COLUMNS = "the first line names the columns: path,label or path,label,split"


@dataclass(frozen=True)
class _Row:
    """One line of the table: labels are class names, the split is None without such a column."""

    line: int
    path: str
    labels: tuple[str, ...]
    split: str | None


def list_samples(words: str, options: PackOptions) -> Listing:
    """List the images that a table names (``.tsv``: at tabs); else PackError, naming the line."""
    path = Path(words).expanduser()
    rows = _read_rows(path, options.label_separator)
    names = {name for row in rows for name in row.labels}
    if all(name.isascii() and name.isdigit() for name in names):
        classes = tuple(sorted(names, key=lambda name: (int(name), name)))
    else:
        classes = tuple(sorted(names, key=lambda name: (name != class_key(name), name)))
    label_of = {name: label for label, name in enumerate(classes)}
    root, samples, lost = path.parent, [], []
    for row in rows:
        labels = tuple(label_of[name] for name in row.labels)
        samples.append(file_sample(root / row.path, row.path, labels))
        if not samples[-1].n_bytes and not samples[-1].stamp:
            lost.append(f"{row.path} (line {row.line})")
    if lost:
        hint = f"paths are relative to {root}"
        raise PackError(f"{path}: {len(lost):,} files are not there: {first_few(lost)}", hint=hint)
    if rows[0].split is None:
        splits, note = split_by_options(samples, options)
    else:
        splits = {
            split: [sample for row, sample in zip(rows, samples, strict=True) if row.split == split]
            for split in SPLITS
            if any(row.split == split for row in rows)
        }
        note = f"splits by the column of {path.name}"
    is_multi_label = options.label_separator is not None
    return Listing(path.stem, classes, splits, is_multi_label, notes=(note,))


def _read_rows(path: Path, separator: str | None) -> list[_Row]:
    rows: dict[str, _Row] = {}
    try:
        text = read_bytes(path, limit=MAX_BYTES, error=StoreError, hint=COLUMNS).decode("utf-8-sig")
        file = StringIO(text, newline="")
        table = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        columns = table.fieldnames or ()
        if not {"path", "label"} <= set(columns):
            trouble = (
                f"expected the columns path and label, found {', '.join(columns) or 'nothing'}"
            )
            raise PackError(f"{path}: {trouble}", hint=COLUMNS)
        for cells in table:
            row = _row_of(f"{path}, line {table.line_num}", table.line_num, cells, separator)
            if row.path in rows:
                twice = f"twice, in lines {rows[row.path].line} and {row.line}"
                hint = "keep one row per image; for several labels see --label-separator"
                raise PackError(f"{path}: {row.path} is named {twice}", hint=hint)
            rows[row.path] = row
    except (StoreError, UnicodeDecodeError, csv.Error) as error:
        raise PackError(f"{path} cannot be read as a table: {error}", hint=COLUMNS) from error
    if not rows:
        raise PackError(f"{path} has no rows", hint=COLUMNS)
    return list(rows.values())


def _row_of(place: str, line: int, cells: Mapping[str, str | None], separator: str | None) -> _Row:
    image, label = (cells["path"] or "").strip(), (cells["label"] or "").strip()
    if not image:
        raise PackError(f"{place}: no path", hint=COLUMNS)
    if not is_image(image):
        hint = "image names end in .jpg, .png, .webp or the like"
        raise PackError(f"{place}: {image} is not named like an image", hint=hint)
    names = [label] if separator is None else label.split(separator)
    labels = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    if separator is None and not labels:
        hint = "fill the label column; an empty cell means no label only with --label-separator"
        raise PackError(f"{place}: {image} has no label", hint=hint)
    written = (cells.get("split") or "").strip()
    split = split_named(written)
    if "split" in cells and split is None:
        hint = "fill the split column in every row, or leave the column out"
        raise PackError(f"{place}: expected split train, val or test, found {written!r}", hint=hint)
    return _Row(line, image, labels, split)
