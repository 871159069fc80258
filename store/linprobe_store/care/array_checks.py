"""Whether the arrays of an import can be meant: told before anything is written."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from linprobe.errors import MismatchError
from linprobe.names import MAX_CLASSES, check_class_names, read_class_names
from linprobe_store.care.array_files import ArrayFile, SplitArrays

_MAX_DIM = 1 << 20
"""Features of a row: more are a matrix that lies the wrong way."""
_MAX_TEXT_BYTES = 1 << 14
"""Of a key or class name, as the array holds it."""


def check_sources(sources: Sequence[SplitArrays]) -> None:
    """Refuse, by a MismatchError, arrays of shapes and dtypes that do not go together."""
    name, count = Counter(source.name for source in sources).most_common(1)[0]
    if count > 1:
        raise MismatchError(f"--split {name} is given twice", hint="give each split once")
    first = sources[0].features.values
    for source in sources:
        features, labels = source.features.values, source.labels.values
        if features.dtype.kind != "f" or features.ndim != 2:
            raise MismatchError(
                f"{source.features.place}: expected features (n, d) of floating point, "
                f"found {features.shape} {features.dtype}",
                hint="one row per sample; name the array with NAME=FILE.npz:FEATURES,LABELS",
            )
        if (features.shape[1:], features.dtype) != (first.shape[1:], first.dtype):
            raise MismatchError(
                f"{source.features.place}: expected rows {first.shape[1:]} {first.dtype} as in "
                f"{sources[0].name!r}, found {features.shape[1:]} {features.dtype}",
                hint="all splits of one import come from one encoder",
            )
        if not 1 <= features.shape[1] <= _MAX_DIM:
            message = f"{source.features.place}: expected 1 to {_MAX_DIM:,} features a row"
            raise MismatchError(f"{message}, found {features.shape[1]:,}", hint="transpose it?")
        if labels.dtype.kind not in ("iu" if labels.ndim == 1 else "biu") or labels.ndim > 2:
            raise MismatchError(
                f"{source.labels.place}: expected labels (n,) of integers or (n, k) of 0 and 1, "
                f"found {labels.shape} {labels.dtype}",
                hint="number the classes from 0 and give their names with --classes",
            )
        for other in (source.labels, source.keys):
            if other is not None and (n := len(other.values)) != source.n:
                message = f"{other.place}: expected {source.n} rows as in the features, found {n}"
                raise MismatchError(message, hint="give one label, and one key, per feature row")
        for texts in (source.keys, source.classes):
            if texts is not None:
                _check_texts(texts)


def _check_texts(array: ArrayFile) -> None:
    shape, dtype = array.values.shape, array.values.dtype
    if len(shape) != 1 or dtype.kind not in "SUiu" or dtype.itemsize > _MAX_TEXT_BYTES:
        raise MismatchError(
            f"{array.place}: expected (n,) texts of at most {_MAX_TEXT_BYTES:,} bytes, "
            f"found {shape} {dtype}",
            hint="np.array(list_of_texts) makes such an array",
        )


def check_labels(sources: Sequence[SplitArrays], k: int) -> None:
    """Refuse, by a MismatchError, labels that are not of k classes."""
    for place, labels in ((source.labels.place, source.labels.values) for source in sources):
        if labels.ndim == 2 and not labels.shape[1]:
            message = f"{place}: expected at least one class, found {labels.shape}"
            raise MismatchError(message, hint="give a column for every class")
        if labels.ndim == 2 and labels.shape[1] != k:
            message = f"{place}: expected {k} columns, one a class, found {labels.shape[1]}"
            raise MismatchError(message, hint="give a name for every column")
        for value in (labels.min(), labels.max()) if labels.ndim == 1 and len(labels) else ():
            if not 0 <= int(value) < k:
                wanted = "from 0" if value < 0 else f"below {k}"
                raise MismatchError(
                    f"{place}: expected labels {wanted}, found {value}",
                    hint="number the classes from 0, in the order of their names",
                )


def class_names(path: Path | None, sources: Sequence[SplitArrays]) -> tuple[str, ...]:
    """Names by label: of a text file, else of the first archive, else the numbers of the labels."""
    if path is not None:
        return read_class_names(path, error=MismatchError)
    given = sources[0].classes
    if given is not None:
        _check_count(len(given.values), given.place)
        names = read_texts(given, slice(None))
        check_class_names(names, given.place, error=MismatchError)
        return names
    n_classes = 0
    for labels in (source.labels for source in sources):
        largest = int(labels.values.max()) if labels.values.ndim == 1 and len(labels.values) else -1
        count = largest + 1 if labels.values.ndim == 1 else labels.values.shape[1]
        _check_count(count, labels.place)
        n_classes = max(n_classes, count)
    return tuple(map(str, range(n_classes)))


def _check_count(n_classes: int, place: str) -> None:
    """Refuse what would name every number up to one that is no class."""
    if n_classes > MAX_CLASSES:
        raise MismatchError(
            f"{place}: expected at most {MAX_CLASSES:,} classes counted from 0, found "
            f"{n_classes:,}",
            hint="number the classes from 0, or give the names of all with --classes",
        )


def read_texts(array: ArrayFile, rows: slice) -> tuple[str, ...]:
    """Names or keys; those stored as bytes are UTF-8. Raises MismatchError for blank ones."""
    hint = "store it as text (dtype U) or as UTF-8"
    try:
        values = array.values[rows].tolist()
        texts = tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values)
    except UnicodeDecodeError as error:
        message = f"{array.place}: expected UTF-8, found {error.reason} in {error.object!r}"
        raise MismatchError(message, hint=hint) from None
    except (ValueError, SystemError) as error:  # a number that is no character
        raise MismatchError(f"{array.place}: {error}", hint=hint) from None
    for row, text in enumerate(texts, rows.start or 0):
        if not text or "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise MismatchError(
                f"{array.place}: expected a text in row {row}, found {text!r}",
                hint="write plain text, not blank, without NUL or half surrogate pairs",
            )
    return texts
