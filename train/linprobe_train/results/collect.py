"""Results gathered from disk: which there are, what each said about every row, how to call it.

A folder that holds a damaged result or one of another version is told and left out: it must not
keep the others from being read.

What the store still knows about a result, where the store is at hand.

A result stands on its own; the store adds the size of the features, and tells when the features
are no longer the ones that the result was made from.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from linprobe.errors import LinprobeError, ResultError
from linprobe.names import short_id
from linprobe_store.handles.dataset import StoredDataset
from linprobe_store.handles.lookup import MIN_PREFIX
from linprobe_store.handles.store import FeatureStore
from linprobe_train.protocol.protocols import PROTOCOLS
from linprobe_train.results.answers import ProbeResult, Question, read_result
from linprobe_train.scores.headlines import plain_name
from linprobe_train.scores.predictions import Predictions, load_predictions


@dataclass(frozen=True)
class Collected:
    """A result, where it lies, and what tells it from the others."""

    result: ProbeResult
    """What was found."""
    folder: Path
    """Where it is stored."""
    label: str
    """Encoder, tap and protocol, and whatever else two results of one dataset differ in."""

    def predictions(self) -> Predictions:
        """Read what the probe said about every test row.

        Raises
        ------
        ResultError : the file is missing or damaged, or has another number of rows than the result.
        """
        return read_predictions(self.folder, self.result)


def read_predictions(folder: Path, result: ProbeResult) -> Predictions:
    """Read ``predictions.npz`` of a result and check that it is whole.

    Raises
    ------
    ResultError : it is missing or damaged, or has another number of rows than the result.
    """
    path = folder / "predictions.npz"
    try:
        found = load_predictions(path)
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise _unusable(path, str(error)) from error
    n, k = result.test.n, len(result.classes)
    if {len(found.keys), len(found.labels), len(found.top), len(found.probability)} != {n}:
        raise _unusable(path, f"expected {n} rows, found {len(found.keys)} keys")
    if found.top.size and not 0 <= int(found.top.min()) <= int(found.top.max()) < k:
        raise _unusable(path, f"expected classes below {k}, found {int(found.top.max())}")
    return found


def _unusable(path: Path, why: str) -> ResultError:
    return ResultError(
        f"{path} does not hold the predictions of its result ({why})",
        hint=f"remove {path.parent} and run the probe again",
    )


def collect(
    out: Path, folders: Sequence[Path] = (), tell: Callable[[str], None] = lambda line: None
) -> tuple[Collected, ...]:
    """Read results: all those in ``out``, or the ones whose folders are given.

    Parameters
    ----------
    tell : gets a line for every folder of ``out`` that cannot be used.

    Raises
    ------
    ResultError : there is none, or a folder that was given cannot be used.
    """
    found = [(folder, _needed(folder)) for folder in folders] or list(_readable(out, tell))
    if not found:
        raise ResultError(f"no results in '{out}'", hint="linprobe probe makes one")
    labels = labels_of([result for _, result in found])
    return tuple(
        Collected(result, folder, label)
        for (folder, result), label in zip(found, labels, strict=True)
    )


def _needed(folder: Path) -> ProbeResult:
    result = read_result(folder)
    if result is None:
        raise ResultError(
            f"'{folder}' holds no result.json", hint="pass the folder that the probe printed"
        )
    return result


def _readable(out: Path, tell: Callable[[str], None]) -> Iterable[tuple[Path, ProbeResult]]:
    for folder in sorted(out.iterdir()) if out.is_dir() else ():
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        try:
            result = read_result(folder)
        except (ResultError, OSError) as error:
            tell(f"left out: {error}")
            continue
        if result is not None:
            yield folder, result


def labels_of(results: Sequence[ProbeResult]) -> list[str]:
    """Names under which results differ: encoder, tap, protocol, options, and an id if need be."""
    plain = [_label(result) for result in results]
    taken = Counter(
        (result.question.dataset_id, name) for result, name in zip(results, plain, strict=True)
    )
    return [
        name
        if taken[result.question.dataset_id, name] == 1
        else f"{name} [{short_id(result.question.digest)[:6]}]"
        for result, name in zip(results, plain, strict=True)
    ]


def _label(result: ProbeResult) -> str:
    question = result.question
    options = ", ".join(_options(question))
    name = f"{result.encoder} · {question.protocol.tap} · {question.protocol.name}"
    return f"{name} ({options})" if options else name


def _options(question: Question) -> list[str]:
    """What was not left at its default."""
    protocol = question.protocol
    named = PROTOCOLS.get(protocol.name.removesuffix("-custom"))
    words = []
    if named is not None and protocol.normalize != named.normalize:
        words.append("normalised" if protocol.normalize else "not normalised")
    if named is not None and protocol.standardize != named.standardize:
        words.append("standardised" if protocol.standardize else "not standardised")
    if question.folds:
        words.append(f"{question.folds} folds")
    if question.balanced:
        words.append("balanced")
    if question.solver != "linprobe":
        words.append(question.solver)
    if question.seed:
        words.append(f"seed {question.seed}")
    return words


def of_datasets(results: Sequence[Collected], names: Sequence[str]) -> tuple[Collected, ...]:
    """Keep the results of some datasets, by name or the beginning of their ids; () keeps all.

    Raises
    ------
    ResultError : a name that no result has.
    """

    def is_of(one: Collected, name: str) -> bool:
        known, wanted = plain_name(one.result.dataset), plain_name(name)
        return known == wanted or (
            len(name) >= MIN_PREFIX and one.result.question.dataset_id.startswith(name)
        )

    for name in names:
        if not any(is_of(one, name) for one in results):
            has = ", ".join(sorted({one.result.dataset for one in results}))
            raise ResultError(f"no result of the dataset {name!r}", hint=f"there are: {has}")
    return tuple(one for one in results if not names or any(is_of(one, name) for name in names))


@dataclass(frozen=True)
class StoreFacts:
    """A result beside the store."""

    bytes_per_image: int | None
    """Bytes of one row of features; None where the store does not have them."""
    bytes: int | None
    """Bytes of the rows of all splits used."""
    changes: tuple[str, ...]
    """What is no longer as it was when the result was made."""


UNKNOWN = StoreFacts(None, None, ())
"""Without a store at hand."""


def facts_of(result: ProbeResult, store: Path | None) -> StoreFacts:
    """Look a result's features up; a store that does not have them is no error."""
    dataset = stored_dataset_of(result, store)
    if dataset is None:
        return UNKNOWN
    changes, rows, width = [], 0, None
    for name, digest in result.question.splits:
        try:
            split = dataset.split(name)
        except LinprobeError as error:
            changes.append(f"{name} cannot be opened any more: {error}")
            continue
        rows, width = rows + split.n, result.dim * np.dtype(split.dtype).itemsize
        if split.digest != digest:
            changes.append(
                f"{name} of {dataset.name} has changed in the store since: "
                f"{digest[:12]} then, {split.digest[:12]} now"
            )
    return StoreFacts(width, None if width is None else rows * width, tuple(changes))


def stored_dataset_of(result: ProbeResult, store: Path | None) -> StoredDataset | None:
    """The dataset of a result in the store, or None where it is not there."""
    if store is None or not store.is_dir():
        return None
    try:
        encoder = FeatureStore(store).encoder(result.question.encoder_id)
        return encoder.dataset(result.question.dataset_id)
    except LinprobeError:
        return None
