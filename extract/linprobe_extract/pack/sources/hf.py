"""``hf:NAME[:key=value,...]``: the Hugging Face hub, or a local folder, through ``datasets``.

The columns are those of the keys ``image`` and ``label``, or the first of type Image, and the first
of type ClassLabel or else ``label``. The bytes that the hub stores are those in the shards.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from linprobe.benchmarks import Argument
from linprobe.errors import PackError
from linprobe.names import is_image, split_named
from linprobe_extract.pack.listing import (
    Listing,
    PackOptions,
    SourceSample,
    extension_of,
    parse_arguments,
    read_file,
)
from linprobe_extract.pack.splits import split_by_options

NAME = "hf"
FORM = "hf:NAME[:key=value,...]"
HELP = (
    "a dataset of the Hugging Face hub or a local folder of parquet files "
    "(`pip install 'linprobe[extract,hf]'`); keys `config`, `image`, `label`"
)
IS_PATH = False
NEVER_CHANGES = False

COLUMNS = "name the columns: hf:NAME:image=COLUMN,label=COLUMN"


@dataclass(frozen=True)
class _Table:
    """One split: a table of ``datasets``, its column of images, and type and cells of labels."""

    rows: Any
    image: str
    feature: Any
    labels: Sequence[object]


def list_samples(words: str, options: PackOptions) -> Listing:
    """List a dataset of the hub, downloaded where needed; PackError where nothing has labels."""
    name, _, text = words.partition(":")
    from huggingface_hub import constants  # which takes a while

    from linprobe_extract.hub import cache_alone_if_unreachable

    with nullcontext() if Path(name).exists() else cache_alone_if_unreachable():
        is_offline = constants.HF_HUB_OFFLINE
        try:
            return _list_tables(name, parse_arguments(text), options)
        except (PackError, ImportError):
            raise
        except Exception as error:  # datasets and pyarrow have errors of their own
            hint = "check the name and config; a private dataset needs `hf auth login` first"
            if is_offline:
                hint = "there is no network: copy its files into a folder, and pack hf:FOLDER"
            raise PackError(f"hf:{name}: {str(error).strip() or repr(error)}", hint=hint) from error


def _list_tables(name: str, arguments: Mapping[str, Argument], options: PackOptions) -> Listing:
    tables, notes = _labelled(name, arguments)
    feature = next(iter(tables.values())).feature
    is_multi_label = hasattr(feature, "feature")
    names = getattr(feature.feature if is_multi_label else feature, "names", None)
    if names:
        classes, label_of = tuple(map(str, names)), None
    else:
        values = {v for table in tables.values() for cell in table.labels for v in _values(cell)}
        are_numbers = all(value.isdecimal() for value in values)
        classes = tuple(sorted(values, key=int) if are_numbers else sorted(values))
        label_of = {value: label for label, value in enumerate(classes)}
    splits: Mapping[str, list[SourceSample]] = {
        split: _samples(table, split, label_of, name) for split, table in tables.items()
    }
    if set(splits) == {"train"}:
        splits, rule = split_by_options(splits["train"], options)
        notes.append(rule)
    return Listing(name, classes, splits, is_multi_label=is_multi_label, notes=tuple(notes))


def _labelled(name: str, arguments: Mapping[str, Argument]) -> tuple[dict[str, _Table], list[str]]:
    """The splits that can be used, by our names, and what was left aside.

    The hub hides test labels as -1; without a labelled test split, ``validation`` is it.
    """
    import datasets

    config = arguments.get("config")
    hub_splits: Mapping[str, Any] = datasets.load_dataset(name, config and str(config))
    tables: dict[str, _Table] = {}
    notes: list[str] = []
    for hub_name, rows in hub_splits.items():
        split = split_named(str(hub_name))
        if split is None or split in tables:
            notes.append(f"left aside, not known as a split: {hub_name}")
            continue
        image, label = _columns(rows.features, arguments)
        table = _Table(rows, image, rows.features[label], rows[label])
        if all(label == -1 for label in table.labels):
            notes.append(f"left aside, its labels are hidden: {hub_name}")
        else:
            tables[split] = table
    if "test" not in tables and "val" in tables:
        tables["test"] = tables.pop("val")
        notes.append("validation is taken for the test split: there is no labelled test")
    if not tables:
        raise PackError(f"no labelled split among {', '.join(hub_splits)}", hint=COLUMNS)
    return tables, notes


def _columns(features: Mapping[str, Any], arguments: Mapping[str, Argument]) -> list[str]:
    import datasets

    images, labels, chosen = [], [], []
    for column, kind in features.items():
        if isinstance(kind, datasets.Image):
            images.append(column)
        elif getattr(getattr(kind, "feature", kind), "names", None) is not None:
            labels.append(column)
    for key, columns in (("image", images), ("label", [*labels, *({"label"} & set(features))])):
        name = str(arguments[key]) if key in arguments else next(iter(columns), None)
        if name is None or name not in features:
            present = ", ".join(features)
            raise PackError(f"no {key} column {name or ''} among {present}", hint=COLUMNS)
        chosen.append(name)
    return chosen


def _roots(name: str) -> tuple[Path, ...]:
    """Where the files of a dataset may lie: its own folder, or what was downloaded."""
    import datasets
    from huggingface_hub import constants

    config = datasets.config
    caches = config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, constants.HF_HUB_CACHE
    return tuple(Path(root).resolve() for root in (name, *caches))


def _samples(
    table: _Table, split: str, label_of: Mapping[str, int] | None, name: str
) -> list[SourceSample]:
    """The samples of one split, sizes by offsets of the Arrow column; labels are ids or keys."""
    import datasets
    import pyarrow.compute

    column = table.rows.select_columns([table.image])
    images = column.cast_column(table.image, datasets.Image(decode=False))
    stored = images.data.column(table.image)
    sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(stored, "bytes"))
    paths = pyarrow.compute.struct_field(stored, "path")
    rows = zip(table.labels, paths.to_pylist(), sizes.to_pylist(), strict=True)
    samples = []
    for index, (cell, path, size) in enumerate(rows):
        labels = {int(v) if label_of is None else label_of[v] for v in _values(cell)}
        samples.append(
            SourceSample(
                name=f"{split}/{index:07d}{f'-{PurePosixPath(path).name}' if path else ''}",
                labels=tuple(sorted(labels)),
                extension=extension_of(path) if path and is_image(path) else "",
                n_bytes=int(size or 0),
                stamp=0,
                read=partial(_read, images, table.image, index, name),
            )
        )
    return samples


def _read(images: Any, column: str, index: int, name: str) -> bytes:
    cell = images[index][column]
    if cell is None:
        raise OSError("no image in this row")
    if cell["bytes"] is not None:
        return bytes(cell["bytes"])
    path = Path(cell["path"] or "").resolve()
    if not any(path.is_relative_to(root) for root in _roots(name)):
        raise OSError("it names a file outside of the dataset")
    return read_file(str(path))


def _values(cell: object) -> list[str]:
    return list(map(str, cell)) if isinstance(cell, list) else [str(cell)]
