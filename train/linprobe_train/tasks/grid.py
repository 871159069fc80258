"""Every encoder and dataset of a store, and what became of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linprobe.errors import LinprobeError, OptionError, ProbeError
from linprobe.names import first_few
from linprobe.terminal import Watch, command, ignore
from linprobe_store.handles.dataset import StoredDataset
from linprobe_store.handles.encoder import StoredEncoder
from linprobe_store.handles.lookup import Broken, Listing, is_called, is_meant
from linprobe_store.handles.newest import newest
from linprobe_store.handles.store import FeatureStore
from linprobe_train.protocol.splits import check_tap, open_splits
from linprobe_train.tasks.probe import Recipe, probe


@dataclass(frozen=True)
class Task:
    """One encoder and one dataset."""

    encoder_id: str
    """64 hex digits."""
    encoder: str
    """Model name."""
    dataset_id: str
    """64 hex digits."""
    dataset: str
    """Name."""


@dataclass(frozen=True)
class TaskList:
    """What a store has to be probed."""

    tasks: tuple[Task, ...]
    """By encoder, then by dataset; at least one."""
    left_out: tuple[Broken, ...]
    """What is meant too, and cannot be opened."""


@dataclass(frozen=True)
class Outcome:
    """What became of a task."""

    task: Task
    """Which."""
    folder: str | None
    """Where its result lies; None where there is none."""
    fresh: bool
    """False where the answer was there already."""
    metric: str
    """Name of the result's metric; "" where there is none."""
    value: float | None
    """The metric, a share in [0, 1] unless its unit is another."""
    C: float | None
    """Of the final fit."""
    problem: str | None
    """What went wrong."""
    damage: str = ""
    """What was wrong with the stored result that this one replaced; "" where there was none."""
    inapplicable: str = ""
    """Why the protocol does not apply to the encoder; "" where it does."""
    host: str = ""
    """Machine of the worker that ran it, or all where it was tried; "" for this process' own."""

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.problem:
            return "failed"
        if self.inapplicable:
            return "not applicable"
        return "made again" if self.damage else "done" if self.fresh else "was there"


def failed(task: Task, problem: str, host: str = "") -> Outcome:
    """The outcome of a task that failed."""
    return Outcome(task, None, False, "", None, None, problem, host=host)


def list_tasks(
    store: Path, model: str | None, data: tuple[str, ...], watch: Watch = ignore
) -> TaskList:
    """All encoders and datasets of a store, or those that are named; none is a ``ProbeError``.

    Of datasets of one name it is the newest, and others where their ids are given. ``watch`` sees a
    line for every such name, and for all that cannot be opened.
    """
    models = () if model is None else (model,)
    tasks: list[Task] = []
    left_out: list[Broken] = []

    def leave_out(
        listing: Listing[StoredEncoder] | Listing[StoredDataset], queries: tuple[str, ...]
    ) -> None:
        listing.tell(watch)
        left_out.extend(
            broken
            for broken in listing.broken
            if not queries or any(is_called(broken.path.name, query) for query in queries)
        )

    encoders = FeatureStore(store).listing()
    leave_out(encoders, models)
    for encoder in encoders.sound:
        name, of_encoder = encoder.names.model, (encoder.names.slug, encoder.path.name)
        if model is not None and not is_meant(model, encoder.encoder_id, name, *of_encoder):
            continue
        datasets = encoder.listing()
        leave_out(datasets, data)
        named = [d for d in datasets.sound if not data or d.name in data]
        meant = [dataset.path for dataset in newest(named, watch)]
        tasks += (
            Task(encoder.encoder_id, name, d.dataset_id, d.name)
            for d in datasets.sound
            if d.path in meant or any(is_meant(q, d.dataset_id, d.path.name) for q in data)
        )
    if not tasks:
        raise ProbeError(f"{store} has nothing to probe", hint=f"fill it: {command('extract')}")
    return TaskList(tuple(tasks), tuple(left_out))


def run_task(store: Path, task: Task, recipe: Recipe, out: Path) -> Outcome:
    """Answer one task; a failure, expected or a bug, becomes part of the outcome."""
    tap = recipe.protocol.tap
    try:
        encoder = FeatureStore(store).encoder(task.encoder_id)
        try:
            check_tap(encoder, tap)
        except OptionError as error:
            return Outcome(task, None, False, "", None, None, None, inapplicable=error.message)
        answer = probe(open_splits(encoder, task.dataset_id, tap), recipe, out)
    except LinprobeError as error:
        return failed(task, f"{error.message} ({error.hint})")
    except Exception as error:
        return failed(task, f"{type(error).__name__}: {error}")
    score, C = answer.result.headline, answer.result.C
    folder = str(answer.folder)
    return Outcome(task, folder, answer.fresh, score.name, score.value, C, None, answer.damage)


def check_outcomes(outcomes: Sequence[Outcome], left_out: Sequence[Broken] = ()) -> None:
    """Make failed tasks, and what was left out, the failure of the command once all is printed.

    ``ProbeError``: there is one, or the protocol applies to no encoder.
    """
    failures = sum(outcome.problem is not None for outcome in outcomes)
    complaints = []
    if failures:
        complaints.append(f"{failures} of {len(outcomes)} probes failed")
    if left_out:
        paths = first_few(str(broken.path) for broken in left_out)
        complaints.append(f"{len(left_out)} of the store were left out: {paths}")
    if complaints:
        raise ProbeError(
            "; ".join(complaints),
            hint="mend what is listed above and run it again: only these are made again",
        )
    if all(outcome.inapplicable for outcome in outcomes):
        raise ProbeError(
            f"the protocol applies to none: {outcomes[0].inapplicable}",
            hint="pass another --protocol or --tap",
        )
