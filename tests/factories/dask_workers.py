"""Dask workers with faults, for tests of what a driver does about them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

Client: TypeAlias = Any
"""Of distributed, which has no types."""

SERVE = """
import os, sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        dashboard_address="127.0.0.1:0",
    )
    print(cluster.scheduler_address, flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)
"""
"""A scheduler with a worker in one process, which can be killed or stopped."""


@contextmanager
def scheduler_process() -> Iterator[tuple[str, int]]:
    """Address and process id of a scheduler; it is killed at the end."""
    words = [sys.executable, "-W", "ignore", "-c", SERVE]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            os.kill(process.pid, signal.SIGKILL)


def hide(client: Client, worker: str, folder: Path) -> None:
    """Take a folder from a worker, as if its disk were not there; ``unhide`` gives it back."""

    def take(prefix: str) -> None:
        import sys

        def refuse(event: str, arguments: tuple[object, ...]) -> None:
            hidden = getattr(sys, "hidden_folder", None) or "\0"
            if event in ("open", "os.mkdir", "os.listdir", "os.scandir"):
                path = str(arguments[0])
                if path.startswith(hidden):
                    raise FileNotFoundError(2, "No such file or directory", path)

        if not hasattr(sys, "hidden_folder"):
            sys.addaudithook(refuse)  # for ever: hence the attribute
        sys.hidden_folder = prefix  # type: ignore[attr-defined]

    client.run(take, str(folder), workers=[worker])


def unhide(client: Client) -> None:
    """Give all workers what was taken from them."""

    def give() -> None:
        import sys

        if hasattr(sys, "hidden_folder"):
            sys.hidden_folder = None

    client.run(give)


def faulty_probe() -> object:
    """A worker plugin, for restarted workers too, by which probes of some encoders fail.

    That of ``killer`` kills its worker; that of ``ghost`` announces a result that is not there.
    """
    from distributed import WorkerPlugin

    class Faults(WorkerPlugin):  # type: ignore[misc]  # has no types
        name = "faults"

        def setup(self, worker: object) -> None:
            import os
            import shutil

            import linprobe_train.tasks.grid

            grid: Any = linprobe_train.tasks.grid
            probe = grid.probe

            def faulty(splits, *rest):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN202
                model = splits.encoder.names.model
                if model == "killer":
                    os.kill(os.getpid(), 9)
                answer = probe(splits, *rest)
                if model == "ghost":
                    shutil.rmtree(answer.folder)
                return answer

            grid.probe = faulty

    return Faults()
