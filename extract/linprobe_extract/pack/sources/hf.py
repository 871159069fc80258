"""``hf:NAME[:key=value,...]``: datasets of the Hugging Face hub, through the package ``datasets``.

NAME may also be a local folder of parquet files. Keys: ``config`` (of the dataset), ``image`` and
``label`` (columns; by default the first column of type Image, and the first of type ClassLabel or
else the one called ``label``). Images are never decoded: the bytes that the hub stores are those
in the shards. Only this file imports ``datasets`` (extra ``hf``).
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from linprobe.benchmarks import Argument
from linprobe.errors import PackError
from linprobe.names import split_named
from linprobe_extract.pack.listing import (
    Listing,
    PackOptions,
    SourceSample,
    dataset_slug,
    is_image_name,
    parse_arguments,
)
from linprobe_extract.pack.splits import FractionRule, describe_rule, split_by_fraction

NAME = "hf"
FORM = "hf:NAME[:key=value,...]"
HELP = (
    "a dataset of the Hugging Face hub or a local folder of parquet files "
    "(`pip install 'linprobe[extract,hf]'`); keys `config`, `image`, `label`"
)
IS_PATH = False
NEVER_CHANGES = False

COLUMNS_HINT = "name the columns: hf:NAME:image=COLUMN,label=COLUMN"


def list_samples(words: str, options: PackOptions) -> Listing:
    """List a dataset of the hub; downloads it into the cache of ``datasets`` where needed.

    Raises
    ------
    PackError : ``datasets`` is not installed, there is no such dataset, configuration or column,
        or no split has labels.
    """
    name, _, text = words.partition(":")
    arguments = parse_arguments(text)
    tables, notes = _labelled(_load(name, arguments), arguments)
    first = next(iter(tables.values()))
    column = _label_column(first, arguments)
    feature = first.features[column]
    is_multi_label = hasattr(feature, "feature")
    names = getattr(feature.feature if is_multi_label else feature, "names", None)
    classes = tuple(map(str, names)) if names else _values(tables.values(), column)
    label_of = None if names else {name: label for label, name in enumerate(classes)}
    splits: Mapping[str, list[SourceSample]] = {
        split: _samples(table, split, arguments, column, label_of)
        for split, table in tables.items()
    }
    if set(splits) == {"train"}:
        rule = FractionRule(options.test_fraction, options.val_fraction)
        splits = split_by_fraction(splits["train"], rule, options.seed)
        notes.append(describe_rule(rule, options.seed))
    return Listing(
        name=dataset_slug(name.replace("/", "-")),
        classes=classes,
        splits=splits,
        is_multi_label=is_multi_label,
        notes=tuple(notes),
    )


def _load(name: str, arguments: Mapping[str, Argument]) -> Mapping[str, Any]:
    """All splits of a dataset by their names on the hub."""
    try:
        import datasets
    except ImportError as error:
        raise PackError(
            "hf: sources need the package datasets, which is not installed",
            hint="pip install 'linprobe[extract,hf]'",
        ) from error
    config = arguments.get("config")
    try:
        found: Mapping[str, Any] = datasets.load_dataset(name, config and str(config))
    except (OSError, ValueError, RuntimeError) as error:
        raise PackError(
            f"hf:{name}: {str(error).strip() or repr(error)}",
            hint="check the name and config; a private dataset needs `hf auth login` first",
        ) from error
    return found


def _labelled(
    found: Mapping[str, Any], arguments: Mapping[str, Argument]
) -> tuple[dict[str, Any], list[str]]:
    """The splits that can be used, by our names, and what was left aside.

    The hub hides test labels as -1. Without a labelled test split, ``validation`` is the test
    split.
    """
    tables: dict[str, Any] = {}
    notes: list[str] = []
    for name, table in found.items():
        split = split_named(str(name))
        if split is None or split in tables:
            notes.append(f"left aside, not known as a split: {name}")
        elif all(label == -1 for label in table[_label_column(table, arguments)]):
            notes.append(f"left aside, its labels are hidden: {name}")
        else:
            tables[split] = table
    if "test" not in tables and "val" in tables:
        tables["test"] = tables.pop("val")
        notes.append("validation is taken for the test split: there is no labelled test")
    if not tables:
        raise PackError(f"no labelled split among {', '.join(found)}", hint=COLUMNS_HINT)
    return tables, notes


def _samples(
    table: Any,  # noqa: ANN401 # datasets has no types that mypy can use
    split: str,
    arguments: Mapping[str, Argument],
    label_column: str,
    label_of: Mapping[str, int] | None,
) -> list[SourceSample]:
    """The samples of one split; image sizes come from the offsets of the Arrow column."""
    import datasets
    import pyarrow.compute

    column = _image_column(table, arguments)
    images = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    stored = images.data.column(column)
    sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(stored, "bytes"))
    names = pyarrow.compute.struct_field(stored, "path").to_pylist()
    return [
        SourceSample(
            name=f"{split}/{index:07d}{f'-{PurePosixPath(name).name}' if name else ''}",
            labels=_labels(raw, label_of),
            extension=_extension(name),
            n_bytes=int(size or 0),
            stamp=0,
            read=partial(_read, images, column, index),
        )
        for index, (raw, name, size) in enumerate(
            zip(table[label_column], names, sizes.to_pylist(), strict=True)
        )
    ]


def _read(images: Any, column: str, index: int) -> bytes:  # noqa: ANN401 # see _samples
    """The stored bytes of one image; of its file, where the dataset holds paths."""
    cell = images[index][column]
    if cell is None:
        raise OSError("no image in this row")
    if cell["bytes"] is None:
        return Path(cell["path"]).read_bytes()
    return bytes(cell["bytes"])


def _labels(raw: object, label_of: Mapping[str, int] | None) -> tuple[int, ...]:
    """Class ids of one cell: an id or a list of ids; or, with ``label_of``, a value."""
    cells = raw if isinstance(raw, list) else [raw]
    ids = {int(str(cell)) if label_of is None else label_of[str(cell)] for cell in cells}
    return tuple(sorted(ids))


def _values(tables: Iterable[Any], column: str) -> tuple[str, ...]:
    """The values of a column without class names, sorted: as numbers where all are such."""
    cells = [cell for table in tables for cell in table[column]]
    values = {str(value) for c in cells for value in (c if isinstance(c, list) else [c])}
    if all(value.isdecimal() for value in values):
        return tuple(sorted(values, key=int))
    return tuple(sorted(values))


def _extension(name: str | None) -> str:
    """The extension of a stored file name, or none."""
    return PurePosixPath(name).suffix.lower()[1:] if name and is_image_name(name) else ""


def _image_column(table: Any, arguments: Mapping[str, Argument]) -> str:  # noqa: ANN401 # see _samples
    """The column of images: as named, or the first of type Image."""
    import datasets

    found = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    return _column(table, arguments, "image", found)


def _label_column(table: Any, arguments: Mapping[str, Argument]) -> str:  # noqa: ANN401 # see _samples
    """The column of labels: as named, the first of type ClassLabel, or ``label``."""
    found = [
        name
        for name, kind in table.features.items()
        if getattr(getattr(kind, "feature", kind), "names", None) is not None
    ]
    return _column(table, arguments, "label", [*found, *({"label"} & set(table.features))])


def _column(
    table: Any,  # noqa: ANN401 # see _samples
    arguments: Mapping[str, Argument],
    key: str,
    found: list[str],
) -> str:
    """The column named in the arguments, or the first found."""
    name = str(arguments[key]) if key in arguments else next(iter(found), None)
    if name is None or name not in table.features:
        raise PackError(
            f"no {key} column {name or ''} among {', '.join(table.features)}", hint=COLUMNS_HINT
        )
    return name
