"""Every encoder and dataset of a store, one probe each, over processes or a cluster.

Each task stands alone: what fails is told at the end and stops no other; what is already answered
on disk costs no fit, so running it again resumes. Processes times threads stay within the cores,
and the memory limit is shared out among the processes.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

from joblib import Parallel, delayed, parallel_config

from linprobe.errors import LinprobeError, OptionError, ProbeError
from linprobe.terminal import text_table
from linprobe_store.handles.lookup import MIN_PREFIX
from linprobe_store.handles.store import FeatureStore
from linprobe_train.scores.metrics import title_of
from linprobe_train.solver.memory import available_bytes, parse_bytes
from linprobe_train.tasks.probe import ProbeRequest, options_of, probe_datasets

CLUSTER = "dask"
"""The backend whose workers may be on other machines."""


@dataclass(frozen=True)
class Pool:
    """Where tasks run."""

    jobs: int | None
    """Most tasks at once; None for one a core of this machine."""
    backend: str
    """Name of a joblib backend: ``loky`` (processes), ``threading``, ``dask``, ..."""


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
class Outcome:
    """What became of a task."""

    task: Task
    """Which."""
    folder: str | None
    """Where its result lies; None when it failed."""
    fresh: bool
    """False where the answer was there already."""
    metric: str
    """Name of the dataset's metric; "" when it failed."""
    value: float | None
    """The metric, a share in [0, 1]."""
    C: float | None
    """Of the final fit."""
    problem: str | None
    """What went wrong."""


def list_tasks(request: ProbeRequest) -> tuple[Task, ...]:
    """All encoders and datasets, or those that the request names.

    Raises
    ------
    ProbeError : there are none.
    """
    models = () if request.model is None else (request.model,)
    tasks = tuple(
        Task(encoder.encoder_id, encoder.names.model, dataset.dataset_id, dataset.name)
        for encoder in FeatureStore(request.store).encoders()
        if _is_named(models, encoder.encoder_id, encoder.names.model)
        for dataset in encoder.datasets()
        if _is_named(request.data, dataset.dataset_id, dataset.name)
    )
    if not tasks:
        raise ProbeError(
            f"{request.store} holds nothing to probe", hint="linprobe extract fills it"
        )
    return tasks


def _is_named(queries: tuple[str, ...], digits: str, name: str) -> bool:
    """Whether a query means this name or id; no query means all."""
    return not queries or any(
        query == name or (len(query) >= MIN_PREFIX and digits.startswith(query))
        for query in queries
    )


def probe_all(
    request: ProbeRequest, pool: Pool, tell: Callable[[str], None]
) -> tuple[Outcome, ...]:
    """Probe every task, in the order of the store.

    Raises
    ------
    OptionError : an option is out of range, or the backend is not there.
    ProbeError : there is nothing to probe.
    """
    if pool.jobs is not None and pool.jobs < 1:
        raise OptionError(f"--jobs {pool.jobs}; expected at least 1", hint="--jobs 1")
    options_of(request)
    tasks = list_tasks(request)
    jobs = min(pool.jobs or os.cpu_count() or 1, len(tasks))
    each = _share(request, pool, jobs)
    tell(f"{len(tasks)} probes, {jobs} at once with {each.threads} threads each")
    found: dict[Task, Outcome] = {}
    with _backend(pool, jobs):
        runs = Parallel(return_as="generator_unordered")(
            delayed(run_task)(each, task) for task in tasks
        )
        for outcome in runs:
            found[outcome.task] = outcome
            tell(f"  [{len(found)}/{len(tasks)}] {_line(outcome)}")
    return tuple(found[task] for task in tasks)


def run_task(request: ProbeRequest, task: Task) -> Outcome:
    """Answer one task; a failure, expected or a bug, becomes part of the outcome."""
    one = replace(request, model=task.encoder_id, data=(task.dataset_id,))
    try:
        (answer,) = probe_datasets(one, lambda line: None)
    except LinprobeError as error:
        return _failed(task, f"{error.message} ({error.hint})")
    except Exception as error:
        return _failed(task, f"{type(error).__name__}: {error}")
    headline = answer.result.headline
    folder = str(answer.folder)
    return Outcome(task, folder, answer.fresh, headline.name, headline.value, answer.result.C, None)


def _failed(task: Task, problem: str) -> Outcome:
    return Outcome(task, None, False, "", None, None, problem)


def _share(request: ProbeRequest, pool: Pool, jobs: int) -> ProbeRequest:
    """The request of one process, with its share of this machine; a cluster's are not ours."""
    here = replace(request, store=request.store.resolve(), out=request.out.resolve())
    if pool.backend == CLUSTER:
        return replace(here, threads=request.threads or 1)
    whole = available_bytes() if request.memory is None else parse_bytes(request.memory)
    threads = request.threads or max(1, (os.cpu_count() or 1) // jobs)
    return replace(here, threads=threads, memory=f"{max(whole // jobs, 1)}B")


@contextmanager
def _backend(pool: Pool, jobs: int) -> Iterator[None]:
    try:
        cluster = _cluster(pool)
        chosen = parallel_config(pool.backend, n_jobs=jobs)
    except (ValueError, ImportError) as error:
        raise OptionError(
            f"joblib has no backend {pool.backend!r} here ({error})",
            hint="--joblib-backend loky; for dask, pip install 'linprobe[cluster]'",
        ) from error
    with cluster, chosen:
        yield


def _cluster(pool: Pool) -> AbstractContextManager[object]:
    """A connection for Dask: to ``DASK_SCHEDULER_ADDRESS``, or to workers on this machine."""
    if pool.backend != CLUSTER:
        return nullcontext()
    from distributed import Client, default_client

    try:
        return nullcontext(default_client())  # type: ignore[no-untyped-call]  # partly typed
    except ValueError:
        client: AbstractContextManager[object] = Client()  # type: ignore[no-untyped-call]
        return client


def _line(outcome: Outcome) -> str:
    name = f"{outcome.task.encoder} on {outcome.task.dataset}"
    if outcome.value is None:
        return f"failed: {name}: {outcome.problem}"
    state = "" if outcome.fresh else " (was there)"
    return f"{name}: {title_of(outcome.metric)} {100 * outcome.value:.2f} %{state}"


def summary(outcomes: tuple[Outcome, ...]) -> str:
    """A table, then counts."""
    rows = [
        (
            one.task.encoder,
            one.task.dataset,
            title_of(one.metric) if one.metric else "-",
            "-" if one.value is None else f"{100 * one.value:.2f} %",
            "-" if one.C is None else f"{one.C:.4g}",
            "failed" if one.problem else "done" if one.fresh else "was there",
        )
        for one in outcomes
    ]
    table = text_table(("encoder", "dataset", "metric", "value", "C", "state"), rows, "<<<>><")
    failed = [_line(one) for one in outcomes if one.problem]
    fresh = sum(one.fresh for one in outcomes)
    there = len(outcomes) - fresh - len(failed)
    counts = f"{fresh} probed, {there} were there, {len(failed)} failed"
    return "\n".join([table, *failed, counts])


def check_outcomes(outcomes: tuple[Outcome, ...]) -> None:
    """Make a failed task the failure of the command, after everything has been told.

    Raises
    ------
    ProbeError : a task failed.
    """
    failed = sum(one.problem is not None for one in outcomes)
    if failed:
        raise ProbeError(
            f"{failed} of {len(outcomes)} probes failed",
            hint="mend what is told above and run it again: only these are made again",
        )
