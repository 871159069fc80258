"""Results gathered from disk: which there are, what each said about every row, how to call it.

A damaged result, or one of another version, is named and left out. A store at hand adds the size of
the features, and whether they are still those that the result was made from.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from linprobe.benchmarks import find_known, plain_name
from linprobe.disk import STAGING_PREFIX
from linprobe.errors import LinprobeError, ResultError, unreadable
from linprobe.names import first_few, short_id
from linprobe.terminal import Progress, Watch, command, ignore
from linprobe_store.format.layout import DATASET_PREFIX, folder_named
from linprobe_store.handles.dataset import StoredDataset
from linprobe_store.handles.lookup import is_meant
from linprobe_store.handles.store import FeatureStore
from linprobe_train.protocol.protocols import all_protocols
from linprobe_train.results.answers import read_result
from linprobe_train.results.probe_file import CARD_FILE
from linprobe_train.results.result import ProbeResult, digest_of
from linprobe_train.results.signed import RESULT_FILE, read_beside
from linprobe_train.scores.metrics import all_metrics
from linprobe_train.scores.predictions import (
    PREDICTIONS_FILE,
    REMAKE,
    Predictions,
    parse_predictions,
)


@dataclass(frozen=True)
class Collected:
    """A result, where it lies, and what tells it from the others."""

    result: ProbeResult
    """The result."""
    folder: Path
    """Where it is stored."""
    label: str
    """Encoder, tap and protocol, and whatever else two results of one dataset differ in."""

    @property
    def dataset(self) -> str:
        """Name of the dataset, the same for every way to write that of a known one."""
        return dataset_key(self.result.dataset)

    def predictions(self) -> Predictions:
        """Read what the probe said about every test row.

        ``ResultError``: the file is missing or damaged, or does not fit the result.
        """
        path = self.folder / PREDICTIONS_FILE
        rows = parse_predictions(path, read_beside(self.folder, PREDICTIONS_FILE))
        try:
            rows.check(self.result.test.n, len(self.result.classes))
            self._check_metric(multi_label=rows.labels.ndim == 2)
        except ValueError as error:
            what = f"{path} does not hold the predictions of its result ({error})"
            raise ResultError(what, hint=REMAKE) from error
        return rows

    def _check_metric(self, *, multi_label: bool) -> None:
        metric = all_metrics().get(self.result.question.metric)
        if metric and not metric.exists_for(len(self.result.classes), multi_label=multi_label):
            raise ValueError(f"expected labels that have the metric {metric.name}")


def dataset_key(name: str) -> str:
    """One name for every way to write that of a known dataset; any other in plain letters."""
    known = find_known(name)
    return plain_name(name) if known is None else known.slug


def collect(
    out: Path, folders: Sequence[Path] = (), watch: Watch = ignore
) -> tuple[Collected, ...]:
    """Read results: all those in ``out``, or the ones whose folders are given.

    ``watch`` sees a line for every folder of ``out`` that cannot be used. ``ResultError``: there is
    no result, or a folder that was given cannot be used.
    """
    results: dict[Path, ProbeResult] = {}
    for folder in folders or _listed(out):
        try:
            result = read_result(folder)
            if result is not None:
                Collected(result, folder, "").predictions()  # refused here, or left out
                results[folder] = result
            elif folders or (folder / CARD_FILE).exists() or not folder.exists():
                raise ResultError(
                    f"'{folder}' holds no {RESULT_FILE}", hint="pass the folder that probe printed"
                )
        except (LinprobeError, OSError) as error:
            if folders:
                raise
            watch(Progress(0, None, "results", line=f"left out: {error}"))
    if not results:
        raise ResultError(f"no results in '{out}'", hint=f"make one with {command('probe')}")
    labels = {folder: _label(result) for folder, result in results.items()}
    taken = Counter((results[folder].question.dataset_id, labels[folder]) for folder in results)
    for folder, result in results.items():
        if taken[result.question.dataset_id, labels[folder]] > 1:
            labels[folder] += f" [{short_id(digest_of(result.question))[:6]}]"
    return tuple(Collected(result, folder, labels[folder]) for folder, result in results.items())


def _listed(out: Path) -> list[Path]:
    """What may be a result in ``out``: folders, and links to what is not there."""
    try:
        paths = sorted(out.iterdir()) if out.is_dir() else []
    except OSError as error:
        raise unreadable(out, error) from error
    return [
        path
        for path in paths
        if not path.name.startswith((STAGING_PREFIX, ".")) and (path.is_dir() or not path.exists())
    ]


def _label(result: ProbeResult) -> str:
    """Encoder, tap, protocol, and what was not left at its default."""
    question, protocol = result.question, result.question.protocol
    named = all_protocols().get(protocol.name.removesuffix("-custom"))
    words = []
    if named is not None and protocol.normalize != named.protocol.normalize:
        words.append("normalised" if protocol.normalize else "not normalised")
    if named is not None and protocol.standardize != named.protocol.standardize:
        words.append("standardised" if protocol.standardize else "not standardised")
    if named is not None and (grid := protocol.grid) != named.protocol.grid:
        if grid.values:
            words.append(f"C of {first_few((f'{C:g}' for C in grid.values), 3)}")
        if grid.coarse_rows:
            words.append(f"searched on {grid.coarse_rows} rows")
    if result.facts.declared_metric not in (None, question.metric):
        words.append(f"by {question.metric}")
    if question.folds:
        words.append(f"{question.folds} folds")
    if question.balanced:
        words.append("balanced")
    if question.solver != "linprobe":
        words.append(question.solver)
    if question.seed:
        words.append(f"seed {question.seed}")
    name = f"{result.encoder} · {protocol.tap} · {protocol.name}"
    return f"{name} ({', '.join(words)})" if words else name


def of_datasets(results: Sequence[Collected], names: Sequence[str]) -> tuple[Collected, ...]:
    """Keep the results of some datasets, by name or the beginning of their ids; () keeps all.

    ``ResultError``: a name that no result has.
    """
    kept: set[Path] = set()
    for name in names:
        ours = {
            collected.folder
            for collected in results
            if collected.dataset == dataset_key(name)
            or is_meant(name, collected.result.question.dataset_id, folder_of(collected.result))
        }
        if not ours:
            known = first_few(sorted({collected.result.dataset for collected in results}), 20)
            raise ResultError(f"no result of the dataset {name!r}", hint=f"there are: {known}")
        kept |= ours
    return tuple(collected for collected in results if not names or collected.folder in kept)


def folder_of(result: ProbeResult) -> str:
    """Name of the folder of a result's dataset, as extract prints it."""
    return folder_named(DATASET_PREFIX, result.dataset, result.question.dataset_id)


@dataclass(frozen=True)
class StoreFacts:
    """A result beside the store."""

    bytes_per_image: int | None
    """Bytes of one row of features; None where the store does not have them."""
    bytes: int | None
    """Bytes of the rows of all splits used."""
    changes: tuple[str, ...]
    """What is no longer as it was when the result was made."""


def facts_of(result: ProbeResult, store: Path | None) -> StoreFacts:
    """Look a result's features up; a store that does not have them is no error."""
    dataset = stored_dataset_of(result, store)
    if dataset is None:
        return StoreFacts(None, None, ())
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
