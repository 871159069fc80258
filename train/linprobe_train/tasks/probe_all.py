"""One probe for every encoder and dataset of a store; what fails stops no other.

Processes times threads stay within the cores, and the processes share the memory limit.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from linprobe.errors import LinprobeError, OptionError, ProbeError
from linprobe.machine import available_cores, thread_count
from linprobe.terminal import Progress, Watch, command, ignore
from linprobe_store.handles.lookup import is_meant
from linprobe_store.handles.newest import newest
from linprobe_store.handles.store import FeatureStore
from linprobe_train.protocol.splits import open_splits
from linprobe_train.solver.memory import available_bytes
from linprobe_train.tasks.probe import Recipe, probe

CLUSTER = "dask"
"""The backend whose workers may be on other machines."""


@dataclass(frozen=True)
class Pool:
    """Where tasks run."""

    jobs: int | None = None
    """Most tasks at once; None for one a core of this machine."""
    backend: str = "loky"
    """Name of a joblib backend: ``loky`` (processes), ``threading``, ``dask``, ..."""
    threads: int | None = None
    """Threads of a task; None shares the cores out."""
    memory_bytes: int | None = None
    """Most memory of all tasks together; None for half of the machine's."""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise OptionError(f"--jobs {self.jobs}; expected at least 1", hint="--jobs 1")


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
    """Name of the result's metric; "" when it failed."""
    value: float | None
    """The metric, a share in [0, 1] unless its unit is another."""
    C: float | None
    """Of the final fit."""
    problem: str | None
    """What went wrong."""
    damage: str = ""
    """What was wrong with the stored result that this one replaced; "" where there was none."""

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.problem:
            return "failed"
        return "made again" if self.damage else "done" if self.fresh else "was there"


def list_tasks(
    store: Path, model: str | None, data: tuple[str, ...], watch: Watch = ignore
) -> tuple[Task, ...]:
    """All encoders and datasets of a store, or those that are named; none is a ``ProbeError``.

    Of datasets of one name it is the newest, and others where their ids are given. ``watch`` sees a
    line for every such name, and for all that cannot be opened.
    """
    encoders = FeatureStore(store).listing()
    encoders.tell(watch)
    tasks: list[Task] = []
    for encoder in encoders.sound:
        name, of_encoder = encoder.names.model, (encoder.names.slug, encoder.path.name)
        if model is not None and not is_meant(model, encoder.encoder_id, name, *of_encoder):
            continue
        datasets = encoder.listing()
        datasets.tell(watch)
        named = [d for d in datasets.sound if not data or d.name in data]
        meant = [dataset.path for dataset in newest(named, watch)]
        tasks += (
            Task(encoder.encoder_id, name, d.dataset_id, d.name)
            for d in datasets.sound
            if d.path in meant or any(is_meant(q, d.dataset_id, d.path.name) for q in data)
        )
    if not tasks:
        raise ProbeError(f"{store} has nothing to probe", hint=f"fill it: {command('extract')}")
    return tuple(tasks)


def probe_all(
    store: Path, tasks: Sequence[Task], recipe: Recipe, out: Path, pool: Pool, watch: Watch = ignore
) -> tuple[Outcome, ...]:
    """Probe every task; outcomes in their order. ``OptionError``: the backend is not there."""
    from joblib import Parallel, delayed, parallel_config  # for --all alone

    jobs = min(pool.jobs or available_cores(), len(tasks))
    if pool.backend == CLUSTER:  # its machines are not this one: nothing is shared out
        threads = 1 if pool.threads is None else thread_count(pool.threads)
        memory = pool.memory_bytes
    else:
        # -1, all cores, are shared out as where no number is given.
        shared = pool.threads is None or pool.threads < 0
        threads = max(1, available_cores() // jobs) if shared else thread_count(pool.threads)
        memory = max((pool.memory_bytes or available_bytes()) // jobs, 1)
    settings = replace(recipe.settings, threads=threads, memory_bytes=memory)
    each, store, out = replace(recipe, settings=settings), store.resolve(), out.resolve()
    line = f"{len(tasks)} probes, {jobs} at once with {threads} threads each"
    watch(Progress(0, len(tasks), "probes", line=line))
    outcomes: dict[Task, Outcome] = {}
    try:
        cluster = _cluster() if pool.backend == CLUSTER else nullcontext()
        backend = parallel_config(pool.backend, n_jobs=jobs)
    except (ValueError, ImportError) as error:
        raise OptionError(
            f"joblib has no backend {pool.backend!r} here ({error})",
            hint="--joblib-backend loky; for dask, pip install 'linprobe[cluster]'",
        ) from error
    with cluster, backend:
        runs = Parallel(return_as="generator_unordered")(
            delayed(run_task)(store, task, each, out) for task in tasks
        )
        for outcome in runs:
            outcomes[outcome.task] = outcome
            line = f"  [{len(outcomes)}/{len(tasks)}] {outcome.task.encoder} on "
            line += f"{outcome.task.dataset}: {outcome.state}"
            watch(Progress(len(outcomes), len(tasks), "probes", line=line))
    return tuple(outcomes[task] for task in tasks)


def run_task(store: Path, task: Task, recipe: Recipe, out: Path) -> Outcome:
    """Answer one task; a failure, expected or a bug, becomes part of the outcome."""
    try:
        encoder = FeatureStore(store).encoder(task.encoder_id)
        answer = probe(open_splits(encoder, task.dataset_id, recipe.protocol.tap), recipe, out)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        if isinstance(error, LinprobeError):
            problem = f"{error.message} ({error.hint})"
        return Outcome(task, None, False, "", None, None, problem)
    score, C = answer.result.headline, answer.result.C
    folder = str(answer.folder)
    return Outcome(task, folder, answer.fresh, score.name, score.value, C, None, answer.damage)


def _cluster() -> AbstractContextManager[object]:
    """A connection for Dask: to ``DASK_SCHEDULER_ADDRESS``, or to workers on this machine."""
    from distributed import Client, default_client

    try:
        return nullcontext(default_client())  # type: ignore[no-untyped-call]  # partly typed
    except ValueError:
        client: AbstractContextManager[object] = Client()  # type: ignore[no-untyped-call]
        return client


def check_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Make a failed task the failure of the command (``ProbeError``), once all is printed."""
    failed = sum(outcome.problem is not None for outcome in outcomes)
    if failed:
        raise ProbeError(
            f"{failed} of {len(outcomes)} probes failed",
            hint="mend what is listed above and run it again: only these are made again",
        )
