"""One probe for every encoder and dataset of a store; what fails stops no other.

Here, processes times threads stay within the cores, and the processes share the memory limit. On
Dask workers a task takes a thread of one, and its share of that worker's memory.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

from linprobe.errors import LinprobeError, OptionError, ProbeError
from linprobe.machine import available_cores, thread_count
from linprobe.names import short_id
from linprobe.terminal import Progress, Watch, command, ignore
from linprobe_train.cluster.connect import connected
from linprobe_train.cluster.dispatch import Dispatch, Ended, Work
from linprobe_train.cluster.members import SEEN_SECONDS, Members
from linprobe_train.cluster.preflight import Member, site_of
from linprobe_train.results.answers import read_result
from linprobe_train.solver.memory import available_bytes
from linprobe_train.tasks.grid import Outcome, Task, failed, run_task
from linprobe_train.tasks.probe import Recipe


@dataclass(frozen=True)
class Pool:
    """Where tasks run."""

    jobs: int | None = None
    """Most tasks at once; None for one a core of this machine, or a thread of the workers."""
    workers: str | None = None
    """Dask workers, as :func:`connected` takes them; None for processes of this machine."""
    threads: int | None = None
    """Threads of a task; None shares the cores out, and is one on workers."""
    memory_bytes: int | None = None
    """Most memory of all tasks here, or of each worker; None for half of what there is."""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise OptionError(f"--jobs {self.jobs}; expected at least 1", hint="--jobs 1")

    def threads_on(self, worker: Member) -> int:
        """Threads of a task on a worker: -1 are all that it has."""
        threads = 1 if self.threads is None else self.threads
        return threads if threads > 0 else max(1, worker.threads + 1 + threads)

    def slots_on(self, worker: Member) -> int:
        """Tasks that a worker takes at a time."""
        return max(1, worker.threads // self.threads_on(worker))

    def memory_on(self, worker: Member) -> int:
        """Bytes that a task may use on a worker."""
        allowed = min(worker.memory_bytes, self.memory_bytes or worker.memory_bytes)
        return max(1, allowed // self.slots_on(worker))


def probe_all(
    store: Path, tasks: Sequence[Task], recipe: Recipe, out: Path, pool: Pool, watch: Watch = ignore
) -> tuple[Outcome, ...]:
    """Probe every task; outcomes in their order.

    ``OptionError``: no scheduler answers. ``ProbeError``: it is lost, no worker is fit for work, or
    a process of this machine was killed; what is done is kept.
    """
    run = _on_cores if pool.workers is None else _on_workers
    outcomes: dict[Task, Outcome] = {}
    for outcome in run(store.resolve(), tasks, recipe, out.resolve(), pool, watch):
        outcomes[outcome.task] = outcome
        line = f"  [{len(outcomes)}/{len(tasks)}] {outcome.task.encoder} on "
        line += f"{outcome.task.dataset}: {outcome.state}"
        line += f" ({outcome.host})" if outcome.host else ""
        watch(Progress(len(outcomes), len(tasks), "probes", line=line))
    return tuple(outcomes[task] for task in tasks)


def _on_cores(
    store: Path, tasks: Sequence[Task], recipe: Recipe, out: Path, pool: Pool, watch: Watch
) -> Iterator[Outcome]:
    from joblib import Parallel, delayed  # for --all alone

    jobs = min(pool.jobs or available_cores(), len(tasks))
    # -1, all cores, are shared out as where no number is given.
    shared = pool.threads is None or pool.threads < 0
    threads = max(1, available_cores() // jobs) if shared else thread_count(pool.threads)
    memory = max((pool.memory_bytes or available_bytes()) // jobs, 1)
    each = replace(recipe, settings=replace(recipe.settings, threads=threads, memory_bytes=memory))
    line = f"{len(tasks)} probes, {jobs} at once with {threads} threads each"
    watch(Progress(0, len(tasks), "probes", line=line))
    try:
        yield from Parallel(jobs, return_as="generator_unordered")(
            delayed(run_task)(store, task, each, out) for task in tasks
        )
    except BrokenProcessPool as error:
        raise ProbeError(
            f"a process that probed was killed ({str(error).splitlines()[0]})",
            hint="it may have run out of memory: try fewer --jobs, or less --memory; what is done "
            "is kept. With --workers N such a probe fails alone",
        ) from error


def _on_workers(
    store: Path, tasks: Sequence[Task], recipe: Recipe, out: Path, pool: Pool, watch: Watch
) -> Iterator[Outcome]:
    def arguments(task: Task, worker: Member) -> tuple[object, ...]:
        settings = replace(
            recipe.settings,
            threads=pool.threads_on(worker),
            memory_bytes=pool.memory_on(worker),
        )
        return store, task, replace(recipe, settings=settings), out

    def is_sound(outcome: Outcome) -> bool:
        return outcome.problem is None and _missing(outcome) is None

    work = Work(run_task, arguments, pool.slots_on, is_sound)
    assert pool.workers is not None
    with connected(pool.workers) as client, site_of(store, out) as site:
        at_once = f"{pool.jobs} at once" if pool.jobs else "one a thread"
        line = f"{len(tasks)} probes, {at_once}, on the workers of {client.scheduler.address}"
        watch(Progress(0, len(tasks), "probes", line=line))
        members = Members(client, site, watch)
        for ended in Dispatch(client, members, work, pool.jobs).run(tasks):
            yield _outcome_of(ended, store, out)


def _outcome_of(ended: Ended[Task, Outcome], store: Path, out: Path) -> Outcome:
    """What a worker says of a task, once it is seen here too."""
    task, outcome, hosts = ended.job, ended.result, ", ".join(ended.hosts)
    if outcome is None:
        which = {"model": short_id(task.encoder_id), "data": short_id(task.dataset_id)}
        alone = command("probe", store=store, **which, out=out)
        hint = f"the log of the worker says why, such as its memory limit; alone here: {alone}"
        return failed(task, f"{ended.problem} ({hint})", hosts)
    if missing := _missing(outcome):
        return failed(task, missing, hosts)
    return replace(outcome, host=hosts)


def _missing(outcome: Outcome) -> str | None:
    """Why a result is not to be read here, where one was announced; None where all is well."""
    if outcome.folder is None:
        return None
    folder, until = Path(outcome.folder), time.monotonic() + SEEN_SECONDS
    while True:
        try:
            if read_result(folder) is not None:
                return None
            problem = f"{folder} is not there (let all workers share the folder of results)"
        except LinprobeError as error:
            problem = f"{error.message} ({error.hint})"
        if time.monotonic() > until:
            return problem
        time.sleep(0.05)
